"""Which factors survive: objectives, captions that name some, augmentation that erases color, on known images.

Command:   python -m xsample_jax.tools.prepare --source=shapes --out=data/shapes
           python -m xsample_jax.tools.sweep --grid=configs/ablations/shapes.py --out=runs/shapes --run --jobs=2
           python -m xsample_jax.tools.report runs/shapes/*,seed=* --out=runs/shapes/report.html
Variants:  :smoke (5 small steps a run, one seed)
Runs:      27 of about 5 minutes on 2 CPU cores
"""

import pathlib

from xsample_jax.config import parse_variants
from xsample_jax.sweeps.grid import grid

CONFIGS = pathlib.Path(__file__).parent.parent
SEEDS = (0, 1, 2)
RUNS = (
    "xclr", "simclr", "supcon", "clip_frozen_text", "xclr,object", "xclr,shape", "xclr,ground", "xclr,erase_color",
    "simclr,erase_color",
)  # fmt: skip


def get_grid(arg=""):
    _, small = parse_variants(arg)
    bases = {words.replace(",", "-"): f"{CONFIGS}/shapes.py:{words}" + (",smoke" if small else "") for words in RUNS}
    return grid(bases, {"seed": SEEDS[:1] if small else SEEDS})
