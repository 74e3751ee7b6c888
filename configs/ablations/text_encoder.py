"""Whose text embeddings the target graph is made of.

Command:   python -m xsample_jax.tools.sweep --grid=configs/ablations/text_encoder.py \\
               --out=runs/text_encoder --run --jobs=2
Variants:  :smoke (5 small steps a run, one seed)
Runs:      9 of about 2 minutes on 2 CPU cores

Each encoder has a copy of the emoji set with its embeddings, made once:

    cp -r xsample_jax/data/emoji data/emoji-mpnet
    python -m xsample_jax.tools.embed --data=data/emoji-mpnet --overwrite \\
        --model=sentence-transformers/all-mpnet-base-v2
    cp -r xsample_jax/data/emoji data/emoji-clip
    python -m xsample_jax.tools.embed --data=data/emoji-clip --overwrite \\
        --model=sentence-transformers/clip-ViT-B-32 --backend=torch
"""

import pathlib

from xsample_jax.config import parse_variants
from xsample_jax.sweeps.grid import grid

CONFIGS = pathlib.Path(__file__).parent.parent
SEEDS = (0, 1, 2)
SETS = (("emoji", None), ("emoji_folder", "data/emoji-mpnet"), ("emoji_folder", "data/emoji-clip"))


def get_grid(arg=""):
    _, small = parse_variants(arg)
    base = f"{CONFIGS}/quickstart.py" + (":smoke" if small else "")
    seeds = SEEDS[:1] if small else SEEDS
    sets = SETS[:1] if small else SETS
    return grid(base, {("data.source", "data.path"): sets, "seed": seeds})
