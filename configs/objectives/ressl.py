"""ReSSL, arXiv 2107.09282, eq. 4

Loss:      T = softmax over the queue of the EMA encoder's similarities / 0.04, of another view; tau 0.1
Command:   python -m xsample_jax.main --config=configs/objectives/ressl.py \\
               --workdir=runs/objectives/ressl
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
    config.name = "ressl"
    config.objective.preset = "ressl"
    return smoke(config) if small else config
