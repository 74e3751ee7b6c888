"""tau_s of the target against tau of the student, for X-CLR.

Command:   python -m xsample_jax.tools.sweep --grid=configs/ablations/temperature.py \\
               --out=runs/temperature --run --jobs=2
Variants:  :smoke (5 small steps a run, one seed)
Runs:      45 of about 2 minutes on 2 CPU cores

0.1 and 0.1 are what implementations of the paper use; its own ablation could not be read. At tau_s -> 0 the target is
SimCLR's wherever a caption is unique; at a large tau_s it is uniform and says nothing.
"""

import pathlib

from xsample_jax.config import parse_variants
from xsample_jax.sweeps.grid import grid

CONFIGS = pathlib.Path(__file__).parent.parent
SEEDS = (0, 1, 2)
TARGET, STUDENT = (0.02, 0.05, 0.1, 0.2, 0.5), (0.05, 0.1, 0.2)


def get_grid(arg=""):
    _, small = parse_variants(arg)
    base = f"{CONFIGS}/quickstart.py" + (":smoke" if small else "")
    seeds = SEEDS[:1] if small else SEEDS
    axes = {"objective.target_temperature": TARGET, "objective.temperature": STUDENT, "seed": seeds}
    return grid(base, axes)
