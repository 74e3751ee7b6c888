"""Wang and Liu, arXiv 2012.09740, section 5

Loss:      decoupled softmax over the 64 most similar negatives only
Command:   python -m xsample_jax.main --config=configs/objectives/hard_negatives.py \\
               --workdir=runs/objectives/hard_negatives
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
    config.name = "hard_negatives"
    config.objective.preset = "hard_negatives"
    return smoke(config) if small else config
