"""What wrong captions do: X-CLR, and CLIP with a frozen text side.

Command:   python -m xsample_jax.tools.sweep --grid=configs/ablations/caption_noise.py \\
               --out=runs/caption_noise --run --jobs=2
Variants:  :smoke (5 small steps a run, one seed)
Runs:      30 of about 2 minutes on 2 CPU cores

A share of the training images has the captions of another image. At 1 nothing true is left: that is the level of a
random graph.
"""

import pathlib

from xsample_jax.config import parse_variants
from xsample_jax.sweeps.grid import grid

CONFIGS = pathlib.Path(__file__).parent.parent
SEEDS = (0, 1, 2)
NOISE = (0.0, 0.1, 0.3, 0.5, 1.0)


def get_grid(arg=""):
    _, small = parse_variants(arg)
    tags = ("xclr", "clip_frozen_text")
    bases = {tag: f"{CONFIGS}/quickstart.py:{tag}" + (",smoke" if small else "") for tag in tags}
    seeds = SEEDS[:1] if small else SEEDS
    return grid(bases, {"data.caption_noise": NOISE, "seed": seeds})
