"""A term written as plain data (config objective.terms): dicts, names and numbers, each of the type of its field."""

import dataclasses
import typing
from collections.abc import Collection, Mapping

from xsample_jax.errors import ConfigError, did_you_mean, raise_all
from xsample_jax.graphs.targets import Graph, Mixture
from xsample_jax.objectives.blocks import Rows
from xsample_jax.objectives.terms import FeatureTerm, Term
from xsample_jax.registry import in_words, is_of


def read_terms(terms: Collection[Mapping]) -> list[Term | FeatureTerm]:
    """The terms of plain data; raises what is wrong with any of them at once."""
    made, problems = [], []
    for number, values in enumerate(terms):
        try:
            made.append(term_from_dict(values, f"objective.terms[{number}]"))
        except ConfigError as error:
            problems.append(error)
    raise_all(problems, "the objective")
    return made


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
        if not is_of(hints[name], value):
            raise ConfigError(f"{field}.{name}", value, in_words(hints[name]))
    return kind(**values)
