"""closing the contrastive gap, arXiv 2405.18570, eqs. 3-5

Loss:      CLIP + uniformity of both sides and between them + alignment
Command:   python -m xsample_jax.main --config=configs/objectives/clip_uniform.py \\
               --workdir=runs/objectives/clip_uniform
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
    config.name = "clip_uniform"
    config.objective.preset = "clip_uniform"
    return smoke(config) if small else config
