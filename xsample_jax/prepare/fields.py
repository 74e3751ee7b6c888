"""Which entries of a source's rows (JSON beside a picture, line of a table, TFDS example) are captions and label."""

import contextlib
import dataclasses
import numbers
import re
from collections.abc import Mapping

import numpy as np

from xsample_jax.errors import DataError

NUMBER = re.compile(r"[+-]?[0-9]+(\.0*)?")  # "3.0" too: so pandas writes a column of numbers where some are missing


@dataclasses.dataclass(frozen=True)
class Fields:
    """Names in the source; empty ones mean the usual name of that source.

    Attributes:
      captions: in the order in which a record will have them.
      label: of the class, a number or a name.
      image: of the path of the picture (tables).
      class_names: of the labels, when the source does not tell.
    """

    captions: tuple[str, ...] = ()
    label: str = ""
    image: str = ""
    class_names: tuple[str, ...] = ()


def read_captions(row: Mapping, asked: tuple[str, ...], usual: tuple[str, ...]) -> tuple[str, ...]:
    """The captions in a row: each entry is a text or number, a list or numpy array of them, or nothing.

    Args:
      row: the entries.
      asked: names of the user, in this order.
      usual: names that count where the user gave none; what is no text there is no caption.

    Raises DataError for an entry that was asked for and is something else.
    """
    found = []
    for name in asked or usual:
        value = row.get(name)
        if isinstance(value, np.ndarray):
            value = value.ravel().tolist()
        for text in value if isinstance(value, list | tuple) else [value]:
            if isinstance(text, bytes):
                text = text.decode("utf-8", "replace")
            if text is None or text != text:  # NaN, which tables have for nothing
                continue
            if isinstance(text, str | numbers.Number) and not isinstance(text, bool):
                found.append(str(text))
            elif asked:
                raise DataError(name, text, "a text, or a list of texts")
    return tuple(found)


def read_label(row: Mapping, name: str) -> int | str | None:
    """The label in a row: an int (also written as text), or the name of a class; None where there is none.

    Without a name it is the entry "label", which nobody has asked for: what is no label there (a list, say) is None.

    Raises DataError for an entry `name` that is neither a whole number nor a text.
    """
    value = row.get(name or "label")
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()  # a number, a text or a list
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        value = value.strip()
        with contextlib.suppress(ValueError):  # more digits than int() takes
            return int(value.partition(".")[0]) if NUMBER.fullmatch(value) else value or None
        return value
    if value is None or value != value:
        return None
    with contextlib.suppress(TypeError, ValueError, OverflowError):  # of lists, infinity
        if int(value) == value:
            return int(value)
    if name:
        raise DataError(name, value, "a whole number or a text")
    return None
