"""What sources deliver, before any work on it: examples, and problems where there is no example."""

import contextlib
import dataclasses
import numbers
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

import numpy as np

from xsample_jax.data.writer import check_split
from xsample_jax.errors import DataError


@dataclasses.dataclass(frozen=True)
class Example:
    """One picture as its source has it.

    Attributes:
      key: its name in the source.
      image: encoded bytes.
      captions: texts as found.
      label: index, name of a class, or None.
      attributes: further labels (see docs/data.md).
      group: pictures of one group go into one split; None: the key decides.
      id: kept where the source has ids of our kind; None: numbered here.
      caption_embeddings: float16 [captions, E], kept where the source has them.
    """

    key: str
    image: bytes
    captions: tuple[str, ...] = ()
    label: int | str | None = None
    attributes: dict = dataclasses.field(default_factory=dict)
    group: str | None = None
    id: int | None = None
    caption_embeddings: object = None


@dataclasses.dataclass(frozen=True)
class Problem:
    """Something in the source that gives no record, or a record that deserves a look.

    Attributes:
      key: of the example, or the name of the file.
      kind: one of KINDS.
      detail: what was found.
    """

    key: str
    kind: str
    detail: str = ""


# Kind -> what it means and what became of it; docs/data.md has the same list.
KINDS = {
    "broken_image": "does not decode: dropped",
    "no_image": "no picture, or its file is missing: dropped",
    "unread_picture": "a picture in a tar that is a link, of another format, or with two dots in its name: not read",
    "broken_metadata": "JSON that cannot be read, or no label or caption where one was asked for: dropped",
    "broken_record": "record that cannot be read: dropped",
    "duplicate_key": "key that this input shard had before: dropped, the first is kept",
    "truncated_tar": "the tar ends too early: what is whole before that place is kept",
    "no_caption": "no caption, or only white space: kept without, or dropped with --require_caption",
    "near_empty_caption": "caption of fewer than 3 letters and digits: kept",
    "cut_caption": "very long caption: cut",
    "not_unicode": "caption with bytes that are not UTF-8: replaced by U+FFFD",
}


@dataclasses.dataclass(frozen=True)
class InputShard:
    """The unit of work: read in one go by one process, lost at most once by a kill.

    Attributes:
      name: of the file or range, for messages.
      read: returns the examples and problems, in the same order every time. Must be picklable.
      identity: of what is read and how: names, sizes, times, rows, fields. Work goes on only where it is the same.
      split: where all of it goes; None: the hash of the key decides.
    """

    name: str
    read: Callable[[], Iterator[Example | Problem]]
    identity: str
    split: str | None = None


@dataclasses.dataclass(frozen=True)
class Source:
    """All input of one set.

    Attributes:
      shards: the units of work, in an order that does not depend on the machine.
      class_names: names of the labels; () when labels are plain numbers or absent.
      attributes: attribute -> names of its values.
      text_encoder: description of the embeddings that the examples bring, or None.
    """

    shards: tuple[InputShard, ...]
    class_names: tuple[str, ...] = ()
    attributes: dict = dataclasses.field(default_factory=dict)
    text_encoder: dict | None = None


def chunks(items: Iterable, size: int) -> Iterator[list]:
    """Yields lists of `size` items; the last may be shorter."""
    chunk = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


# Which entries of a source's rows (JSON beside a picture, line of a table, TFDS example) are captions and label.


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


# What lies below a folder: files by suffix, and the split that the first folder names.


IMAGE_SUFFIXES = {"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"}


def files_below(root: Path, suffixes: Collection[str]) -> list[str]:
    """Paths relative to `root` of the files with these suffixes, in capitals too, at any depth, sorted.

    Hidden files and folders are passed over. Links are followed, but not back to a folder that they lie in.
    """
    found = []
    above = {os.fspath(root): {_identity(root)}}  # folder -> itself and those on the way to it
    for folder, folders, files in os.walk(root, followlinks=True):
        way = above.pop(folder)
        inner = {name: _identity(os.path.join(folder, name)) for name in folders if not name.startswith(".")}
        folders[:] = [name for name in inner if inner[name] not in way]
        above |= {os.path.join(folder, name): way | {inner[name]} for name in folders}
        for file in files:
            if not file.startswith(".") and file.rpartition(".")[2].lower() in suffixes:
                found.append((Path(folder) / file).relative_to(root).as_posix())
    return sorted(found)


def _identity(folder: str | Path) -> tuple[int, int]:
    about = os.stat(folder)
    return about.st_dev, about.st_ino


def first_folder(name: str, path: str) -> str:
    """The split that a relative path names with its first folder; DataError where it names none."""
    parts = PurePosixPath(name).parts
    if len(parts) < 2:
        raise DataError("--split_by_folder", name, f"a file in a folder of {path} that names its split", "")
    check_split(parts[0], "--split_by_folder", f"Rename this folder of {path}, or move it away.")
    return parts[0]
