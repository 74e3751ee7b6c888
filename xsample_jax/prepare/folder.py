"""A folder of pictures: folder names as labels, or a table of captions and labels beside it."""

import csv
import errno
import hashlib
import json
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path, PurePosixPath

from xsample_jax.errors import DataError, did_you_mean
from xsample_jax.io.text import file_encoding
from xsample_jax.prepare.example import (
    IMAGE_SUFFIXES,
    Example,
    Fields,
    InputShard,
    Problem,
    Source,
    chunks,
    files_below,
    first_folder,
    read_captions,
    read_label,
)

# CSV, JSON lines and Parquet: one row per picture or per caption.


IMAGE_COLUMNS = ("image", "file_name", "filename", "file", "path", "filepath", "image_path")


def read_table(path: str | Path) -> list[dict]:
    """Returns all rows of a .csv, .tsv, .jsonl or .parquet file.

    Raises:
      DataError: missing, of another kind, not readable (with the line), or empty.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError("--table", str(path), "an existing file")
    try:
        kind = path.suffix.lower()
        if kind in (".csv", ".tsv"):
            rows = _read_csv(path, "\t" if kind == ".tsv" else ",")
        elif kind in (".jsonl", ".ndjson"):
            rows = _read_json_lines(path)
        elif kind == ".parquet":
            import pyarrow.parquet  # half a second to import, which only tables of this kind should cost

            rows = pyarrow.parquet.read_table(path).to_pylist()
        else:
            raise DataError("--table", str(path), "a .csv, .tsv, .jsonl or .parquet file")
    except DataError:
        raise
    except (OSError, ValueError, csv.Error) as error:  # pyarrow and unicode errors are ValueErrors
        raise DataError("--table", str(path), f"a readable table ({error})") from error
    if not rows:
        raise DataError("--table", str(path), "at least one row")
    return rows


def image_column(columns: Collection[str], name: str, path: str | Path) -> str:
    """The column with the pictures' paths: `name`, or the first usual one."""
    if name:
        check_column(columns, name, "--image_field", path)
        return name
    for usual in IMAGE_COLUMNS:
        if usual in columns:
            return usual
    fix = f"Columns: {', '.join(columns)}. Say which it is: --image_field=COLUMN."
    raise DataError(f"columns of {path}", sorted(columns), "one with the paths of the pictures", fix)


def check_column(columns: Collection[str], name: str, flag: str, path: str | Path) -> None:
    if name not in columns:
        raise DataError(flag, name, f"a column of {path}", did_you_mean(name, columns))


def _read_csv(path: Path, comma: str) -> list[dict]:
    with open(path, newline="", encoding=file_encoding(path)) as file:
        reader = csv.DictReader(file, delimiter=comma, strict=True)
        rows = list(reader)
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            expected = f"{len(reader.fieldnames)} values, as the first line"
            raise DataError(f"{path}, row {number}", list(row.values()), expected, "Put quotes around commas.")
    return rows


def _read_json_lines(path: Path) -> list[dict]:
    rows = []
    with open(path, encoding=file_encoding(path)) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path}, line {number}", line[:80], f"JSON ({error})") from error
            if not isinstance(row, dict):
                raise DataError(f"{path}, line {number}", line[:80], "a JSON map")
            rows.append(row)
    return rows


# (path relative to the folder, captions, label)
Row = tuple[str, tuple[str, ...], int | str | None]

# Of a file that is not there, or is none. Any other error may be gone when the same command is given again.
NO_FILE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP}


def folder_source(
    path: str, fields: Fields, table: str | None = None, split_by_folder: bool = False, shard_size: int = 10_000
) -> Source:
    """The pictures of a folder, sorted by path; `shard_size` of them are an input shard.

    Without a table every picture counts, and the folder that holds it is its label (right in `path`: none).
    With one the table says what the set is; rows of the same picture are its captions, in the order of the table.

    Args:
      path: the folder.
      fields: columns of the table.
      table: CSV, TSV, JSONL or Parquet; its paths are relative to `path`.
      split_by_folder: the first folder below `path` names the split.
      shard_size: pictures per input shard.
    """
    root = Path(path)
    if not root.is_dir():
        raise DataError("--path", path, "an existing folder")
    rows = _table_rows(table, fields) if table else [(name, (), None) for name in files_below(root, IMAGE_SUFFIXES)]
    if not rows:
        kinds = ", ".join(sorted(IMAGE_SUFFIXES))
        raise DataError("--path", path, f"a folder with pictures ({kinds}), at any depth", "None is there.")
    splits: dict[str | None, list[Row]] = {}
    for row in rows:
        splits.setdefault(first_folder(row[0], path) if split_by_folder else None, []).append(row)
    if not table:
        depth = 2 if split_by_folder else 1
        splits = {split: [(name, (), _folder(name, depth)) for name, _, _ in some] for split, some in splits.items()}
    names = {row[2] for some in splits.values() for row in some if isinstance(row[2], str)}
    shards = []
    for split in sorted(splits, key=str):
        for number, chunk in enumerate(chunks(splits[split], shard_size)):
            identity = hashlib.sha256(json.dumps([str(root.absolute()), chunk]).encode()).hexdigest()
            name = f"{split or root.name}, pictures {number * shard_size} to {number * shard_size + len(chunk) - 1}"
            shards.append(InputShard(name, partial(read_files, str(root), chunk), identity, split))
    return Source(tuple(shards), class_names=fields.class_names or tuple(sorted(names)))


def read_files(root: str, rows: list[Row]) -> Iterator[Example | Problem]:
    """Yields one example per row, or a problem where its file is missing."""
    for name, captions, label in rows:
        try:
            data = (Path(root) / name).read_bytes()
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno not in NO_FILE:
                fix = "Give the same command again when it can be read: it goes on from here."
                raise DataError(f"picture {name}", error.strerror, "a file that can be read", fix) from error
            yield Problem(name, "no_image", str(error))
            continue
        yield Example(name, data, captions, label)


def _folder(name: str, depth: int) -> str | None:
    parts = PurePosixPath(name).parts
    return parts[-2] if len(parts) > depth else None


def _table_rows(table: str, fields: Fields) -> list[Row]:
    rows = read_table(table)
    columns = dict.fromkeys(name for row in rows for name in row)
    image = image_column(columns, fields.image, table)
    for name in fields.captions:
        check_column(columns, name, "--caption_fields", table)
    if fields.label:
        check_column(columns, fields.label, "--label_field", table)
    read: list[Row] = []
    for number, row in enumerate(rows, 1):
        if not isinstance(row.get(image), str) or not row[image]:
            fix = "--image_field=COLUMN names another; pictures inside a table are not read."
            raise DataError(f"{image} in row {number} of {table}", row.get(image), "the path of a picture", fix)
        name = PurePosixPath(row[image]).as_posix()
        try:
            read.append((name, read_captions(row, fields.captions, ("caption",)), read_label(row, fields.label)))
        except DataError as error:  # like all errors of a table it is found before any work is done
            raise DataError(f"{error.field} of {name} in {table}", error.value, error.expected) from None
    # A column in which some labels are names is a column of names, even if other names look like numbers.
    if any(isinstance(label, str) for _, _, label in read):
        entry = fields.label or "label"
        read = [
            (name, captions, str(row[entry]).strip() if isinstance(label, int) else label)
            for row, (name, captions, label) in zip(rows, read, strict=True)
        ]
    merged: dict[str, Row] = {}
    for name, captions, label in read:
        before, other = merged[name][1:] if name in merged else ((), label)
        if other != label:
            raise DataError(f"label of {name} in {table}", label, f"{other!r}, as in an earlier row of it")
        merged[name] = (name, before + captions, label)
    return [merged[name] for name in sorted(merged)]
