"""What makes a config right: known keys, types, bounds, values that go together. Every problem is reported at once."""

import difflib
import math
import numbers
import re
import typing
from collections.abc import Iterator, Mapping

import numpy as np

from xsample_jax.config.schema import SCHEMA, Key, flat_keys
from xsample_jax.errors import ConfigError, Problems, did_you_mean

EMOJI_SPLITS = ("train", "val", "test", "train_styles", "val_styles", "test_styles")

# Names that people use for a key in other projects and in the papers, where spelling alone would not find it.
ALIASES = {
    "lr": "optimizer.learning_rate",
    "wd": "optimizer.weight_decay",
    "warmup_steps": "optimizer.warmup",
    "warmup_epochs": "optimizer.warmup",
    "tau": "objective.temperature",
    "tau_s": "objective.target_temperature",
    "loss": "objective.preset",
    "arch": "model.encoder",
    "backbone": "model.encoder",
    "dataset": "data.source",
    "dtype": "precision.compute",
    "bf16": "precision.compute",
    "workers": "data.threads",
    "num_steps": "steps",
    "num_epochs": "epochs",
}


def check_config(config: Mapping, where: str = "the config") -> None:
    """Raises Problems (a ConfigError) that lists everything wrong with `config`; returns None when all is right."""
    problems = find_problems(config)
    if problems:
        raise Problems(problems, where)


def find_problems(config: Mapping) -> list[ConfigError]:
    """Returns one ConfigError for each unknown or missing key, wrong value and impossible combination."""
    values, problems = _walk(plain_dict(config), SCHEMA)
    right = {}
    for name, key in flat_keys().items():
        if name not in values:
            continue
        problem = find_value_problem(name, values[name])
        if problem is None:
            right[name] = as_declared(key, values[name])
        else:
            problems.append(problem)
    for rule in RULES:
        try:
            problems += rule(right)
        except KeyError:  # A value that this rule compares is itself wrong or missing, which is reported already.
            continue
    return problems


def plain_dict(config: Mapping) -> dict:
    """Returns `config` as nested dicts, with field references replaced by their values."""
    return config.to_dict() if hasattr(config, "to_dict") else dict(config)


def find_value_problem(name: str, value: object) -> ConfigError | None:
    """Returns what is wrong with `value` for the key `name` taken alone, or None."""
    key = flat_keys()[name]
    if value is None and key.optional:
        return None
    if _has_type(key.type, value) and all(_in_bounds(key, element) for element in _elements(value)):
        right_length = not key.lengths or len(value) in key.lengths
        right_order = not key.increasing or list(value) == sorted(value)
        if right_length and right_order:
            return None
    fix = did_you_mean(value, key.choices) if key.choices and isinstance(value, str) else ""
    if isinstance(value, str) and key.type is not str:
        fix = "Write it without quotes in the config file."
    return ConfigError(name, value, describe(key), fix)


def describe(key: Key) -> str:
    """Returns the values that `key` accepts in words, as `an integer >= 1, or None`."""
    nouns = {bool: "true or false", int: "an integer", float: "a number", str: "a text"}
    if key.type in nouns:
        text = nouns[key.type]
    else:
        element = {int: "integers", float: "numbers", str: "texts"}[typing.get_args(key.type)[0]]
        count = " or ".join(map(str, key.lengths))
        text = f"a tuple of {count + ' ' if count else ''}{element}" + (", low then high" if key.increasing else "")
    bounds = {">=": key.minimum, ">": key.above, "<=": key.maximum, "<": key.below}
    limits = " and ".join(f"{sign} {bound:g}" for sign, bound in bounds.items() if bound is not None)
    if limits:
        text += f" {limits}" if key.type in nouns else f", each {limits}"
    if key.choices:
        text = "one of " + ", ".join(map(str, key.choices))
    return text + (", or None" if key.optional else "")


def as_declared(key: Key, value: object) -> object:
    """Returns a right `value` in exactly the declared type: an int becomes a float, a list a tuple, numpy plain."""
    if value is None or key.type is str:
        return value
    if typing.get_origin(key.type) is tuple:
        element = typing.get_args(key.type)[0]
        return tuple(element(item) for item in value)
    return key.type(value)


def suggest_key(name: str) -> str:
    """Returns a sentence that names the keys an unknown dotted `name` may have meant."""
    known = list(flat_keys())
    section, _, leaf = name.rpartition(".")
    if leaf in ALIASES:
        return f"Did you mean {ALIASES[leaf]}?"
    siblings = {_leaf(key): key for key in known if key.rpartition(".")[0] == section and section}
    elsewhere = {_leaf(key): key for key in reversed(known)}
    close = (
        difflib.get_close_matches(name, known, n=1, cutoff=0.9)
        or [key for key in known if _leaf(key) == leaf]
        or [siblings[match] for match in difflib.get_close_matches(leaf, siblings, n=3, cutoff=0.6)]
        or [elsewhere[match] for match in difflib.get_close_matches(leaf, elsewhere, n=3, cutoff=0.75)]
    )
    return f"Did you mean {' or '.join(close)}?" if close else f"Known: {', '.join(siblings.values() or SCHEMA)}."


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def unknown_key(name: str, value: object) -> ConfigError:
    """Returns the error for a dotted `name` that the schema does not have."""
    return ConfigError(name, value, "a known key", suggest_key(name))


def _walk(values: Mapping, schema: dict, prefix: str = "") -> tuple[dict, list[ConfigError]]:
    """Returns (flat values of known keys, problems with the tree itself: unknown, missing, section or not)."""
    flat, problems = {}, []
    for name, value in values.items():
        if name not in schema:
            problems.append(unknown_key(f"{prefix}{name}", value))
        elif not isinstance(schema[name], dict):
            flat[prefix + name] = value
        elif isinstance(value, Mapping):
            inner_flat, inner_problems = _walk(value, schema[name], f"{prefix}{name}.")
            flat |= inner_flat
            problems += inner_problems
        else:
            keys = ", ".join(schema[name])
            problems.append(ConfigError(prefix + name, value, f"a section with the keys {keys}"))
    for name in schema:
        if name not in values:
            fix = "Change single keys of default_config(); a section that is replaced must keep all of its keys."
            problems.append(ConfigError(prefix + name, None, "a value (the key is missing)", fix))
    return flat, problems


def _has_type(declared: type, value: object) -> bool:
    if typing.get_origin(declared) is tuple:
        element = typing.get_args(declared)[0]
        return isinstance(value, tuple | list) and all(_has_type(element, item) for item in value)
    if declared is bool:
        return isinstance(value, bool | np.bool_)
    if declared in (int, float):
        kind = numbers.Integral if declared is int else numbers.Real
        return isinstance(value, kind) and not isinstance(value, bool | np.bool_) and math.isfinite(value)
    return isinstance(value, declared)


def _elements(value: object) -> tuple:
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def _in_bounds(key: Key, value: object) -> bool:
    return (
        (not key.choices or value in key.choices)
        and (key.minimum is None or value >= key.minimum)
        and (key.maximum is None or value <= key.maximum)
        and (key.above is None or value > key.above)
        and (key.below is None or value < key.below)
    )


# Rules about several keys. Each gets the flat dict of right values and yields what does not go together.


def _length_of_the_run(c: dict) -> Iterator[ConfigError]:
    steps, epochs = c["steps"], c["epochs"]
    if steps is None and epochs is None:
        yield ConfigError("steps", None, "steps or epochs to be set", "Set one of them, as --config.steps=1000.")
    if steps is not None and epochs is not None:
        yield ConfigError(
            "steps",
            steps,
            f"only one of steps and epochs (epochs = {epochs:g})",
            "Add --config.epochs=None to train for steps, or --config.steps=None to train for epochs.",
        )


def _views(c: dict) -> Iterator[ConfigError]:
    if c["views"] < 2 and c["objective.preset"] in ("xclr", "simclr", "supcon"):
        yield ConfigError(
            "views",
            c["views"],
            f"at least 2 for objective.preset = {c['objective.preset']!r}, which compares views of an image",
            "Set --config.views=2.",
        )


def _data_source(c: dict) -> Iterator[ConfigError]:
    if c["data.source"] == "records" and not c["data.path"]:
        yield ConfigError(
            "data.path",
            c["data.path"],
            "the folder of a prepared record set for data.source = 'records'",
            "Set --config.data.path=FOLDER (python -m xsample_jax.tools.prepare makes one).",
        )
    if c["data.source"] == "emoji" and c["data.path"] is not None:
        yield ConfigError(
            "data.path",
            c["data.path"],
            "None for data.source = 'emoji', which is inside the package",
            "Set --config.data.source=records to train on that folder, or --config.data.path=None.",
        )
    if c["data.source"] == "emoji" and c["data.split"] not in EMOJI_SPLITS:
        yield ConfigError(
            "data.split",
            c["data.split"],
            f"a split of the emoji set: {', '.join(EMOJI_SPLITS)}",
            did_you_mean(c["data.split"], EMOJI_SPLITS),
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


def _patches(c: dict) -> Iterator[ConfigError]:
    size, patch = c["augment.size"], c["model.patch_size"]
    if c["model.encoder"].startswith("vit") and size % patch:
        divisors = ", ".join(str(side) for side in range(2, size + 1) if size % side == 0 and side <= 32)
        yield ConfigError(
            "model.patch_size", patch, f"a divisor of augment.size ({size}) for a ViT", f"Possible: {divisors}."
        )


def _text_tower(c: dict) -> Iterator[ConfigError]:
    layers, preset = c["model.text.layers"], c["objective.preset"]
    if preset == "clip" and layers == 0:
        yield ConfigError(
            "model.text.layers",
            layers,
            "at least 1 for objective.preset = 'clip', which trains a text tower",
            "Set --config.model.text.layers=6, or --config.objective.preset=clip_frozen_text.",
        )
    if preset == "clip_frozen_text" and layers > 0:
        yield ConfigError(
            "model.text.layers",
            layers,
            "0 for objective.preset = 'clip_frozen_text', which maps frozen caption embeddings",
            "Set --config.model.text.layers=0, or --config.objective.preset=clip.",
        )
    if preset == "clip" and c["data.caption"] == "mean":
        yield ConfigError(
            "data.caption",
            "mean",
            "one caption for objective.preset = 'clip': tokens have no mean",
            "Set --config.data.caption=first.",
        )
    width, heads = c["model.text.width"], c["model.text.heads"]
    if layers > 0 and width % heads:
        yield ConfigError(
            "model.text.width", width, f"a multiple of model.text.heads ({heads})", f"Set {heads * (width // heads)}."
        )


def _graph(c: dict) -> Iterator[ConfigError]:
    preset, graph = c["objective.preset"], c["objective.graph"]
    if graph is not None and preset in ("clip", "clip_frozen_text"):
        yield ConfigError(
            "objective.graph",
            graph,
            f"None for objective.preset = {preset!r}, which pairs each image with its own caption",
            "Set --config.objective.graph=None, or --config.objective.preset=xclr.",
        )
    if graph in ("caption", "class_text") and preset in ("simclr", "supcon"):
        yield ConfigError(
            "objective.graph",
            graph,
            f"identity or label for objective.preset = {preset!r}, which divides by row sums: cosines may be < 0",
            "Set --config.objective.preset=xclr.",
        )
    if c["objective.centre"] and (preset != "xclr" or graph not in (None, "caption", "class_text")):
        yield ConfigError(
            "objective.centre",
            True,
            "false: the target graph of this objective is not made of text embeddings",
            "Set --config.objective.centre=false, or --config.objective.preset=xclr.",
        )


def _learned_temperature(c: dict) -> Iterator[ConfigError]:
    start = c["objective.temperature"]
    if c["objective.learn_temperature"] and start is not None and not 0.01 <= start <= 1:
        yield ConfigError(
            "objective.temperature",
            start,
            "a start within [0.01, 1], where a learned temperature is clamped: outside it has no gradient",
            "Set --config.objective.temperature=0.07.",
        )


def _lars_and_clipping(c: dict) -> Iterator[ConfigError]:
    if c["optimizer.name"] == "lars" and c["optimizer.clip_norm"] is not None:
        yield ConfigError(
            "optimizer.clip_norm",
            c["optimizer.clip_norm"],
            "None with LARS, which divides every layer's gradient by its own norm",
            "Set --config.optimizer.clip_norm=None, or --config.optimizer.name=adamw.",
        )


def _mesh(c: dict) -> Iterator[ConfigError]:
    if c["mesh.data"] == 0:
        yield ConfigError(
            "mesh.data", 0, "a number of devices, or -1 for all that are left", "Set --config.mesh.data=-1."
        )
    topology = c["mesh.topology"]
    if topology is not None and not re.fullmatch(r"[a-z0-9]+:\d+(x\d+){1,2}", topology):
        yield ConfigError("mesh.topology", topology, "a TPU generation and its shape, as v5e:4x4 or v5p:2x2x4")


def _evaluation(c: dict) -> Iterator[ConfigError]:
    suite, split = c["eval.suite"], c["eval.split"]
    if suite == "emoji" and c["data.source"] != "emoji":
        yield ConfigError(
            "eval.suite",
            suite,
            f"probe or none for data.source = {c['data.source']!r}",
            "Set --config.eval.suite=probe if the records have labels, else none.",
        )
    if suite == "emoji" and split not in ("val", "test"):
        yield ConfigError("eval.split", split, "val or test for eval.suite = 'emoji'", "Set --config.eval.split=test.")
    if suite != "none" and split == c["eval.train_split"]:
        yield ConfigError(
            "eval.split",
            split,
            "another split than eval.train_split: the probe would be tested on what it was fitted to",
        )


def _best_checkpoint(c: dict) -> Iterator[ConfigError]:
    metric = c["checkpoint.metric"]
    if metric is not None and c["eval.suite"] == "none":
        yield ConfigError(
            "checkpoint.metric",
            metric,
            "None when eval.suite = 'none': no evaluation ever measures it",
            "Set --config.eval.suite, or --config.checkpoint.metric=None.",
        )
    if metric is not None and c["checkpoint.keep_best"] == 0:
        yield ConfigError(
            "checkpoint.keep_best", 0, f"at least 1 to keep the best by {metric!r}", "Set 1, or no metric."
        )


RULES = (
    _length_of_the_run,
    _views,
    _data_source,
    _view_size,
    _hue,
    _patches,
    _text_tower,
    _graph,
    _learned_temperature,
    _lars_and_clipping,
    _mesh,
    _evaluation,
    _best_checkpoint,
)
