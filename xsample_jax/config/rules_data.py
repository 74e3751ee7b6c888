"""Rules about the data: its source, what is drawn from it, and the size of its views."""

from collections.abc import Iterator

from xsample_jax.errors import ConfigError, did_you_mean
from xsample_jax.objectives.build import build_objective

EMOJI = ("emoji", "emoji_folder")
EMOJI_SPLITS = ("train", "val", "test", "train_styles", "val_styles", "test_styles")


def _data_source(c: dict) -> Iterator[ConfigError]:
    if c["data.source"] in ("records", "emoji_folder") and not c["data.path"]:
        yield ConfigError(
            "data.path",
            c["data.path"],
            f"the folder of a prepared record set for data.source = {c['data.source']!r}",
            "Set --config.data.path=FOLDER (python -m xsample_jax.tools.prepare makes one).",
        )
    if c["data.source"] == "emoji" and c["data.path"] is not None:
        yield ConfigError(
            "data.path",
            c["data.path"],
            "None for data.source = 'emoji', which is inside the package",
            "Set --config.data.source=records to train on that folder, or --config.data.path=None.",
        )
    if c["data.source"] in EMOJI and c["data.split"] not in EMOJI_SPLITS:
        yield ConfigError(
            "data.split",
            c["data.split"],
            f"a split of the emoji set: {', '.join(EMOJI_SPLITS)}",
            did_you_mean(c["data.split"], EMOJI_SPLITS),
        )


def _mix(c: dict) -> Iterator[ConfigError]:
    total = 0.0
    for number, entry in enumerate(c["data.mix"]):
        name, share = f"data.mix[{number}]", entry.get("share")
        if set(entry) != {"path", "share"} or not isinstance(entry["path"], str):
            yield ConfigError(name, entry, "{'path': a folder, 'share': a number}")
        elif not isinstance(share, int | float) or not 0 < share < 1:
            yield ConfigError(f"{name}.share", share, "a share of the draws between 0 and 1")
        else:
            total += share
    if total >= 1:
        yield ConfigError("data.mix", f"shares of {total:g}", "less than 1 in all: data.path gets the rest")
    if c["data.mix"] and c["data.source"] != "records":
        yield ConfigError("data.mix", c["data.mix"], f"() with data.source = {c['data.source']}", "Use records.")


def _noise(c: dict) -> Iterator[ConfigError]:
    section = {name.removeprefix("objective."): value for name, value in c.items() if name.startswith("objective.")}
    try:
        reads = build_objective(section).requires
    except ConfigError:
        return  # reported by _objective
    of = {"label_noise": ("label", "class_embedding"), "caption_noise": ("caption_embedding", "caption_tokens")}
    for noise, entries in of.items():
        if c[f"data.{noise}"] and not reads & set(entries):
            yield ConfigError(
                f"data.{noise}",
                c[f"data.{noise}"],
                f"0 for an objective that reads neither {' nor '.join(entries)}, which is what it changes",
                f"Set --config.data.{noise}=0, or another objective.preset or objective.graph.",
            )


def _samples_per_class(c: dict) -> Iterator[ConfigError]:
    other = "data.mix" if c["data.mix"] else "data.balance"
    if c["data.samples_per_class"] is not None and c[other]:
        yield ConfigError(
            "data.samples_per_class",
            c["data.samples_per_class"],
            f"None with {other}, which is about the whole of a set",
            f"Set --config.{other}={'()' if other == 'data.mix' else 0}.",
        )


def _view_size(c: dict) -> Iterator[ConfigError]:
    size, delivered = c["augment.size"], c["data.image_size"]
    if size > 2 * delivered:
        yield ConfigError(
            "augment.size",
            size,
            f"at most twice data.image_size ({delivered}): the views would be enlarged more than 2x",
            f"Set --config.data.image_size={size}, or make the views smaller.",
        )


def _hue(c: dict) -> Iterator[ConfigError]:
    strength = c["augment.jitter_strength"]
    if strength[3] > 0.5:
        yield ConfigError(
            "augment.jitter_strength", strength, "a hue range (the last) <= 0.5, which is all hues", "Use 0.1."
        )


RULES = (_data_source, _mix, _noise, _samples_per_class, _view_size, _hue)
