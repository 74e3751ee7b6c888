"""MoCo v2, arXiv 1911.05722 and 2003.04297

Loss:      InfoNCE of each view against the EMA encoder's other view and a queue; tau 0.2
Command:   python -m xsample_jax.main --config=configs/objectives/moco.py \\
               --workdir=runs/objectives/moco
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
    config.name = "moco"
    config.objective.preset = "moco"
    return smoke(config) if small else config
