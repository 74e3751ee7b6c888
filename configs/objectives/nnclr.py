"""NNCLR, arXiv 2104.14548, eq. 3

Loss:      InfoNCE of the nearest queue entry of each view against the predicted other views of the batch; tau 0.1
Command:   python -m xsample_jax.main --config=configs/objectives/nnclr.py \\
               --workdir=runs/objectives/nnclr
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
    config.name = "nnclr"
    config.objective.preset = "nnclr"
    return smoke(config) if small else config
