"""All objectives that the emoji can feed, at equal steps: what does each make of the same images and encoder?

Command:   python -m xsample_jax.tools.sweep --grid=configs/studies/objectives.py --out=runs/objectives --run --jobs=2
           python -m xsample_jax.tools.results_page --grid=configs/studies/objectives.py --runs=runs/objectives \\
               --out=docs/notes/objectives.md
Variants:  :short (80 steps of 256 images, four tasks of 20); :smoke (5 small steps a run, one seed)
Runs:      two seeds of each; about 2 minutes a run on 2 CPU cores for the cheap ones, the others not measured

Data, encoder, augmentation, optimizer and steps are those of configs/quickstart.py for every objective; the weights,
temperatures and widths are those of the preset, none of which was tuned for the emoji. Objectives that compare three
views of an image see three and so cost more per step. All objectives of one seed come before the next seed, so a study
that is stopped early has compared them. Left out is what needs files or a finished run: sbcl, weighted_draws, seed,
norm_direction, distill_clip.
"""

import pathlib

from xsample_jax.config import parse_variants
from xsample_jax.objectives.presets import PRESETS
from xsample_jax.sweeps.grid import grid

BASE = pathlib.Path(__file__).parent.parent / "objective.py"
SEEDS = range(2)
FROM_FILES = {"class_temperature", "weight"}  # entries of data.side that no attribute gives


def get_grid(arg=""):
    chosen, small = parse_variants(arg, ("short",))
    names = [name for name, preset in PRESETS.items() if not preset.objective.frozen]
    names = [name for name in names if not PRESETS[name].objective.requires & FROM_FILES]
    axes = {"seed": SEEDS[:1] if small else SEEDS}
    if chosen == "short":
        axes |= {("steps", "data.tasks.steps", "eval.baselines"): [(80, 20, ())]}
    bases = {name: f"{BASE}:{name}" + ",smoke" * small for name in names}
    points = grid(bases, axes)
    return sorted(points, key=lambda point: point.values["seed"])
