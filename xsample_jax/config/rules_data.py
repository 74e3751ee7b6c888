"""Rules about the data: its source, what is drawn from it, and the size of its views."""

from collections.abc import Iterator

from xsample_jax.augment.autoaugment import MOST_MAGNITUDE, MOST_RANDOM
from xsample_jax.augment.views import PER_VIEW
from xsample_jax.config.key import find_value_problem
from xsample_jax.config.rules_plans import OF_DRAWS, PLAN_RULES
from xsample_jax.config.schema_data import AUGMENT
from xsample_jax.data.side import find_side_problems
from xsample_jax.errors import ConfigError, did_you_mean
from xsample_jax.models.towers import OWN, kind_of
from xsample_jax.objectives.from_config import build_objective
from xsample_jax.objectives.side_information import BY_RECORD

EMOJI = ("emoji", "emoji_folder")
EMOJI_SPLITS = ("train", "val", "test", "train_styles", "val_styles", "test_styles")


def _data_source(c: dict) -> Iterator[ConfigError]:
    if c["data.source"] in ("records", "emoji_folder", "folder", "vectors") and not c["data.path"]:
        yield ConfigError(
            "data.path",
            c["data.path"],
            f"a folder of images, or of a prepared dataset, for data.source = {c['data.source']!r}",
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
    if c["data.mix"] and c["data.source"] not in ("records", "vectors"):
        yield ConfigError("data.mix", c["data.mix"], f"() with data.source = {c['data.source']}", "Use records.")


def _side(c: dict) -> Iterator[ConfigError]:
    yield from find_side_problems(c["data.side"], mixed=bool(c["data.mix"]))


def _draws(c: dict) -> Iterator[ConfigError]:
    """Weights of records and batches of one group: each decides alone which records are drawn."""
    given, by = {str(entry.get("name")) for entry in c["data.side"]}, c["data.batches_of"]
    if by in ("cluster", "group") and by not in given:
        yield ConfigError("data.batches_of", by, f"an entry {by!r} in data.side", f"It comes from {BY_RECORD[by].how}.")
    if by is not None and "weight" in given:
        yield ConfigError("data.batches_of", by, "None with a weight in data.side, which decides what is drawn")
    if by == "label" and c["data.label_noise"]:
        yield ConfigError("data.batches_of", by, "None with data.label_noise, which changes labels")
    if by is not None and c["data.on_error"] == "skip":
        expected = "raise with data.batches_of: the record in place of a broken one would be of another group"
        yield ConfigError("data.on_error", "skip", expected, "Prepare the set again without its broken records.")
    for key, neutral in OF_DRAWS.items():
        for field, value in (("data.batches_of", by), ("data.side", "weight" if "weight" in given else None)):
            if value is not None and c[key] != neutral:
                fix = f"Set --config.{key}={neutral}."
                yield ConfigError(field, value, f"none with {key}, which says what is drawn too", fix)


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


def _fraction(c: dict) -> Iterator[ConfigError]:
    others = {"data.mix": (), "data.balance": 0.0, "data.samples_per_class": None}
    for other, neutral in others.items():
        if c["data.fraction"] < 1 and c[other] != neutral:
            fix = f"Set --config.{other}={neutral}, or --config.data.fraction=1."
            expected = f"1 with {other}, which is about the whole of a set"
            yield ConfigError("data.fraction", c["data.fraction"], expected, fix)


def _view_size(c: dict) -> Iterator[ConfigError]:
    size, delivered = c["augment.size"], c["data.image_size"]
    if c["data.source"] == "vectors":
        return
    if not SMALLEST <= delivered <= LARGEST:
        yield ConfigError("data.image_size", delivered, f"{SMALLEST} to {LARGEST:,} pixels")
    if size > 2 * delivered:
        yield ConfigError(
            "augment.size",
            size,
            f"at most twice data.image_size ({delivered}): the views would be enlarged more than 2x",
            f"Set --config.data.image_size={size}, or make the views smaller.",
        )


SMALLEST, LARGEST = 8, 2**13
HUES = "a hue range (the last) <= 0.5, which is all hues"
# What is about images alone, with what it is where there are vectors in their place.
OF_IMAGES = {"augment.bits": 0, "augment.per_view": (), "augment.auto_augment": False, "augment.rand_augment": ()}
OF_IMAGES["objective.generator.kind"] = None


def _vectors(c: dict) -> Iterator[ConfigError]:
    """Vectors go through a perceptron, or an encoder from outside; and only they have their augmentation."""
    if c["data.source"] != "vectors":
        for key in ("augment.noise", "augment.dropout"):
            if c[key]:
                yield ConfigError(key, c[key], "0 for images", "It is for data.source=vectors (docs/vectors.md).")
        return
    encoder = c["model.encoder"]
    if kind_of(encoder) not in ("mlp", OWN):
        fix = "Set --config.model.encoder=mlp2."
        yield ConfigError("model.encoder", encoder, "a perceptron (mlp1 to mlp4) for data.source = 'vectors'", fix)
    for key, neutral in OF_IMAGES.items():
        if c[key] != neutral:
            fix = f"Set --config.{key}={neutral}."
            yield ConfigError(key, c[key], f"{neutral} for data.source = 'vectors': it is about images", fix)


def _per_view(c: dict) -> Iterator[ConfigError]:
    changes, views = c["augment.per_view"], c["views"]
    if len(changes) > views:
        yield ConfigError("augment.per_view", f"{len(changes)} entries", f"at most views = {views}", "Set views.")
    for view, changed in enumerate(changes):
        for name, value in changed.items():
            field = f"augment.per_view[{view}].{name}"
            if name not in PER_VIEW:
                fix = did_you_mean(name, PER_VIEW)
                yield ConfigError(field, value, f"one of the keys {', '.join(PER_VIEW)}", fix)
                continue
            value = tuple(value) if isinstance(value, list) else value
            problem = find_value_problem(field, AUGMENT[name], value)
            if problem is not None:
                yield problem
            elif name == "jitter_strength" and value[3] > 0.5:
                yield ConfigError(field, value, HUES, "Use 0.1.")


def _rand_augment(c: dict) -> Iterator[ConfigError]:
    given = c["augment.rand_augment"]
    if given and not (1 <= given[0] <= MOST_RANDOM and given[1] <= MOST_MAGNITUDE):
        expected = f"1 to {MOST_RANDOM} operations and a magnitude from 0 to {MOST_MAGNITUDE}"
        yield ConfigError("augment.rand_augment", given, expected)
    if given and c["augment.auto_augment"]:
        yield ConfigError("augment.rand_augment", given, "() beside augment.auto_augment: one policy")


def _hue(c: dict) -> Iterator[ConfigError]:
    if c["augment.jitter_strength"][3] > 0.5:
        yield ConfigError("augment.jitter_strength", c["augment.jitter_strength"], HUES, "Use 0.1.")


DATA_RULES = (
    _data_source,
    _mix,
    _side,
    _draws,
    *PLAN_RULES,
    _noise,
    _samples_per_class,
    _fraction,
    _view_size,
    _vectors,
    _hue,
    _rand_augment,
    _per_view,
)
