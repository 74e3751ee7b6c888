"""A folder of images: folder names as labels, or a table of captions and labels beside it."""

import collections
import contextlib
import csv
import errno
import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath

from xsample_jax.errors import DataError, did_you_mean
from xsample_jax.io.files import check_once, file_encoding, parse_json, read_regular, read_text
from xsample_jax.prepare.example import (
    IMAGE_SUFFIXES,
    SAMPLE,
    TEXT_SUFFIXES,
    UNREAD_SUFFIXES,
    Example,
    Fields,
    InputShard,
    Problem,
    Source,
    attribute_value,
    chunks,
    example_of_members,
    files_below,
    first_folder,
    is_words,
    number_values,
    read_captions,
    read_column,
    read_label,
    texts_are_names,
    unread_entries,
    unread_texts,
)
from xsample_jax.prepare.parquet import image_bytes_columns

# CSV, JSON lines and Parquet: one row per image or per caption.


IMAGE_COLUMNS = ("image", "file_name", "filename", "file", "path", "filepath", "image_path")


def read_table(path: str | Path) -> list[dict]:
    """Returns all rows of a .csv, .tsv, .jsonl or .parquet file.

    Raises:
      DataError: missing, of another kind, not readable (with the line), or empty; Parquet that holds images itself.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError("--table", str(path), "an existing file")
    try:
        kind = path.suffix.lower()
        if kind in (".csv", ".tsv"):
            rows = _read_csv(path, _separator(_first_line(path), "\t" if kind == ".tsv" else ","))
        elif kind in (".jsonl", ".ndjson"):
            rows = _read_json_lines(path)
        elif kind == ".parquet":
            import pyarrow.parquet  # half a second to import, which only tables of this kind should cost

            file = pyarrow.parquet.ParquetFile(path)
            check_once(file.schema_arrow.names, path)
            if inside := image_bytes_columns(file.schema_arrow):
                fix = f"Use --source=parquet --path={path}."
                raise DataError("--table", str(path), f"paths of images; the column {inside[0]} holds images", fix)
            rows = file.read().to_pylist()
        else:
            raise DataError("--table", str(path), "a .csv, .tsv, .jsonl or .parquet file")
    except DataError:
        raise
    except (OSError, ValueError, csv.Error) as error:  # pyarrow and unicode errors are ValueErrors
        if isinstance(error, UnicodeError):
            read_text(path, "--table")  # says where, and how to mend it
        raise DataError("--table", str(path), f"a readable table ({error})") from error
    if not rows:
        raise DataError("--table", str(path), "at least one row")
    return rows


def image_column(columns: Collection[str], name: str, path: str | Path) -> str:
    """The column with the images' paths: `name`, or the first usual one."""
    if name:
        check_column(columns, name, "--image_field", path)
        return name
    for usual in IMAGE_COLUMNS:
        if usual in columns:
            return usual
    fix = "Name it: --image_field=COLUMN." + _other_separator(columns)
    raise DataError(f"columns of {path}", ", ".join(columns), "one with the paths of the images", fix)


def check_column(columns: Collection[str], name: str, flag: str, path: str | Path) -> None:
    """Raises DataError for a column that is not there; it names those that are."""
    if name not in columns:
        shown = ", ".join(columns)
        fix = did_you_mean(name, columns) + _other_separator(columns)
        raise DataError(flag, name, f"a column of {path}: {shown[:200]}", fix.strip())


LONGEST = 2**20  # characters of an entry; what is longer is a quote without a partner
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}


def _first_line(path: Path) -> str:
    """The first line of a text; DataError for one with zero bytes, as of UTF-16 without its mark."""
    with open(path, newline="", encoding=file_encoding(path)) as file:
        first = file.readline()
    if "\0" in first:
        read_text(path, "--table")
    return first


def _separator(first: str, usual: str) -> str:
    """What separates the names in the first line: `usual` or, where it is not there, the only other one that is."""
    there = [mark for mark in SEPARATORS if mark in first]
    return there[0] if len(there) == 1 else usual


def _other_separator(columns: Collection[str]) -> str:
    """A sentence where a separator is inside the names of columns, which are then not what was meant."""
    found = next((words for mark, words in SEPARATORS.items() if any(mark in name for name in columns)), "")
    return f" Their names have {found} in them: separate all by commas, or save as .tsv with tabs." * bool(found)


def _read_csv(path: Path, comma: str) -> list[dict]:
    csv.field_size_limit(LONGEST)
    with open(path, newline="", encoding=file_encoding(path)) as file:
        reader = csv.DictReader(file, delimiter=comma, strict=True)
        if any(name != name.lstrip() for name in reader.fieldnames or ()):  # "image, caption": so in all its lines
            file.seek(0)
            reader = csv.DictReader(file, delimiter=comma, strict=True, skipinitialspace=True)
        reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        check_once(filter(None, reader.fieldnames), path)
        rows, before = [], 1
        try:
            for row in reader:
                line, before = before + 1, reader.line_num
                if None in row or None in row.values():
                    expected = f"{len(reader.fieldnames)} values, as the first line"
                    raise DataError(f"{path}, line {line}", list(row.values()), expected, "Put quotes around commas.")
                if before > line and any(_holds_rows(value, comma) for value in row.values()):
                    expected = f"a row on one line; a quote that opens there closes on line {before}"
                    raise DataError(f"{path}, line {line}", list(row.values()), expected, "Remove or double the quote.")
                row.pop("", None)  # spreadsheets end lines with columns that have no name
                rows.append(row)
        except csv.Error as error:
            fix = "Is a quote missing? Inside quotes, a quote is written twice."
            raise DataError(f"{path}, line {before + 1}", str(error), "a row that can be read", fix) from error
    return rows


def _holds_rows(value: str, comma: str) -> bool:
    """Whether a value of several lines has rows of the table in it: a quote without a partner takes them in."""
    inner = [line.split(comma) for line in value.splitlines()[1:]]
    named = any(cell.rpartition(".")[2].lower() in IMAGE_SUFFIXES for cells in inner for cell in cells if "." in cell)
    return any(len(cells) > 1 for cells in inner) and (named or comma == "\t")


def _read_json_lines(path: Path) -> list[dict]:
    rows = []
    _first_line(path)
    with open(path, encoding=file_encoding(path)) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = parse_json(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path}, line {number}", line[:80], f"JSON ({error})") from error
            if not isinstance(row, dict):
                raise DataError(f"{path}, line {number}", line[:80], "a JSON map")
            rows.append(row)
    return rows


# (path relative to the folder, captions, label, values of the attributes)
Row = tuple[str, tuple[str, ...], int | str | None, tuple[str, ...]]

NO_FIELDS = Fields()

# Of a file that is not there, or is none. Any other error may be gone when the same command is given again.
NO_FILE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP}


def folder_source(
    path: str, fields: Fields, table: str | None = None, split_by_folder: bool = False, shard_size: int = 10_000
) -> Source:
    """The images of a folder, sorted by path; `shard_size` of them are an input shard.

    Without a table every image counts. Where some image has a .txt or .json of its name beside it, these hold captions
    and labels, as in the tars of img2dataset; otherwise the folders are the labels (`fields.label_level`). With a table
    the table says what the set is; rows of the same image are its captions, in the order of the table.

    Args:
      path: the folder.
      fields: columns of the table, or entries of the JSON files.
      table: CSV, TSV, JSONL or Parquet; its paths are relative to `path`.
      split_by_folder: the first folder below `path` names the split.
      shard_size: images per input shard.
    """
    root = Path(path)
    if not root.is_dir():
        raise DataError("--path", path, "an existing folder")
    beside, skipped = None, {}
    if table:
        rows, classes, notes = _table_rows(table, fields, root)
    else:
        names, skipped = files_below(root, IMAGE_SUFFIXES | UNREAD_SUFFIXES | TEXT_SUFFIXES)
        rows, beside, passed, notes = _listed_rows(names, fields, split_by_folder)
        skipped |= passed
        notes = (*notes, *_unread_table(root), *_unread_entries(root, beside or {}, fields))
        names = fields.class_names or tuple(sorted({row[2] for row in rows if row[2] is not None}))
        classes = {"class_names": names, "labels_are_names": beside is None or texts_are_names(names)}
    if not rows:
        kinds = ", ".join(sorted(IMAGE_SUFFIXES))
        there = f" There are {', '.join(f'{count} {kind}' for kind, count in skipped.items())}." if skipped else ""
        raise DataError("--path", path, f"a folder with images ({kinds}), at any depth", f"None is there.{there}")
    for flag, value in (("--caption_fields", fields.captions), ("--label_field", fields.label)):
        if value and not table and beside is None:
            raise DataError(flag, value, "a --table, or .json files beside the images", "Give --table=FILE.")
    attributes = _number_attributes(root, rows, fields, beside)
    splits: dict[str | None, list[Row]] = {}
    for row in rows:
        splits.setdefault(first_folder(row[0], path) if split_by_folder else None, []).append(row)
    shards = []
    for split in sorted(splits, key=str):
        for number, chunk in enumerate(chunks(splits[split], shard_size)):
            texts = beside and {row[0]: beside[row[0]] for row in chunk if row[0] in beside}
            about = [str(root.absolute()), chunk, str(fields), texts, _digest_of_files(root, chunk, texts or {})]
            identity = hashlib.sha256(json.dumps(about).encode()).hexdigest()
            name = f"{split or root.name}, images {number * shard_size} to {number * shard_size + len(chunk) - 1}"
            read = partial(read_files, str(root), chunk, texts, fields, attributes)
            shards.append(InputShard(name, read, identity, split))
    return Source(
        tuple(shards),
        attributes={name: tuple(values) for name, values in attributes.items()},
        skipped=skipped,
        notes=notes,
        **classes,
    )


def _unread_table(root: Path) -> list[str]:
    """A note about the table that Hugging Face's ImageFolder reads without being asked."""
    names = [f"{where}metadata.{kind}" for where in ("", "*/") for kind in ("csv", "jsonl", "parquet")]
    found = [file for name in names for file in sorted(root.glob(name))]
    if not found:
        return []
    how = f"--table={found[0]} takes its captions and labels" if found[0].parent == root else "--source=hf reads it"
    return [f"The table {found[0].relative_to(root)} is not read; {how}."]


# {image: {suffix: the file with its captions and labels}}, all relative to the folder.
Texts = Mapping[str, Mapping[str, str]]


def _digest_of_files(root: Path, rows: list[Row], texts: Texts) -> str:
    """SHA-256 (hex) of size and time of these images, and of the texts beside them."""
    digest = hashlib.sha256()
    for name, *_ in rows:
        for one in (name, *texts.get(name, {}).values()):
            about = None
            with contextlib.suppress(OSError, ValueError):  # what is not there is reported where files are read
                stat = os.stat(os.path.join(root, one))
                about = stat.st_size, stat.st_mtime_ns
            digest.update(f"{about}\n".encode())
    return digest.hexdigest()


def read_files(
    root: str,
    rows: list[Row],
    texts: Texts | None = None,
    fields: Fields = NO_FIELDS,
    attributes: Mapping[str, Mapping[str, int]] = {},
) -> Iterator[Example | Problem]:
    """Yields one example per row, or a problem where there is no image.

    texts: where captions and labels are; None: in the rows.
    """
    for name, captions, label, values in rows:
        file = Path(root) / name
        if file.suffix[1:].lower() in UNREAD_SUFFIXES:
            yield Problem(name, "unread_image", file.suffix)
            continue
        if os.path.isabs(name) or ".." in PurePosixPath(name).parts:
            yield Problem(name, "no_image", "outside --path")
            continue
        try:
            data = read_regular(file)
            if texts is not None:
                members = {file.suffix[1:].lower(): data} | _read_texts(root, texts.get(name, {}))
                yield from example_of_members(name, members, fields, attributes)
                continue
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno not in NO_FILE:
                fix = "Give the same command again when it can be read: it continues from here."
                raise DataError(f"image {name}", error.strerror, "a file that can be read", fix) from error
            yield Problem(name, "no_image", str(error))
            continue
        numbers = {attribute: attributes[attribute][value] for attribute, value in zip(attributes, values, strict=True)}
        yield Example(name, data, captions, label, numbers)


def _read_texts(root: str, files: Mapping[str, str]) -> dict[str, bytes]:
    found = {}
    for suffix, name in files.items():
        with contextlib.suppress(FileNotFoundError):  # a link to nothing
            found[suffix] = read_regular(Path(root) / name)
    return found


def _texts_beside(names: list[str]) -> tuple[Texts, dict[str, int]]:
    """({image: {suffix: the .txt, .json or .cls of its name}}, how many such files no image has)."""
    found: dict[str, dict[str, str]] = collections.defaultdict(dict)
    for name in reversed(names):  # so that of a.TXT and a.txt the second, which most programs write, counts
        if _is_text(name):
            stem, _, suffix = name.rpartition(".")
            found[stem].setdefault(suffix.lower(), name)
    stems = {name: name.rpartition(".")[0] for name in names if not _is_text(name)}
    texts = {name: found[stem] for name, stem in stems.items() if stem in found}
    read = sum(len(found[stem]) for stem in set(stems.values()) if stem in found)
    return texts, {"texts without an image": len(names) - len(stems) - read}


def _listed_rows(
    names: list[str], fields: Fields, split_by_folder: bool
) -> tuple[list[Row], Texts | None, Mapping[str, int], tuple[str, ...]]:
    """(a row for each image, the texts that describe them, what was skipped, notes) of a folder without a table."""
    images = [name for name in names if not _is_text(name)]
    texts, skipped = _texts_beside(names)
    if texts and not fields.label_level:
        notes = ["Captions and labels are read from the .txt, .json and .cls beside the images, not from folder names."]
        shared = len(texts) - len({name.rpartition(".")[0] for name in texts})
        if shared:
            notes.append(f"{shared} images have the texts of another image of the same name, as a.png beside a.jpg.")
        return [(name, (), None, ()) for name in images], texts, +collections.Counter(skipped), tuple(notes)
    skipped |= {"texts beside images": len(names) - len(images) - skipped["texts without an image"]}
    rows, parents = [], collections.defaultdict(set)
    for name in images:
        levels = PurePosixPath(name).parts[int(split_by_folder) : -1]
        label = _label_of(levels, fields.label_level, name)
        values = tuple(levels[place] if place < len(levels) else "" for place in range(len(fields.attributes)))
        rows.append((name, (), label, values))
        if label is not None and not fields.label_level:
            parents[label].add(levels[:-1])
    shared = sorted((label for label in parents if len(parents[label]) > 1), key=lambda label: -len(parents[label]))
    notes = ["The label is the innermost folder (--label_level=1 is the first, --label_level=path all of them joined)."]
    if shared:
        some = ", ".join(f"{label} ({len(parents[label])} folders)" for label in shared[:5])
        notes.append(f"{len(shared)} labels are folders of one name in several places, and one class each: {some}.")
    deep = any(len(PurePosixPath(name).parts) > 2 + split_by_folder for name in images)
    return rows, None, +collections.Counter(skipped), tuple(notes) if parents and (deep or shared) else ()


def _is_text(name: str) -> bool:
    return name.rpartition(".")[2].lower() in TEXT_SUFFIXES


def _label_of(levels: tuple[str, ...], level: str, name: str) -> str | None:
    if level == "path":
        return "/".join(levels) or None
    if not level:
        return levels[-1] if levels else None
    if not level.isascii() or not level.isdigit() or int(level) < 1:
        raise DataError("--label_level", level, "path, or the number of a folder level, from 1")
    return levels[int(level) - 1] if len(levels) >= int(level) else None


def _number_attributes(root: Path, rows: list[Row], fields: Fields, texts: Texts | None) -> dict[str, dict[str, int]]:
    if not fields.attributes:
        return {}
    if texts is None:
        return number_values((dict(zip(fields.attributes, row[3], strict=True)) for row in rows), fields.attributes)

    return number_values((_json_beside(root, texts, row[0]) for row in rows), fields.attributes)


def _json_beside(root: Path, texts: Texts, name: str) -> dict:
    """The JSON map beside an image; {} where there is none."""
    value = None
    with contextlib.suppress(OSError, ValueError, RecursionError, KeyError):  # read_files reports it
        value = parse_json(read_regular(root / texts[name]["json"]))
    return value if isinstance(value, dict) else {}


def _unread_entries(root: Path, texts: Texts, fields: Fields) -> list[str]:
    """A note that names the texts of the JSON beside images that are not read, by a sample of them."""
    names = [name for name, files in texts.items() if "json" in files and "txt" not in files]
    some = names[:: len(names) // SAMPLE + 1]
    return unread_entries((_json_beside(root, texts, name) for name in some), fields)


def _table_rows(table: str, fields: Fields, root: Path) -> tuple[list[Row], dict, tuple[str, ...]]:
    """(a row for each image, `class_names` and `labels_are_names` of their Source, notes)."""
    rows = read_table(table)
    columns = dict.fromkeys(name for row in rows for name in row)
    image = image_column(columns, fields.image, table)
    for flag, names in (("--caption_fields", fields.captions), ("--attributes", fields.attributes)):
        for name in names:
            check_column(columns, name, flag, table)
    if fields.label:
        check_column(columns, fields.label, "--label_field", table)
    read: list[Row] = []
    for number, row in enumerate(rows, 1):
        if not isinstance(row.get(image), str) or not row[image]:
            fix = "--image_field=COLUMN names another; --source=parquet reads images inside a table."
            raise DataError(f"{image} in row {number} of {table}", row.get(image), "the path of an image", fix)
        name = PurePosixPath(row[image]).as_posix()
        if os.path.isabs(name) and Path(name).is_relative_to(root.absolute()):
            name = Path(name).relative_to(root.absolute()).as_posix()
        values = tuple(attribute_value(row, attribute) for attribute in fields.attributes)
        try:
            captions = read_captions(row, fields.captions)
            read.append((name, captions, read_label(row, fields.label), values))
        except DataError as error:  # like all errors of a table it is found before any work is done
            raise DataError(f"{error.field} of {name} in {table}", error.value, error.expected) from None
    labels, names, notes = read_column([label for _, _, label, _ in read], fields.class_names)
    read = [(*row[:2], label, row[3]) for row, label in zip(read, labels, strict=True)]
    texts = [name for name in columns if name != image and any(is_words(row.get(name)) for row in rows)]
    notes += unread_texts(texts, fields)
    merged: dict[str, Row] = {}
    for name, captions, label, values in read:
        before, other, also = merged[name][1:] if name in merged else ((), label, values)
        if (other, also) != (label, values):
            what = "label" if other != label else "attributes"
            raise DataError(f"{what} of {name} in {table}", label, f"{other!r}, as in an earlier row of it")
        merged[name] = (name, before + captions, label, values)
    return [merged[name] for name in sorted(merged)], names, tuple(notes)
