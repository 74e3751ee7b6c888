"""All runs of docs/notes/results.md: objectives, and how tau_s, the graph, little data and noise change them.

Command:   make results
           python -m xsample_jax.tools.sweep --grid=configs/ablations/results.py --out=runs/results --run --jobs=2
Variants:  :smoke (5 small steps a run, one seed)
Runs:      123 of about 2 minutes on 2 CPU cores

A run without a change is the level that all changes of its objective are compared with, so it is trained once. The
objectives come first, then the changes, seed by seed: a sweep that is stopped early has something of everything.
"""

import pathlib

from xsample_jax.config import parse_variants
from xsample_jax.sweeps.grid import grid

OBJECTIVE = pathlib.Path(__file__).parent.parent / "objective.py"
COMPARED = ("xclr", "xclr_class_text", "simclr", "supcon", "clip", "clip_frozen_text", "cwcl", "siglip", "dcl")
SEEDS, SEEDS_OF_CHANGES = range(5), range(3)
CHANGES = (
    (("xclr",), "objective.target_temperature", (0.02, 0.05, 0.2, 0.5)),
    (("xclr",), "objective.graph", ("hierarchy", "label", "identity", "random")),
    (("xclr", "simclr", "supcon", "clip_frozen_text"), "data.samples_per_class", (1, 2)),
    (("xclr", "clip_frozen_text"), "data.caption_noise", (0.3, 0.6, 1.0)),
    (("supcon", "xclr_class_text"), "data.label_noise", (0.3, 0.8)),
)


def get_grid(arg=""):
    _, small = parse_variants(arg)

    def configs(names):
        return {name: f"{OBJECTIVE}:{name}" + (",smoke" if small else "") for name in names}

    points = [point for seed in SEEDS for point in grid(configs(COMPARED), {"seed": (seed,)})]
    for seed in SEEDS_OF_CHANGES:
        for names, key, values in CHANGES:
            points += grid(configs(names), {key: values, "seed": (seed,)})
    return [point for point in points if point.values["seed"] == 0] if small else points
