"""What wrong labels do: SupCon, which trusts them, and X-CLR on the texts of the classes.

Command:   python -m xsample_jax.tools.sweep --grid=configs/ablations/label_noise.py \\
               --out=runs/label_noise --run --jobs=2
Variants:  :smoke (5 small steps a run, one seed)
Runs:      30 of about 2 minutes on 2 CPU cores

Labels are wrong in training only; probes and their labels are clean. SimCLR, which reads none, is the level to beat.
"""

import pathlib

from xsample_jax.config import parse_variants
from xsample_jax.sweeps.grid import grid

CONFIGS = pathlib.Path(__file__).parent.parent
SEEDS = (0, 1, 2)
NOISE = (0.0, 0.1, 0.3, 0.5, 0.8)


def get_grid(arg=""):
    _, small = parse_variants(arg)
    end = ",smoke" if small else ""
    names = ("supcon", "xclr_class_text")
    bases = {name: f"{CONFIGS}/objective.py:{name}{end}" for name in names}
    seeds = SEEDS[:1] if small else SEEDS
    return grid(bases, {"data.label_noise": NOISE, "seed": seeds})
