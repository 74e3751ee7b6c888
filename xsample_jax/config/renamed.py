"""Names that keys, values and words of a config had before. They are accepted with a warning until the next release."""

import warnings
from collections.abc import Mapping

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
VALUES = {"augment.background": {"random_colour": "random_color", "grey": "gray"}}
# In objective.terms: names of fields and options, and words that are values of one field.
TERMS = "objective.terms"
FIELDS = {"normaliser": "normalizer", "centre": "center"}
ROWS, WEIGHTS = {"neighbours": "neighbors"}, {"unsure": "inverse_one_minus_p"}
WORDS = {
    **{field: ROWS for field in ("block", "anchors", "keys", "x", "y", "beside", "times")},
    **{field: WEIGHTS for field in ("row_weight", "attraction", "repulsion")},
}


def current_name(name: str) -> str:
    """The present name of the dotted key `name`, with a warning where it had another."""
    if name in KEYS:
        _warn({name: KEYS[name]})
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
    section, leaf = _section_of(config, TERMS)
    if section is not None and isinstance(section.get(leaf), list | tuple):
        terms = _renamed(section[leaf], "", found)
        if any(old.startswith(TERMS) for old in found):
            section[leaf] = terms
    if found:
        _warn(found)


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


def _warn(found: dict[str, str]) -> None:
    names = ", ".join(f"{old} is now {new}" for old, new in found.items())
    warnings.warn(f"{names}. The next release does not accept the old names.", FutureWarning, stacklevel=3)
