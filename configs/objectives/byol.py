"""BYOL, arXiv 2006.07733, eq. 2

Loss:      2 - 2 cos(predicted view, EMA encoder's other view), both ways
Command:   python -m xsample_jax.main --config=configs/objectives/byol.py \\
               --workdir=runs/objectives/byol
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
    config.name = "byol"
    config.objective.preset = "byol"
    return smoke(config) if small else config
