"""ALIGN, arXiv 2102.05918, section 4.2

Loss:      CLIP with label smoothing 0.1: T = 0.9 on the own pair + 0.1 / B
Command:   python -m xsample_jax.main --config=configs/objectives/align.py \\
               --workdir=runs/objectives/align
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
    config.name = "align"
    config.objective.preset = "align"
    return smoke(config) if small else config
