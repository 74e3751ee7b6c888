"""Any preset of docs/objectives.md on the data, encoder, augmentation and steps of configs/quickstart.py.

A preset that compares three views has three; seed, norm_direction and distill_clip also need objective.frozen.

Command:   python -m xsample_jax.main --config=configs/objective.py:simclr --workdir=runs/objectives/simclr
Variants:  the name of a preset, as :simclr, :clip or :barlow_twins; :smoke, also as ":simclr,smoke"
Hardware:  2 CPU cores; any accelerator.
Hours:     0.03 (2 minutes) a run with evaluation, on 2 cores
Expected:  docs/notes/results.md for the presets that are compared there; not measured for the others
"""

import pathlib

from xsample_jax.config import parse_variants, read_config_file, smoke
from xsample_jax.objectives.from_config import needed_views
from xsample_jax.objectives.presets import PRESETS

QUICKSTART = pathlib.Path(__file__).parent / "quickstart.py"
# Attributes of the emoji for what objectives read of every record. The emoji have no numbers: in the order of Unicode
# neighboring subgroups are alike, so its place stands in for one.
SIDE = {
    "target": ("subgroup",),
    "labels": ("style", "group", "subgroup"),
    "cluster": ("group", "subgroup"),
    "is_target": ("style",),
}


def get_config(arg=""):
    name, small = parse_variants(arg, tuple(PRESETS))
    name = name or "xclr"
    config = read_config_file(QUICKSTART)
    config.name = name
    config.objective.preset = name
    config.views = max(config.views, needed_views(PRESETS[name].objective))
    reads = PRESETS[name].objective.requires
    config.data.side = tuple(
        {"name": entry, "attributes": attributes} for entry, attributes in SIDE.items() if entry in reads
    )
    reads_parts = PRESETS[name].objective.requires & {"part", "task"}
    if reads_parts:
        config.data.label = "group"  # eight classes, so that each of them is in a batch several times
        config.eval.suite = "probe"
        if "task" in reads_parts:
            config.data.tasks.update(count=4, steps=config.steps // 4)
        elif name == "unlearning":
            config.data.forget.classes = (5,)
        else:
            config.data.episodes.update(way=8, shot=8, query=24)
    text = PRESETS[name].objective.text
    if text in ("transformer", "causal"):
        config.model.text.layers = 2
        config.model.text.width = 64  # about as many products as this small image encoder
    if text == "causal":
        config.model.text.update(multimodal=2, queries=16)
    config = smoke(config) if small else config
    if small and PRESETS[name].objective.clusters is not None:
        config.objective.clusters.update(k=(8,), start=2, every=2)
    return config
