"""The controlled set `shapes`: its factors, which values picture number i has, and what captions say of them.

Factors are independent and uniform, so chance and the similarity of any two pictures are known exactly.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from xsample_jax.errors import DataError, did_you_mean

FACTORS = {
    "shape": ("circle", "square", "triangle", "star", "cross", "ring", "heart", "hexagon"),
    "colour": ("red", "orange", "yellow", "green", "blue", "purple", "pink", "grey"),
    "texture": ("plain", "striped", "dotted", "checked"),
    "count": ("one", "two", "three", "four"),
    "ground": ("sky", "grass", "sand", "brick", "night", "paper"),
    "position": ("left", "right", "top", "bottom", "centre"),
}
# The captions of a picture, in the order of `data.caption`: what each of them names.
CAPTIONS = (tuple(FACTORS), ("shape", "colour", "texture", "count"), ("shape",), ("ground",))

_POSITIONS = {
    "left": "on the left", "right": "on the right", "top": "at the top", "bottom": "at the bottom",
    "centre": "in the centre",
}  # fmt: skip
_GROUNDS = {"sky": "in the sky", "night": "at night"}


def factors_of(index: int) -> dict[str, int]:
    """The value of every factor in picture `index`: digits of a hash, the same on every machine."""
    number = int.from_bytes(hashlib.blake2b(f"shapes {index}".encode(), digest_size=16).digest(), "big")
    values = {}
    for name, names in FACTORS.items():
        number, values[name] = divmod(number, len(names))
    return values


def caption_of(values: dict[str, int], named: Sequence[str]) -> str:
    """A caption that names these factors and no others: "three red striped stars on the left, on grass"."""
    words = {name: FACTORS[name][values[name]] for name in named}
    thing = words.get("shape", "")
    if thing and words.get("count", "one") != "one":
        thing += "es" if thing == "cross" else "s"
    parts = [" ".join(filter(None, (words.get("count"), words.get("colour"), words.get("texture"), thing)))]
    if "position" in words:
        parts[0] += f" {_POSITIONS[words['position']]}"
    if "ground" in words:
        parts.append(_GROUNDS.get(words["ground"], f"on {words['ground']}"))
    return ", ".join(part.strip() for part in parts if part)


def factor_vector(values: dict[str, int], named: Sequence[str]) -> np.ndarray:
    """A unit vector float32 [35] for a caption: the cosine of two is the share of the named factors that agree."""
    rows = [np.zeros(len(names), np.float32) for names in FACTORS.values()]
    for row, name in zip(rows, FACTORS, strict=True):
        if name in named:
            row[values[name]] = len(named) ** -0.5
    return np.concatenate(rows)


def check_factors(named: Sequence[str]) -> tuple[str, ...]:
    """Returns the names in the order of FACTORS; DataError for one that is none of them or is there twice."""
    for name in named:
        if name not in FACTORS:
            expected = f"factors of shapes: {', '.join(FACTORS)}"
            raise DataError("--caption_fields", name, expected, did_you_mean(name, FACTORS))
    if len(set(named)) < len(named):
        raise DataError("--caption_fields", ",".join(named), "each factor once")
    return tuple(name for name in FACTORS if name in named)
