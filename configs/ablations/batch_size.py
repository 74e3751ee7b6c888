"""X-CLR and SimCLR by batch size, all runs seeing the same number of images.

Command:   python -m xsample_jax.tools.sweep --grid=configs/ablations/batch_size.py \\
               --out=runs/batch_size --run --jobs=2
Variants:  :smoke (5 small steps a run, one seed)
Runs:      24 of about 2 minutes on 2 CPU cores

The target of X-CLR depends on the batch: the more captions there are, the more of its mass falls on other images.
"""

import pathlib

from xsample_jax.config import parse_variants
from xsample_jax.sweeps.grid import grid

CONFIGS = pathlib.Path(__file__).parent.parent
SEEDS = (0, 1, 2)
SIZES, IMAGES = (64, 128, 256, 512), 400 * 256


def get_grid(arg=""):
    _, small = parse_variants(arg)
    tags = ("xclr", "simclr")
    bases = {tag: f"{CONFIGS}/quickstart.py:{tag}" + (",smoke" if small else "") for tag in tags}
    seeds = SEEDS[:1] if small else SEEDS
    sizes = [(8, 5), (16, 5)] if small else [(size, IMAGES // size) for size in SIZES]
    return grid(bases, {("batch_size", "steps"): sizes, "seed": seeds})
