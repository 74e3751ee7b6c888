"""A term written as plain data (config objective.terms): dicts, names and numbers, each of the type of its field."""

import dataclasses
import types
import typing
from collections.abc import Mapping

from xsample_jax.errors import ConfigError, did_you_mean
from xsample_jax.graphs.combine import Graph, Mixture
from xsample_jax.objectives.blocks import Rows
from xsample_jax.objectives.terms import FeatureTerm, Term


def term_from_dict(values: Mapping, field: str) -> Term | FeatureTerm:
    """A term from plain data; ConfigError for a field that a term does not have."""
    values = dict(values)
    kind = FeatureTerm if "name" in values else Term
    values = {name: _value(name, value, field) for name, value in values.items()}
    return _made(kind, values, field)


def _value(name: str, value, field: str):
    """Plain data of one field as what a term holds."""
    if name in ("anchors", "x", "y"):
        return _rows(value, f"{field}.{name}")
    if name == "keys" and isinstance(value, list | tuple):
        return tuple(_rows(rows, f"{field}.keys") for rows in value)
    if name == "keys":
        return _rows(value, f"{field}.keys")
    if name == "graph":
        return _graph(value, f"{field}.graph")
    return value


def _rows(value, field: str) -> Rows:
    if isinstance(value, str):
        return Rows(value)
    if not isinstance(value, Mapping):
        raise ConfigError(field, value, "a block, as 'image', or a dict, as {'block': 'image', 'view': 0}")
    values = {name: _rows(part, field) if name in ("beside", "times") else part for name, part in value.items()}
    return _made(Rows, values, field)


def _graph(value, field: str) -> Graph | Mixture:
    if isinstance(value, str):
        return Graph(value)
    if not isinstance(value, Mapping):
        raise ConfigError(field, value, "a source, as 'caption', or a dict, as {'source': 'caption'}")
    values = {name: tuple(part) if isinstance(part, list) else part for name, part in value.items()}
    if isinstance(values.get("graphs"), tuple):
        values["graphs"] = tuple(_graph(part, field) for part in values["graphs"])
        return _made(Mixture, {"weights": ()} | values, field)
    return _made(Graph, values, field)


def _made(kind: type, values: dict, field: str):
    known = [item.name for item in dataclasses.fields(kind)]
    for name in values:
        if name not in known:
            raise ConfigError(f"{field}.{name}", values[name], f"a field of {kind.__name__}", did_you_mean(name, known))
    hints = typing.get_type_hints(kind)
    for name, value in values.items():
        if not _fits(hints[name], value):
            raise ConfigError(f"{field}.{name}", value, _in_words(hints[name]))
    return kind(**values)


def _fits(hint, value) -> bool:
    """Whether a value is of an annotated type: a union, tuple[X, ...], or a class."""
    if isinstance(hint, types.UnionType):
        return any(_fits(one, value) for one in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_fits(typing.get_args(hint)[0], one) for one in value)
    if hint is not bool and isinstance(value, bool):
        return False
    return isinstance(value, int | float if hint is float else hint)


def _in_words(hint) -> str:
    if isinstance(hint, types.UnionType):
        return " or ".join(_in_words(one) for one in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return f"a tuple, each {_in_words(typing.get_args(hint)[0])}"
    words = {str: "a name", Mapping: "a dict with a name and options", bool: "true or false", types.NoneType: "None"}
    return words.get(hint) or {int: "an integer", float: "a number"}.get(hint, hint.__name__)
