"""Where the target graph of X-CLR comes from: captions, classes, a tree of classes, nothing at all.

Command:   python -m xsample_jax.tools.sweep --grid=configs/ablations/graph.py \\
               --out=runs/graph --run --jobs=2
Variants:  :smoke (5 small steps a run, one seed)
Runs:      18 of about 2 minutes on 2 CPU cores

`random` is the control: a soft graph that says nothing. `label` is the true class (an emoji concept), `identity` the
own views only. The loss, the softmax and both temperatures are those of X-CLR throughout.
"""

import pathlib

from xsample_jax.config import parse_variants
from xsample_jax.sweeps.grid import grid

CONFIGS = pathlib.Path(__file__).parent.parent
SEEDS = (0, 1, 2)
SOURCES = ("caption", "class_text", "hierarchy", "label", "identity", "random")


def get_grid(arg=""):
    _, small = parse_variants(arg)
    base = f"{CONFIGS}/quickstart.py" + (":smoke" if small else "")
    seeds = SEEDS[:1] if small else SEEDS
    return grid(base, {"objective.graph": SOURCES, "seed": seeds})
