"""VICReg, arXiv 2105.04906, eq. 6

Loss:      25 |z - z'|^2 / D + 25 hinge(1 - std) + covariance, z of length sqrt(D)
Command:   python -m xsample_jax.main --config=configs/objectives/vicreg.py \\
               --workdir=runs/objectives/vicreg
Variants:  :smoke (5 small steps, seconds)
Hardware:  2 CPU cores; any accelerator.
Hours:     not measured; that of configs/quickstart.py
Expected:  not measured; the same encoder, data, augmentation and steps as configs/quickstart.py
"""

import pathlib

from xsample_jax.config import parse_variants, read_config_file, smoke

QUICKSTART = pathlib.Path(__file__).parent.parent / "quickstart.py"


def get_config(arg=""):
    _, small = parse_variants(arg)
    config = read_config_file(QUICKSTART)
    config.name = "vicreg"
    config.objective.preset = "vicreg"
    return smoke(config) if small else config
