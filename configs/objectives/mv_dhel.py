"""MV-DHEL, arXiv 2507.06979

Loss:      as MV-InfoNCE, with one denominator per view over other images in the same view
Command:   python -m xsample_jax.main --config=configs/objectives/mv_dhel.py \\
               --workdir=runs/objectives/mv_dhel
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
    config.name = "mv_dhel"
    config.objective.preset = "mv_dhel"
    return smoke(config) if small else config
