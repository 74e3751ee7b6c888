"""Barlow Twins, arXiv 2103.03230, eq. 1

Loss:      sum (C_dd - 1)^2 + 0.005 sum off-diagonal C_de^2, C the cross-correlation of two views
Command:   python -m xsample_jax.main --config=configs/objectives/barlow_twins.py \\
               --workdir=runs/objectives/barlow_twins
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
    config.name = "barlow_twins"
    config.objective.preset = "barlow_twins"
    return smoke(config) if small else config
