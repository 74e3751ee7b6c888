"""MoCo v3, arXiv 2104.02057, alg. 1

Loss:      2 tau InfoNCE of predicted views against the EMA encoder's other views of the batch; tau 0.2
Command:   python -m xsample_jax.main --config=configs/objectives/moco_v3.py \\
               --workdir=runs/objectives/moco_v3
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
    config.name = "moco_v3"
    config.objective.preset = "moco_v3"
    return smoke(config) if small else config
