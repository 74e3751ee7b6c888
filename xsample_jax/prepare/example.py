"""What sources deliver, before any processing: examples, and problems where there is no example."""

import collections
import contextlib
import dataclasses
import numbers
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from xsample_jax.data.writer import check_split
from xsample_jax.errors import DataError
from xsample_jax.io.files import decode_text, parse_json


@dataclasses.dataclass(frozen=True)
class Example:
    """One image as its source has it.

    Attributes:
      key: its name in the source.
      image: encoded bytes.
      captions: texts as found.
      label: index; a text as it is written, which is the name of a class or an index (Job.label_index); or None.
      attributes: further labels (see docs/data.md).
      group: images of one group go into one split; None: the key decides.
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


PASSED = ("attributes",)  # fields of an example that its record has as they are, and an example that was a record


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
    "no_image": "no image, or its file is missing, outside --path, or not a regular file: dropped",
    "unread_image": "an image of a format that is not read (AVIF, HEIC, ...); in a tar also a link, a sparse file "
    "or a name with two dots: not read",
    "second_image": "a further image of a key in a tar: not read, the first is",
    "scattered_members": "members of a key that are not next to each other in their tar: not read (sort it by name)",
    "broken_metadata": "JSON that cannot be read, or no label or caption where one was asked for: dropped",
    "broken_record": "record that cannot be read: dropped",
    "left_out": "record that --leave_out names: left out",
    "near_image": "image that --leave_out_near has, or nearly: left out",
    "missing_field": "the entry of --label_field is not there: kept without a label",
    "unknown_label": "a label that is not one of the classes, without --label_field: kept without it "
    "(--class_names=FILE names classes)",
    "duplicate_key": "key that this input shard had before: dropped, the first is kept",
    "truncated_tar": "the tar ends too early: what is whole before that place is kept",
    "no_caption": "no caption, or only white space: kept without, or dropped with --require_caption",
    "missing_caption": "caption that only says that it is missing (nan, None, null, ...): counts as none",
    "near_empty_caption": "caption of fewer than 3 letters and digits: kept",
    "cut_caption": "very long caption: cut",
    "dark_16_bit": "image of 16 bits that uses less than an eighth of them, nearly black when stored in 8: kept",
    "not_unicode": "caption with bytes that are not UTF-8: replaced by U+FFFD",
}
# Problems reported beside an example that follows; every other problem takes the place of one.
REMARKS = ("second_image", "missing_field", "unknown_label")


@dataclasses.dataclass(frozen=True)
class InputShard:
    """The unit of work: read in one go by one process, lost at most once by a kill.

    Attributes:
      name: of the file or range, for messages.
      read: returns the examples and problems, in the same order every time. Must be picklable.
      identity: names, sizes, times, rows and fields of the input. Work continues only where it is the same.
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
      skipped: what was passed over while the input was listed, {"files .txt": 3, "hidden files": 1}; for the report.
      notes: sentences for the user about what the source decided, such as which folder level is the label.
      labels_are_names: every text is the name of a class, "3" too; False: a text that is no name may be an index.
    """

    shards: tuple[InputShard, ...]
    class_names: tuple[str, ...] = ()
    attributes: dict = dataclasses.field(default_factory=dict)
    text_encoder: dict | None = None
    skipped: Mapping[str, int] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    labels_are_names: bool = False


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


# Which entries of a source's rows (JSON beside an image, line of a table, TFDS example) are captions and label.


USUAL_CAPTIONS, USUAL_LABELS = ("caption", "captions", "text", "txt"), ("label", "cls")
NUMBER = re.compile(r"[+-]?[0-9]+(\.0*)?")  # "3.0" too: so pandas writes a column of numbers where some are missing
# What programs write in place of a text that is missing.
NO_TEXT = {"nan", "NaN", "NaT", "None", "null", "NULL", "<NA>", "NA", "N/A", "n/a"}
MISSING = {"nan", "none", "null", "na", "n/a", "<na>"}  # and so it writes those that are


@dataclasses.dataclass(frozen=True)
class Fields:
    """Names in the source; empty ones mean the usual name of that source.

    Attributes:
      captions: in the order in which a record will have them.
      label: of the class, a number or a name.
      image: of the path of the image (tables).
      class_names: of the labels, when the source does not tell.
      attributes: columns or JSON entries that become attributes; of folders, names of the levels from the top.
      label_level: of folders, which level is the label: "path" (all levels joined), a number from 1, or "" (innermost).
    """

    captions: tuple[str, ...] = ()
    label: str = ""
    image: str = ""
    class_names: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    label_level: str = ""


def entry(row: Mapping, name: str):
    """`row[name]`, or of "captions/text" the entry `text` of every item of `captions`; None where there is none."""
    if name in row or "/" not in name:
        return row.get(name)
    outer, _, inner = name.partition("/")
    value = row.get(outer)
    if isinstance(value, Mapping):
        return entry(value, inner)
    if isinstance(value, np.ndarray | list | tuple):
        return [entry(item, inner) for item in value if isinstance(item, Mapping)]
    return None


def label_entry(fields: Fields, names: Collection[str]) -> str:
    """The entry with the labels: the one that was asked for, or the first of USUAL_LABELS that is there."""
    return fields.label or next((name for name in USUAL_LABELS if name in names), USUAL_LABELS[0])


def is_words(value) -> bool:
    """Whether an entry may be a caption: a text of several words, or a list with one."""
    texts = value if isinstance(value, list) else [value]
    return any(isinstance(text, str) and " " in text.strip() for text in texts)


def unread_texts(columns: Iterable[str], fields: Fields) -> list[str]:
    """A note that names these columns of texts, where none of them is read as captions."""
    columns = list(columns)
    if fields.captions or set(columns) & set(USUAL_CAPTIONS):
        return []
    read = {label_entry(fields, columns), fields.image, *fields.attributes}
    if not (others := [name for name in columns if name not in read]):
        return []
    shown = ", ".join(others[:8]) + ", ..." * (len(others) > 8)
    usual = f"{', '.join(USUAL_CAPTIONS[:-1])} or {USUAL_CAPTIONS[-1]}"
    return [f"Captions: none, as no column or entry is named {usual}; --caption_fields takes {shown}."]


SAMPLE = 100  # JSON maps in which texts that are not read are looked for


def unread_entries(rows: Iterable[Mapping], fields: Fields) -> list[str]:
    """`unread_texts` of JSON maps: the entries with words, where none of the maps has a caption.

    The maps are not read where the user named captions, as nothing would be said of them.
    """
    if fields.captions:
        return []
    rows = [row for row in rows if isinstance(row, Mapping)]
    if any(read_captions(row, ()) for row in rows):
        return []
    return unread_texts(dict.fromkeys(name for row in rows for name in row if is_words(row[name])), fields)


def read_captions(row: Mapping, asked: tuple[str, ...], usual: tuple[str, ...] = USUAL_CAPTIONS) -> tuple[str, ...]:
    """The captions in a row: each entry is a text or number, a list or numpy array of them, or nothing.

    Args:
      row: the entries.
      asked: names of the user, in this order.
      usual: names that count where the user gave none; an entry that is not a text is not a caption.

    Raises DataError for an entry that was asked for and is something else.
    """
    found = []
    for name in asked or usual:
        value = entry(row, name)
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
    """The label in a row: an int, or a text as it is written ("3" too, which may be a name); None where there is none.

    Without a name it is one of USUAL_LABELS, which was not asked for: an entry that is no label (a list, say) is None.

    Raises DataError for an entry `name` that is neither a whole number nor a text.
    """
    value = entry(row, name) if name else row.get("label", row.get("cls"))
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()  # a number, a text or a list
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        return value.strip() or None
    if value is None or value != value:
        return None
    with contextlib.suppress(TypeError, ValueError, OverflowError):  # of lists, infinity
        if int(value) == value:
            return int(value)
    if name:
        raise DataError(name, value, "a whole number or a text")
    return None


def number_in(text: str) -> int | None:
    """The whole number that a text stands for, as 3 for "3" or "3.0"; None for any other text."""
    with contextlib.suppress(ValueError):  # more digits than int() takes
        return int(text.partition(".")[0]) if NUMBER.fullmatch(text) else None


def texts_are_names(class_names: Sequence[str]) -> bool:
    """Whether some name is another number than that of its class, so that "1" as a label can only be a name."""
    return any(number_in(name) not in (None, number) for number, name in enumerate(class_names))


def read_column(labels: Sequence[int | str | None], class_names: Sequence[str] = ()) -> tuple[list, dict, list[str]]:
    """The labels of a whole column: all are names where one is a name that is no number, otherwise numbers.

    Args:
      labels: of its rows, as read_label has them.
      class_names: of the user; (): the names are those in the column, in the order of the alphabet.

    Returns:
      The labels, `class_names` and `labels_are_names` of their Source, and notes for the user.
    """
    words = {label for label in labels if isinstance(label, str) and number_in(label) is None}
    missing = {word for word in words if word.lower() in MISSING} - set(class_names)
    numbered = words == missing and any(label is not None and label not in words for label in labels)
    notes = []
    if missing and numbered:
        count = sum(label in missing for label in labels)
        notes = [f"{', '.join(sorted(missing))} among labels that are numbers: no label ({count} times)."]
        labels = [None if label in missing else label for label in labels]
    elif words:
        labels = [None if label is None else str(label) for label in labels]
        class_names = class_names or sorted({label for label in labels if label is not None})
        return labels, {"class_names": tuple(class_names), "labels_are_names": True}, notes
    if class_names:
        names = {"class_names": tuple(class_names), "labels_are_names": texts_are_names(class_names)}
        return list(labels), names, notes
    return [number_in(label) if isinstance(label, str) else label for label in labels], {}, notes


def is_unasked(label: int | str | None, fields: Fields) -> bool:
    """Whether a label is a text that nobody asked for: no entry of labels and no class was named."""
    return isinstance(label, str) and number_in(label) is None and not fields.label and not fields.class_names


# What a folder contains: files by suffix, and the split that the first folder names.


IMAGE_SUFFIXES = {
    "jpg", "jpeg", "jpe", "jfif", "png", "webp", "gif", "bmp", "dib", "tif", "tiff", "ppm", "pgm", "pbm", "pnm",
}  # fmt: skip
UNREAD_SUFFIXES = {"avif", "heic", "heif", "jp2", "jxl", "j2k", "svg", "ico", "tga", "dng", "cr2", "nef", "arw", "raw"}
TEXT_SUFFIXES = {"txt", "json", "cls"}


def files_below(root: Path, suffixes: Collection[str]) -> tuple[list[str], collections.Counter]:
    """Paths relative to `root` of the files with these suffixes, in capitals too, at any depth, sorted.

    Hidden files and folders are skipped. Links are followed, but not back to a folder that they are in.

    Returns:
      The paths, and how many others there are by kind: "files .md", "hidden files", "links in circles", ...

    Raises:
      DataError: a folder that cannot be listed: its images would be missing without a word.
    """

    def refuse(error: OSError):
        fix = "Grant the right to read it, or move it away."
        raise DataError(f"folder {error.filename}", error.strerror, "a folder that can be listed", fix) from error

    found, skipped = [], collections.Counter()
    above = {os.fspath(root): {_identity(root)}}  # folder -> itself and those on the way to it
    for folder, folders, files in os.walk(root, followlinks=True, onerror=refuse):
        way = above.pop(folder)
        shown = [name for name in folders if not name.startswith(".")]
        skipped["hidden folders"] += len(folders) - len(shown)
        inner = {name: _identity(os.path.join(folder, name)) for name in shown}
        folders[:] = [name for name in inner if inner[name] not in way]
        skipped["links in circles"] += len(inner) - len(folders)
        above |= {os.path.join(folder, name): way | {inner[name]} for name in folders}
        for file in files:
            suffix = file.rpartition(".")[2].lower() if "." in file else ""
            if file.startswith("."):
                skipped["hidden files"] += 1
            elif suffix in suffixes:
                found.append((Path(folder) / file).relative_to(root).as_posix())
            else:
                skipped[f"files .{suffix}" if suffix else "files without a suffix"] += 1
    return sorted(found), +skipped


def _identity(folder: str | Path) -> tuple[int, int]:
    about = os.stat(folder)
    return about.st_dev, about.st_ino


def example_of_members(key: str, members: Mapping[str, bytes], fields: Fields, labels: Mapping) -> Iterator:
    """Yields the example of an image and the .txt, .json and .cls beside it, and problems with what they hold.

    Args:
      members: {suffix: bytes}, one of them an image; of several the first is read, the others are problems.
      labels: attribute -> {name of a value: its number}, of the JSON entries that become attributes.
    """
    first, *others = [suffix for suffix in members if suffix in IMAGE_SUFFIXES]
    for suffix in others:
        yield Problem(f"{key}.{suffix}", "second_image", f"beside .{first}")
    row = {}
    if "json" in members:
        try:
            row = parse_json(members["json"])
        except (ValueError, RecursionError) as error:
            yield Problem(key, "broken_metadata", str(error))
            return
        if not isinstance(row, dict):
            yield Problem(key, "broken_metadata", f"{type(row).__name__}, not a map")
            return
    if fields.label and entry(row, fields.label) is None:
        yield Problem(key, "missing_field", fields.label)
    try:
        if "txt" in members and not fields.captions:
            captions = (decode_text(members["txt"], "replace"),)
        else:
            captions = read_captions(row, fields.captions)
        if "cls" in members and not fields.label:
            label = read_label({"label": decode_text(members["cls"])}, "")
        else:
            label = read_label(row, fields.label)
            if is_unasked(label, fields):
                yield Problem(key, "unknown_label", label[:80])
                label = None
    except (DataError, UnicodeError) as error:  # a letter less in .cls would be another class
        yield Problem(key, "broken_metadata", str(error))
        return
    attributes = {name: number_of.get(attribute_value(row, name)) for name, number_of in labels.items()}
    if None in attributes.values():
        yield Problem(key, "broken_metadata", f"no value of {', '.join(attributes)}")
        return
    yield Example(key, members[first], captions, label, attributes)


def attribute_value(row: Mapping, name: str) -> str:
    """The value of an attribute as text; "" where there is none, or what pandas writes for nothing."""
    value = entry(row, name)
    text = "" if value is None or value != value else str(value).strip()
    return "" if text in ("nan", "NaN", "<NA>") else text


def number_values(rows: Iterable[Mapping], names: Sequence[str]) -> dict[str, dict[str, int]]:
    """attribute -> {value: its number}, values in the order of the alphabet; DataError for an entry no row has."""
    values: dict[str, set[str]] = {name: set() for name in names}
    for row in rows:
        for name in names:
            values[name].add(attribute_value(row, name))
    for name, found in values.items():
        if found <= {""}:
            raise DataError("--attributes", name, "an entry that some example has", "Leave it out.")
    return {name: {value: number for number, value in enumerate(sorted(found))} for name, found in values.items()}


def first_folder(name: str, path: str) -> str:
    """The split that a relative path names with its first folder; DataError where it names none."""
    parts = PurePosixPath(name).parts
    if len(parts) < 2:
        raise DataError("--split_by_folder", name, f"a file in a folder of {path} that names its split", "")
    check_split(parts[0], "--split_by_folder", f"Rename this folder of {path}, or move it away.")
    return parts[0]
