"""Data efficiency: do images that a generator learns to make help an encoder that has few real ones?

Command:   python -m xsample_jax.tools.prepare --source=shapes --out=data/shapes     (once: 30 seconds)
           python -m xsample_jax.tools.sweep --grid=configs/studies/learned_data.py --out=runs/learned_data \\
               --run --jobs=2
           python -m scripts.learned_data_page --runs=runs/learned_data --out=docs/notes/learned_data.md
Variants:  :emoji, :shapes (one set only); :short (60 steps of 64 images: what docs/notes/learned_data.md rests on);
           :smoke (5 small steps a run, emoji, one seed); two as ":emoji,short"
Runs:      72 of about 2 minutes (plain) and more on 2 CPU cores, those with a generator not measured at this length

SimCLR on 10, 30 and 100 % of the training images of two sets, for the same number of steps: plain; augmented (a quarter
of the images through the augmentation of the discriminator, the control for it); hard; pair. Three seeds. All methods
of one seed and one share of the images come before the next, so a study that is stopped early has compared them. The
networks of the generators have half of the default width.
"""

import pathlib

from xsample_jax.config import parse_variant_groups
from xsample_jax.sweeps.grid import grid

CONFIGS = pathlib.Path(__file__).parent.parent
BASES = {"emoji": f"{CONFIGS}/quickstart.py:simclr", "shapes": f"{CONFIGS}/shapes.py:simclr"}
SEEDS, FRACTIONS = range(3), (0.1, 0.3, 1.0)
METHODS = ("plain", "augmented", "hard", "pair")


def get_grid(arg=""):
    (chosen, short), small = parse_variant_groups(arg, (tuple(BASES), ("short",)))
    if small:
        bases = {"emoji": BASES["emoji"] + ",smoke"}
    else:
        bases = {name: config for name, config in BASES.items() if chosen in (None, name)}
    kinds = [(None if method == "plain" else method, 16) for method in METHODS]
    axes = {
        "seed": SEEDS[:1] if small else SEEDS,
        "data.fraction": FRACTIONS,
        ("objective.generator.kind", "objective.generator.width"): kinds,
    }
    if short:
        axes |= {("steps", "batch_size", "eval.baselines"): [(60, 64, ())]}
    return grid(bases, axes)
