"""Rank-N-Contrast, arXiv 2210.01189, eq. 3, with caption cosines for label distances

Loss:      every key against itself and those less similar to the anchor by caption
Command:   python -m xsample_jax.main --config=configs/objectives/rank_n_contrast.py \\
               --workdir=runs/objectives/rank_n_contrast
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
    config.name = "rank_n_contrast"
    config.objective.preset = "rank_n_contrast"
    return smoke(config) if small else config
