"""MW, arXiv 2510.00137, eq. 3

Loss:      sum over all negatives of the batch of softplus((s- - s+)/tau) / anchors; tau 0.05
Command:   python -m xsample_jax.main --config=configs/objectives/mw.py \\
               --workdir=runs/objectives/mw
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
    config.name = "mw"
    config.objective.preset = "mw"
    return smoke(config) if small else config
