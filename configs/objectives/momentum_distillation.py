"""ALBEF and TCL, arXiv 2107.07651, eq. 6

Loss:      image<->text, T = 0.6 own pair + 0.4 softmax of the EMA encoder's similarities; tau 0.07
Command:   python -m xsample_jax.main --config=configs/objectives/momentum_distillation.py \\
               --workdir=runs/objectives/momentum_distillation
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
    config.name = "momentum_distillation"
    config.objective.preset = "momentum_distillation"
    return smoke(config) if small else config
