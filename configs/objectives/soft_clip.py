"""second phase of M3CoL, arXiv 2409.17777

Loss:      T = softmax(t_i.t_k / 0.125) of the text tower's own embeddings, both directions
Command:   python -m xsample_jax.main --config=configs/objectives/soft_clip.py \\
               --workdir=runs/objectives/soft_clip
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
    config.name = "soft_clip"
    config.objective.preset = "soft_clip"
    return smoke(config) if small else config
