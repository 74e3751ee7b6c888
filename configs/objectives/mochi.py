"""MoCHi, arXiv 2010.01028, eqs. 4, 5

Loss:      MoCo with synthetic negatives: mixtures of the hardest ones, and of them with the anchor; tau 0.2
Command:   python -m xsample_jax.main --config=configs/objectives/mochi.py \\
               --workdir=runs/objectives/mochi
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
    config.name = "mochi"
    config.objective.preset = "mochi"
    return smoke(config) if small else config
