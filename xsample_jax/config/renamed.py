"""Former names of config keys, values and metrics: accepted with a warning until the next release."""

import warnings
from collections.abc import Mapping
from typing import TypeVar

import ml_collections

KEYS = {
    "augment.grey": "augment.gray",
    "objective.centre": "objective.center",
    "objective.target_neighbours": "objective.target_neighbors",
    "loss.tile": "loss.block_size",
    "loss.tiles": "loss.kernel",
    "loss.exchange": "loss.collective",
    "loss.wire": "loss.comm_dtype",
    "loss.caption_wire": "loss.caption_comm_dtype",
}
METRICS = {"random_colour": "random_color", "colour": "color"}  # parts of the names of metrics, as in a/random_colour/b
RANKING = "checkpoint.metric"  # a key whose value is the name of a metric
VALUES = {"augment.background": {"random_colour": "random_color", "grey": "gray"}}
# In objective.terms: names of fields and options, and words that are values of one field.
TERMS = "objective.terms"
FIELDS = {"normaliser": "normalizer", "centre": "center"}
ROWS, WEIGHTS = {"neighbours": "neighbors"}, {"unsure": "inverse_one_minus_p"}
WORDS = {
    **{field: ROWS for field in ("block", "anchors", "keys", "x", "y", "beside", "times")},
    **{field: WEIGHTS for field in ("row_weight", "attraction", "repulsion")},
}

Value = TypeVar("Value")


def current_name(name: str) -> str:
    """The present name of the dotted key `name`, with a warning where it had another."""
    if name in KEYS:
        warn_renamed({name: KEYS[name]})
    return KEYS.get(name, name)


def rename(config: dict | ml_collections.ConfigDict) -> None:
    """Gives everything in `config` its present name, in place; an old name replaces the value of the new one."""
    found = {}
    for old, new in KEYS.items():
        section, leaf = _section_of(config, old)
        if section is not None and leaf in section:
            value = section[leaf]
            del section[leaf]
            section[new.rpartition(".")[2]] = value
            found[old] = new
    for name, words in VALUES.items():
        section, leaf = _section_of(config, name)
        if section is not None and isinstance(section.get(leaf), str) and section[leaf] in words:
            section[leaf] = _word(section[leaf], words, f"{name}=", found)
    section, leaf = _section_of(config, RANKING)
    if section is not None and isinstance(section.get(leaf), str):
        section[leaf] = _metric(section[leaf], f"{RANKING}=", found)
    section, leaf = _section_of(config, TERMS)
    if section is not None and isinstance(section.get(leaf), list | tuple):
        terms = _renamed(section[leaf], "", found)
        if any(old.startswith(TERMS) for old in found):
            section[leaf] = terms
    if found:
        warn_renamed(found)


def rename_metrics(values: Mapping[str, Value], found: dict[str, str]) -> dict[str, Value]:
    """`values` by the present names of their metrics; the old ones are noted in `found`, for `warn_renamed`."""
    return {_metric(name, "", found): value for name, value in values.items()}


def current_metrics(values: Mapping[str, Value]) -> dict[str, Value]:
    """`values` by the present names of their metrics, with a warning where one had another."""
    found = {}
    renamed = rename_metrics(values, found)
    warn_renamed(found)
    return renamed


def _metric(name: str, before: str, found: dict) -> str:
    new = "/".join(METRICS.get(part, part) for part in name.split("/"))
    if new != name:
        found[before + name] = new
    return new


def _renamed(value: object, field: str, found: dict) -> object:
    """Plain data of a term with its present words; `field`: which field of the term the value is of."""
    if isinstance(value, Mapping):
        return {
            _word(name, FIELDS, f"{TERMS}: ", found): _renamed(part, field if name == "name" else name, found)
            for name, part in value.items()
        }
    if isinstance(value, list | tuple):
        return tuple(_renamed(part, field, found) for part in value)
    return _word(value, WORDS.get(field, {}), f"{TERMS}: {field}=", found)


def _section_of(config: Mapping, name: str) -> tuple[Mapping | None, str]:
    """The section that holds the key `name`, or None where there is none, and the key's own name."""
    *path, leaf = name.split(".")
    for part in path:
        config = config.get(part) if isinstance(config, Mapping | ml_collections.ConfigDict) else None
    return (config if isinstance(config, Mapping | ml_collections.ConfigDict) else None), leaf


def _word(word: object, words: dict, before: str, found: dict) -> object:
    """The present form of `word`; an old one is noted in `found`."""
    if not isinstance(word, str) or word not in words:
        return word
    found[before + word] = words[word]
    return words[word]


def warn_renamed(found: Mapping[str, str]) -> None:
    """One warning for all old names, {old: new}; none for {}."""
    if not found:
        return
    names = ", ".join(f"{old} is now {new}" for old, new in found.items())
    warnings.warn(f"{names}. The next release does not accept the old names.", FutureWarning, stacklevel=3)
