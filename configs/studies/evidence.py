"""Does a soft caption graph help? Nine objectives on icons without emoji, at four sizes, tested on the emoji set.

Command:   make results      (make data/icons_held_out first: docs/notes/icons.md)
           python -m xsample_jax.tools.sweep --grid=configs/studies/evidence.py --out=runs/evidence --run \\
               --results=results
           make results-pages      (docs/notes/evidence.md, from results/ alone)
Variants:  :10k, :30k, :100k, :all (one size only); :ablations (X-CLR at 30k, one key at a time); :search (learning rate
           and temperatures on icons' validation split); :shapes (configs/ablations/shapes.py); :smoke (5 small steps a
           run, one seed); also ":10k,short": 300 steps of 256 images in place of 2,000 of 512, and ":both" lengths
Runs:      120 of about 17 minutes on 2 CPU cores; short ones take about a minute and a half

Every size is seen for the same number of images. At each size the objectives come one by one with all their seeds, the
most telling comparisons first, so a study that is stopped early has intervals for those. What :search finds goes into
configs/icons.py; so far every objective has the learning rate of configs/quickstart.py and the temperature of its
preset. The test concepts are those of split test of the emoji set, on which nothing was chosen.
"""

import pathlib

from xsample_jax.config import parse_variant_groups
from xsample_jax.sweeps.grid import Evaluation, Protocol, grid

CONFIGS = pathlib.Path(__file__).parent.parent
OBJECTIVES = (
    "xclr", "simclr", "clip_frozen_text", "supcon", "cwcl", "xclr_random", "xclr_and_clip", "siglip", "clip",
)  # fmt: skip
# Chosen before the runs: what is recognized of unseen concepts, on changed backgrounds, and of icons with unseen names.
HEADLINES = (
    "subgroup/knn",
    "group/probe",
    "few_shot/5/subgroup",
    "background/mixed_rand/group/probe",
    "background/gap/group/probe",
    "retrieval/image_to_image/R@1",
)
SHARES = {"10k": 0.035, "30k": 0.105, "100k": 0.35, "all": 1.0}  # of split train of data/icons_held_out
SEEDS = {"10k": range(2), "30k": range(3), "100k": range(2), "all": range(3)}
LENGTHS = {None: (2000, 512), "short": (300, 256)}  # steps, images of a step
RATES = (2e-3, 5e-3, 1e-2)
ABLATED, ABLATION_SEEDS = "30k", range(2)
ONE_KEY = (
    ("objective.target_temperature", (0.03, 0.05, 0.2)),
    ("objective.center", (True,)),
    ("objective.target_neighbors", (4.0, 16.0)),
    ("objective.target_same_mass", (0.5, 0.9)),
    ("objective.graph", ("class_text",)),  # the name without the categories of its set: fewer words
)
BATCHES = (256, 1024, 4096)  # by GradCache, in parts of 256 images
WIDER = ("xclr", "simclr", "clip_frozen_text")  # also with ResNet-18 of width 32


def base(objective: str, small: bool) -> dict[str, str]:
    return {objective: f"{CONFIGS}/icons.py:held_out,{objective}" + ",smoke" * small}


def size_and_length(size: str, length: str | None, small: bool) -> dict:
    """The axes that all runs of a part share."""
    fraction = {"data.fraction": (SHARES[size],)}
    return fraction if small else fraction | {("steps", "batch_size"): [LENGTHS[length]]}


def compared(size: str, length: str | None, small: bool) -> list:
    """Every objective at one size, with its seeds."""
    seeds = SEEDS[size][:1] if small else SEEDS[size]
    axes = size_and_length(size, length, small) | {"seed": seeds}
    return [point for name in OBJECTIVES for point in grid(base(name, small), axes)]


def ablated(length: str | None, small: bool) -> list:
    """X-CLR with one key changed, and three objectives with a wider encoder; the levels are runs of `compared`."""
    shared = size_and_length(ABLATED, length, small)
    points = []
    for seed in ABLATION_SEEDS[:1] if small else ABLATION_SEEDS:
        for key, values in ONE_KEY:
            points += grid(base("xclr", small), shared | {key: values, "seed": (seed,)})
        if not small:
            steps, batch = LENGTHS[length]
            seen = [(b, round(steps * batch / b), max(b // 256, 1)) for b in BATCHES if b != batch]
            batches = {("batch_size", "steps", "loss.grad_cache"): seen}
            fraction = {"data.fraction": shared["data.fraction"]}
            points += grid(base("xclr", small), fraction | batches | {"seed": (seed,)})
            for name in WIDER:
                points += grid(base(name, small), shared | {"model.width": (32,), "seed": (seed,)})
    return points


def search(small: bool) -> list:
    """Learning rates of every objective at 10k, and temperatures of X-CLR and SimCLR; 200 steps, one seed."""
    shared = {"data.fraction": (SHARES["10k"],)}
    shared |= {} if small else {("steps", "batch_size"): [(200, 256)]}
    last = {"seed": (100,)}  # not a seed of the study
    points = []
    for name in OBJECTIVES:
        points += grid(base(name, small), shared | {"optimizer.learning_rate": RATES} | last)
    for name in ("xclr", "simclr"):
        points += grid(base(name, small), shared | {"objective.temperature": (0.05, 0.2)} | last)
    return points


def get_grid(arg=""):
    (part, length), small = parse_variant_groups(arg, ((*SHARES, "ablations", "search", "shapes"), ("short", "both")))
    if length == "both":
        words = ",".join(filter(None, (part, "smoke" * small)))
        return get_grid(words) + get_grid(f"{words},short")
    if part == "shapes":
        from xsample_jax.sweeps.grid import read_grid

        return read_grid(f"{CONFIGS}/ablations/shapes.py" + ":smoke" * small)[1]
    if part == "search":
        return search(small)
    points = [] if part == "ablations" else [p for s in SHARES if part in (None, s) for p in compared(s, length, small)]
    return points + (ablated(length, small) if part in (None, "ablations") else [])


def get_protocol(arg=""):
    words = arg.split(",")
    emoji = ("--config.data.source=emoji", "--config.data.path=None", "--config.eval.baselines=()")
    tested = Evaluation("emoji", ("emoji",), (*emoji, "--config.eval.split=test"))
    named = Evaluation("icons", ("retrieval",), ("--config.eval.split=val", "--config.eval.baselines=()"))
    if "smoke" in words:
        small = Evaluation("emoji", ("retrieval",), (*emoji, "--config.eval.split=test"))
        return Protocol(("retrieval/image_to_image/R@1",), (small,))
    if "shapes" in words:
        return Protocol(tuple(f"factor/{name}/kept" for name in ("shape", "color", "texture", "ground")), ())
    return Protocol(HEADLINES, (named,) if "search" in words else (tested, named))
