"""UniCL, arXiv 2204.03610, eqs. 2, 3

Loss:      CLIP with T uniform over the texts of the same class
Command:   python -m xsample_jax.main --config=configs/objectives/unicl.py \\
               --workdir=runs/objectives/unicl
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
    config.name = "unicl"
    config.objective.preset = "unicl"
    return smoke(config) if small else config
