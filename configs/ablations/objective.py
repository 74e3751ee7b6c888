"""X-CLR against its neighbors, everything equal but the objective.

Command:   python -m xsample_jax.tools.sweep --grid=configs/ablations/objective.py \\
               --out=runs/objective --run --jobs=2
Variants:  :smoke (5 small steps a run, one seed)
Runs:      40 of about 2 minutes on 2 CPU cores

Each objective has the temperature (and learning rate) of its own config. All objectives of one seed come before the
next seed, so a sweep that is stopped early has compared them all.
"""

import pathlib

from xsample_jax.config import parse_variants
from xsample_jax.sweeps.grid import grid

CONFIGS = pathlib.Path(__file__).parent.parent
SEEDS = range(5)
OBJECTIVES = ("xclr", "simclr", "supcon", "clip", "clip_frozen_text", "cwcl", "siglip", "dcl")


def get_grid(arg=""):
    _, small = parse_variants(arg)
    end = ",smoke" if small else ""
    bases = {name: f"{CONFIGS}/objective.py:{name}{end}" for name in OBJECTIVES}
    seeds = SEEDS[:1] if small else SEEDS
    return [point for seed in seeds for point in grid(bases, {"seed": (seed,)})]
