"""Feature suppression (arXiv 2011.02803): priors by depth of the head, and competing features against captions.

Command:   python -m xsample_jax.tools.prepare --source=shapes --out=data/shapes
           for n in 4 16 64 256; do python -m xsample_jax.tools.prepare --source=digits_on_images --path=data/shapes \
               --digits=$n --canvas=48 --out=data/digits_on_shapes_$n; done
           for n in 20 40 80; do python -m xsample_jax.tools.prepare --source=multi_digits --digit_sizes=20,$n \
               --out=data/digits_20_$n; done
           python -m xsample_jax.tools.sweep --grid=configs/studies/feature_suppression.py --out=runs/suppression --run
           python -m scripts.feature_suppression --runs=runs/suppression
Variants:  :bits, :digits, :sizes, :heads (one part), :short (123 runs of all parts, smaller and shorter, fewer
           values of each knob: docs/notes/feature_suppression.md rests on them), both as ":heads,short"; :smoke (5
           small steps a run, one seed, on the embedded emoji)
Runs:      219 of the whole study

Parts: bits (k bits of a hash beside the image; an untrained encoder as control), digits (n different digits pasted on
it), sizes (a digit of 20 pixels beside one of N), heads (four priors and SimCLR, heads of 1 to 4 layers). Seeds are the
outermost loop: a sweep that is stopped early has something of every part.
"""

import pathlib

from xsample_jax.config import parse_variant_groups
from xsample_jax.sweeps.grid import grid

CONFIG = pathlib.Path(__file__).parent.parent / "suppression.py"
SEEDS = (0, 1, 2)
COMPARED = ("simclr", "supcon", "clip_frozen_text", "xclr")
PRIORS = (
    "simclr", "generalized_lse", "generalized_swd_sphere", "generalized_swd_cube", "generalized_swd_normal",
)  # fmt: skip
DEPTHS = tuple((256,) * hidden for hidden in range(4))  # layers before the last: heads of 1 to 4
PARTS = {
    "bits": ("bits", COMPARED, "augment.bits", (0, 4, 8, 12, 16)),
    "digits": ("digits", COMPARED, "data.path", tuple(f"data/digits_on_shapes_{n}" for n in (4, 16, 64, 256))),
    "sizes": ("sizes", COMPARED, "data.path", tuple(f"data/digits_20_{n}" for n in (20, 40, 80))),
    "heads": ("bits", PRIORS, "model.head.hidden", DEPTHS),
}
SHORT = {"bits": (0, 8, 16), "digits": PARTS["digits"][3][::3], "sizes": PARTS["sizes"][3][::2], "heads": DEPTHS[::3]}
SHORT_RUN = {"steps": (100,), "batch_size": (128,), "model.width": (8,), "eval.baselines": ((),)}
# The control of the bits: what an encoder keeps that has learned nothing (one step at a rate of nothing).
UNTRAINED = {"steps": (1,), "optimizer.learning_rate": (1e-12,)}
# In seconds: on the smallest splits of the embedded set, but with the probes of every run of the study.
SMOKE = {"data.path": None, "eval.suite": "shapes", "eval.train_split": "val", "eval.split": "val_styles"}


def get_grid(arg=""):
    (part, short), small = parse_variant_groups(arg, (tuple(PARTS), ("short",)))
    parts = {name: PARTS[name] for name in PARTS if part in (None, name)}
    points = []
    for seed in SEEDS[:1] if small else SEEDS:
        for name, (competing, objectives, key, values) in parts.items():
            tags = {f"{name}-{one}": f"{CONFIG}:{competing},{one}" + (",smoke" if small else "") for one in objectives}
            values = SHORT[name] if short else values
            axes = {key: values if not small or key != "data.path" else (None,)}
            if small:
                axes[key] = axes[key][-1:]
                axes |= {key: (value,) for key, value in SMOKE.items() if key not in axes}
            elif short:
                axes |= SHORT_RUN
            points += grid(tags, axes | {"seed": (seed,)})
            if name == "bits" and not small:
                untrained = {"bits-untrained": f"{CONFIG}:bits,simclr"}
                points += grid(untrained, axes | UNTRAINED | {"seed": (seed,)})
    return points
