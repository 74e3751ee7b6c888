"""focal reweighting of KaLM-Embedding-V2, arXiv 2506.20923

Loss:      (1 - p_i)^0.5 times NT-Xent, p_i the probability of the positive
Command:   python -m xsample_jax.main --config=configs/objectives/focal.py \\
               --workdir=runs/objectives/focal
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
    config.name = "focal"
    config.objective.preset = "focal"
    return smoke(config) if small else config
