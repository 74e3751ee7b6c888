"""A folder of pictures: folder names as labels, or a table of captions and labels beside it."""

import hashlib
import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath

from xsample_jax.errors import DataError
from xsample_jax.prepare.example import Example, InputShard, Problem, Source, chunks
from xsample_jax.prepare.fields import Fields, read_captions, read_label
from xsample_jax.prepare.source_webdataset import IMAGE_SUFFIXES, first_folder
from xsample_jax.prepare.tables import check_column, image_column, read_table

# (path relative to the folder, captions, label)
Row = tuple[str, tuple[str, ...], int | str | None]


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
    rows = _table_rows(table, fields) if table else [(name, (), None) for name in _list_pictures(root)]
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
            identity = hashlib.sha256(json.dumps(chunk).encode()).hexdigest()
            name = f"{split or root.name}, pictures {number * shard_size} to {number * shard_size + len(chunk) - 1}"
            shards.append(InputShard(name, partial(read_files, str(root), chunk), identity, split))
    return Source(tuple(shards), class_names=fields.class_names or tuple(sorted(names)))


def read_files(root: str, rows: list[Row]) -> Iterator[Example | Problem]:
    """Yields one example per row, or a problem where its file is missing."""
    for name, captions, label in rows:
        try:
            data = (Path(root) / name).read_bytes()
        except OSError as error:
            yield Problem(name, "no_image", error.strerror or str(error))
            continue
        yield Example(name, data, captions, label)


def _list_pictures(root: Path) -> list[str]:
    found = []
    for folder, _, files in os.walk(root, followlinks=True):
        for file in files:
            if not file.startswith(".") and file.rpartition(".")[2].lower() in IMAGE_SUFFIXES:
                found.append((Path(folder) / file).relative_to(root).as_posix())
    return sorted(found)


def _folder(name: str, depth: int) -> str | None:
    parts = PurePosixPath(name).parts
    return parts[-2] if len(parts) > depth else None


def _table_rows(table: str, fields: Fields) -> list[Row]:
    rows = read_table(table)
    image = image_column(rows[0], fields.image, table)
    for name in fields.captions:
        check_column(rows[0], name, "--caption_fields", table)
    if fields.label:
        check_column(rows[0], fields.label, "--label_field", table)
    merged: dict[str, Row] = {}
    for row in rows:
        name = PurePosixPath(str(row[image])).as_posix()
        captions = read_captions(row, fields.captions or ("caption",))
        try:
            label = read_label(row, fields.label)
        except DataError as error:  # like all errors of a table it is found before any work is done
            raise DataError(f"{error.field} of {name} in {table}", error.value, error.expected) from None
        if name in merged:
            _, before, other = merged[name]
            if other != label:
                raise DataError(f"label of {name} in {table}", label, f"{other!r}, as in an earlier row of it")
            captions = before + captions
        merged[name] = (name, captions, label)
    rows = [merged[name] for name in sorted(merged)]
    # A column in which some labels are names is a column of names, even if other names look like numbers.
    if any(isinstance(label, str) for _, _, label in rows):
        rows = [(name, captions, None if label is None else str(label)) for name, captions, label in rows]
    return rows
