"""What makes a config right: known keys, types, bounds, then rules.py. Every problem is reported at once."""

import difflib
import math
import numbers
import typing
from collections.abc import Mapping

import numpy as np

from xsample_jax.config.renamed import rename
from xsample_jax.config.rules import RULES
from xsample_jax.config.schema import SCHEMA, Key, flat_keys
from xsample_jax.errors import ConfigError, Problems, did_you_mean

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
    "microbatches": "loss.grad_cache",
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
    """Returns `config` as new nested dicts: field references replaced by their values, old names by present ones."""
    plain = config.to_dict() if hasattr(config, "to_dict") else _copied(config)
    rename(plain)
    return plain


def _copied(config: Mapping) -> dict:
    return {name: _copied(value) if isinstance(value, Mapping) else value for name, value in config.items()}


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
    if not fix and _has_type(key.type, value) and not all(map(_representable, _elements(value))):
        fix = "Numbers must fit in int32 and float32."
    return ConfigError(name, value, describe(key), fix)


def describe(key: Key) -> str:
    """Returns the values that `key` accepts in words, as `an integer >= 1, or None`."""
    nouns = {bool: "true or false", int: "an integer", float: "a number", str: "a text"}
    if key.type in nouns:
        text = nouns[key.type]
    else:
        element = {int: "integers", float: "numbers", str: "texts", dict: "dicts"}[typing.get_args(key.type)[0]]
        count = " or ".join(map(str, key.lengths))
        text = f"a tuple of {count + ' ' if count else ''}{element}" + (", low then high" if key.increasing else "")
    bounds = {">=": key.minimum, ">": key.above, "<=": key.maximum, "<": key.below}
    limits = " and ".join(
        f"{sign} {bound if isinstance(bound, int) else format(bound, 'g')}"
        for sign, bound in bounds.items()
        if bound is not None
    )
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
        return tuple(_plain(item) if element is dict else element(item) for item in value)
    return key.type(value)


def _plain(value: object) -> object:
    """Nested data of one form, whether it comes from Python or from JSON: dicts, and tuples for all sequences."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return tuple(_plain(item) for item in value) if isinstance(value, list | tuple) else value


def suggest_key(name: str) -> str:
    """Returns a sentence that names the keys an unknown dotted `name` may have meant."""
    known = list(flat_keys())
    section, _, leaf = name.rpartition(".")
    if "accum" in leaf:
        return (
            "A contrastive loss couples all rows of its batch: averaging gradients of small batches is another loss, "
            "so it is not offered. Did you mean loss.grad_cache? It gives the gradient of the whole batch."
        )
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
        return isinstance(value, kind) and not isinstance(value, bool | np.bool_) and _is_finite(value)
    return isinstance(value, declared)


# The largest whole number of jax's int32, and the positive numbers that float32 has at full precision.
LARGEST_INT = 2**31 - 1
SMALLEST_FLOAT, LARGEST_FLOAT = (float(bound) for bound in (np.finfo(np.float32).tiny, np.finfo(np.float32).max))


def _representable(value: object) -> bool:
    """Whether the device's number types hold `value`: int32 (seeds: uint32, bounded by their key), normal float32."""
    if isinstance(value, bool | np.bool_ | str | Mapping) or not isinstance(value, numbers.Real):
        return True
    if isinstance(value, numbers.Integral):
        return abs(value) < 2**32
    return value == 0 or SMALLEST_FLOAT <= abs(value) <= LARGEST_FLOAT


def _is_finite(value: numbers.Real) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond float64
        return isinstance(value, numbers.Integral)


def _elements(value: object) -> tuple:
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def _in_bounds(key: Key, value: object) -> bool:
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool | np.bool_)
    return (
        (not key.choices or value in key.choices)
        and _representable(value)
        and (key.maximum is not None or not whole or value <= LARGEST_INT)
        and (key.minimum is None or value >= key.minimum)
        and (key.maximum is None or value <= key.maximum)
        and (key.above is None or value > key.above)
        and (key.below is None or value < key.below)
    )
