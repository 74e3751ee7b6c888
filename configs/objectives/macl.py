"""MACL, arXiv 2207.07874, eqs. 7, 9

Loss:      NT-Xent with tau = 0.1 (1 + 0.5 A), A the mean positive cosine; rows weighted by 1 / (1 - p_i)
Command:   python -m xsample_jax.main --config=configs/objectives/macl.py \\
               --workdir=runs/objectives/macl
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
    config.name = "macl"
    config.objective.preset = "macl"
    return smoke(config) if small else config
