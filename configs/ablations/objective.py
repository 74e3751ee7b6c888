"""X-CLR against its neighbours, everything equal but the objective.

Command:   python -m xsample_jax.tools.sweep --grid=configs/ablations/objective.py \\
               --out=runs/objective --run --jobs=2
Variants:  :smoke (5 small steps a run, one seed)
Runs:      24 of about 5 minutes on 2 CPU cores

Each objective has the temperature (and learning rate) of its own config.
"""

import pathlib

from xsample_jax.config import parse_variants
from xsample_jax.sweeps.grid import grid

CONFIGS = pathlib.Path(__file__).parent.parent
SEEDS = (0, 1, 2)
OBJECTIVES = ("xclr", "simclr", "supcon", "clip", "clip_frozen_text", "cwcl", "siglip", "dcl")


def get_grid(arg=""):
    _, small = parse_variants(arg)
    end = ":smoke" if small else ""
    bases = {name: f"{CONFIGS}/objectives/{name}.py{end}" for name in OBJECTIVES}
    seeds = SEEDS[:1] if small else SEEDS
    return grid(bases, {"seed": seeds})
