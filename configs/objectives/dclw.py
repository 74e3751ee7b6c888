"""DCLW, arXiv 2110.06848, eq. 7

Loss:      -w_i s(i, i+)/tau + log sum over other images; w_i = 2 - A softmax over anchors of s(i, i+)/0.5
Command:   python -m xsample_jax.main --config=configs/objectives/dclw.py \\
               --workdir=runs/objectives/dclw
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
    config.name = "dclw"
    config.objective.preset = "dclw"
    return smoke(config) if small else config
