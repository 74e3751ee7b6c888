"""DEXML, arXiv 2310.10636, eq. 5

Loss:      mean over i+ of -log e^{s(i, i+)/tau} / (e^{s(i, i+)/tau} + sum over negatives)
Command:   python -m xsample_jax.main --config=configs/objectives/decoupled_softmax.py \\
               --workdir=runs/objectives/decoupled_softmax
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
    config.name = "decoupled_softmax"
    config.objective.preset = "decoupled_softmax"
    return smoke(config) if small else config
