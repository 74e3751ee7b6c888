"""RINCE, arXiv 2201.04309, eq. 4

Loss:      -e^{q s+}/q + (lam (e^{s+} + sum of negatives))^q / q; q 0.5, lam 0.01, tau 0.5
Command:   python -m xsample_jax.main --config=configs/objectives/rince.py \\
               --workdir=runs/objectives/rince
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
    config.name = "rince"
    config.objective.preset = "rince"
    return smoke(config) if small else config
