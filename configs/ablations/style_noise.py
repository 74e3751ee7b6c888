"""SimCLR and SupCon with noise on the styles of images: does it help on drawing styles that were never seen?

Command:   python -m xsample_jax.tools.sweep --grid=configs/ablations/style_noise.py \\
               --out=runs/style_noise --run --jobs=2
Variants:  :short (80 steps of 128 images: what docs/notes/style_noise.md rests on); :smoke (5 small steps a run, one
           seed)
Runs:      18 of 2 (none), 3 (dsu) and 8 minutes (adversarial) on 2 CPU cores (not measured)

The test split of the emoji has concepts and drawing styles that training does not see, and every run ends with its
evaluation on them: style/STYLE/group/probe and retrieval/STYLE_to_noto (docs/evaluation.md).
"""

import pathlib

from xsample_jax.config import parse_variants
from xsample_jax.sweeps.grid import grid

CONFIGS = pathlib.Path(__file__).parent.parent
SEEDS = (0, 1, 2)
KINDS = (None, "dsu", "adversarial")


def get_grid(arg=""):
    chosen, small = parse_variants(arg, ("short",))
    bases = {tag: f"{CONFIGS}/quickstart.py:{tag}" + (",smoke" if small else "") for tag in ("simclr", "supcon")}
    kinds = [(kind, "test") for kind in KINDS]
    axes = {"seed": SEEDS[:1] if small else SEEDS, ("model.style_noise.kind", "eval.split"): kinds}
    if chosen == "short":
        axes |= {("steps", "batch_size", "eval.baselines"): [(80, 128, ())]}
    return grid(bases, axes)
