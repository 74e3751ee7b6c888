"""GRAM, arXiv 2412.11959, eqs. 4, 6

Loss:      s = -volume spanned by (view 0, view 1, text), smoothing 0.1, both directions; tau learned from 0.07
Command:   python -m xsample_jax.main --config=configs/objectives/gram.py \\
               --workdir=runs/objectives/gram
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
    config.name = "gram"
    config.objective.preset = "gram"
    return smoke(config) if small else config
