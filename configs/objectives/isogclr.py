"""iSogCLR, arXiv 2305.11965, alg. 1

Loss:      SogCLR with a temperature per image that descends on its own robust objective; rho 6, tau from 0.07
Command:   python -m xsample_jax.main --config=configs/objectives/isogclr.py \\
               --workdir=runs/objectives/isogclr
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
    config.name = "isogclr"
    config.objective.preset = "isogclr"
    return smoke(config) if small else config
