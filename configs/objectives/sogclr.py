"""SogCLR, arXiv 2202.12387, alg. 1

Loss:      InfoNCE whose denominators are moving averages over the epochs (gamma 0.8), times tau; tau 0.1
Command:   python -m xsample_jax.main --config=configs/objectives/sogclr.py \\
               --workdir=runs/objectives/sogclr
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
    config.name = "sogclr"
    config.objective.preset = "sogclr"
    return smoke(config) if small else config
