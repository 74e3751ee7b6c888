"""Which entries of a source's rows (JSON beside a picture, line of a table, TFDS example) are captions and label."""

import contextlib
import dataclasses
from collections.abc import Mapping

import numpy as np

from xsample_jax.errors import DataError


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


def read_captions(row: Mapping, names: tuple[str, ...]) -> tuple[str, ...]:
    """The captions in a row: each entry is a text, a list or numpy array of texts, or nothing."""
    found = []
    for name in names:
        value = row.get(name)
        if isinstance(value, np.ndarray):
            value = value.ravel().tolist()
        for text in value if isinstance(value, list | tuple) else [value]:
            if isinstance(text, bytes):
                text = text.decode("utf-8", "replace")
            if text is not None and text == text:  # not NaN, which tables have for nothing
                found.append(str(text))
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
    if value is None or value == "" or value != value:
        return None
    with contextlib.suppress(TypeError, ValueError, OverflowError):  # of lists, names of classes, infinity
        number = int(value)
        if isinstance(value, str) or number == value:
            return number
    if isinstance(value, str):
        return value
    if name:
        raise DataError(name, value, "a whole number or a text")
    return None
