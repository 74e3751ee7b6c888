"""One key of the config: type, default, meaning and bounds; and whether a value is one that it accepts."""

import dataclasses
import math
import numbers
import typing
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from xsample_jax.errors import ConfigError, did_you_mean, fits_float32


@dataclasses.dataclass(frozen=True)
class Key:
    """One config key.

    Attributes:
      type: bool, int, float, str, or `tuple[int, ...]`-like for tuples. An int is accepted for a float.
      default: the value when a config says nothing; None only where `optional`.
      help: one line: meaning and unit.
      choices: the only allowed values, if any; a registry as it is, so that what is added to it counts.
      minimum, maximum: inclusive bounds; `above`, `below`: exclusive ones. Applied to each element of a tuple.
      optional: None is allowed (and means what `help` says).
      lengths: the allowed numbers of elements of a tuple; () = any.
      increasing: the elements of a tuple must not decrease (a range: low, high).
      start: nothing but the making of a new state reads it, so it says nothing to a run that has a checkpoint.
    """

    type: Any
    default: Any
    help: str
    choices: Collection = ()
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    below: float | None = None
    optional: bool = False
    lengths: tuple[int, ...] = ()
    increasing: bool = False
    start: bool = False


def find_value_problem(name: str, key: Key, value: object) -> ConfigError | None:
    """Returns what is wrong with `value` for the key `key`, called `name`, taken alone; or None."""
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


LARGEST_INT = 2**31 - 1  # of jax's int32


def _representable(value: object) -> bool:
    """Whether the device's number types hold `value`: int32 (seeds: uint32, bounded by their key), normal float32."""
    if isinstance(value, bool | np.bool_ | str | Mapping) or not isinstance(value, numbers.Real):
        return True
    if isinstance(value, numbers.Integral):
        return abs(value) < 2**32
    return fits_float32(value)


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
