"""Data efficiency: representations from a few images of every class.

Command:   python -m xsample_jax.tools.sweep --grid=configs/ablations/samples_per_class.py \\
               --out=runs/samples_per_class --run --jobs=2
Variants:  :smoke (5 small steps a run, one seed)
Runs:      48 of about 2 minutes on 2 CPU cores

Only the training of the encoder sees fewer images (a concept has at most 6 drawings); probes are fitted on the whole
training split. The number of steps is the same for all.
"""

import pathlib

from xsample_jax.config import parse_variants
from xsample_jax.sweeps.grid import grid

CONFIGS = pathlib.Path(__file__).parent.parent
SEEDS = (0, 1, 2)
COUNTS = (1, 2, 3, None)


def get_grid(arg=""):
    _, small = parse_variants(arg)
    tags = ("xclr", "simclr", "supcon", "clip_frozen_text")
    bases = {tag: f"{CONFIGS}/quickstart.py:{tag}" + (",smoke" if small else "") for tag in tags}
    seeds = SEEDS[:1] if small else SEEDS
    return grid(bases, {"data.samples_per_class": COUNTS, "seed": seeds})
