"""Parquet files that hold the encoded images themselves, the form in which most datasets are published now."""

import glob
import json
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from xsample_jax.errors import DataError, did_you_mean
from xsample_jax.prepare.example import (
    Example,
    Fields,
    InputShard,
    Problem,
    Source,
    attribute_value,
    files_below,
    first_folder,
    image_bytes_column,
    number_values,
    read_captions,
    read_label,
)

USUAL_CAPTIONS = ("caption", "captions", "text")
# "train-00000-of-00005.parquet", as Hugging Face names the files of a split.
OF_SPLIT = re.compile(r"([A-Za-z0-9_]+?)-\d{5}-of-\d{5}(?:-[0-9a-f]+)?")


def parquet_source(path: str, fields: Fields, split_by_folder: bool = False) -> Source:
    """The rows of Parquet files with an image column; every row group is an input shard.

    The image column has bytes, or {bytes, path} as Hugging Face's `datasets` writes them. Files named
    SPLIT-00000-of-00005.parquet are of that split; names of classes are read from the metadata of `datasets`.

    Args:
      path: a file, a folder, or a pattern in quotes.
      fields: columns of image, captions (by default caption, captions or text), label and attributes.
      split_by_folder: the first folder below `path` names the split.
    """
    import pyarrow.parquet  # half a second to import, which only this source should cost

    root, files, skipped = _list(path)
    names: tuple[str, ...] | None = None
    attributes = number_values(_rows_of(files, fields.attributes), fields.attributes) if fields.attributes else {}
    shards = []
    for file in files:
        try:
            opened = pyarrow.parquet.ParquetFile(file)
        except (OSError, ValueError) as error:
            raise DataError("--path", str(file), f"a Parquet file ({str(error)[:200]})") from error
        schema = opened.schema_arrow
        image = _image_column(schema, fields.image, file)
        for flag, columns in (
            ("--caption_fields", fields.captions),
            ("--label_field", filter(None, [fields.label])),
            ("--attributes", fields.attributes),
        ):
            for column in columns:
                if column.partition("/")[0] not in schema.names:
                    expected = f"a column of {file}: {', '.join(schema.names)[:200]}"
                    raise DataError(flag, column, expected, did_you_mean(column, schema.names))
        here = _class_names(schema, fields.label or "label")
        if names is not None and here != names:
            raise DataError(f"class names of {file}", here[:3], f"{names[:3]}, as in the files before")
        names = here
        relative = file.relative_to(root).as_posix()
        of_split = OF_SPLIT.fullmatch(file.stem)
        split = first_folder(relative, path) if split_by_folder else of_split and of_split[1]
        about = f"{relative} {file.stat().st_size} {file.stat().st_mtime_ns} {fields}"
        for group in range(opened.num_row_groups):
            read = partial(read_row_group, str(file), group, image, fields, attributes)
            shards.append(InputShard(f"{relative}, row group {group}", read, f"{about} {group}", split))
    if names and fields.class_names:
        raise DataError("--class_names", fields.class_names[:3], f"nothing: {path} names its classes", "Leave it out.")
    values = {name: tuple(found) for name, found in attributes.items()}
    return Source(tuple(shards), names or fields.class_names, values, skipped=skipped)


def read_row_group(
    file: str, group: int, image: str, fields: Fields, attributes: Mapping[str, Mapping[str, int]]
) -> Iterator[Example | Problem]:
    """Yields an example for every row of a row group, or a problem where there is no image."""
    import pyarrow.parquet

    name = Path(file).name
    try:
        opened = pyarrow.parquet.ParquetFile(file)
        start = sum(opened.metadata.row_group(before).num_rows for before in range(group))
        batches = opened.iter_batches(64, row_groups=[group])
        rows = (row for batch in batches for row in batch.to_pylist())
        for number, row in enumerate(rows, start):
            yield _example(f"{name}/{number}", row, image, fields, attributes)
    except (OSError, ValueError) as error:  # pyarrow's errors are of both kinds
        yield Problem(f"{name}, row group {group}", "broken_record", str(error)[:200])


def _example(key: str, row: dict, image: str, fields: Fields, attributes) -> Example | Problem:
    data = row[image]
    data = data.get("bytes") if isinstance(data, dict) else data
    if not data:
        return Problem(key, "no_image", "no bytes; an image that is only named is not read")
    try:
        captions = read_captions(row, fields.captions, USUAL_CAPTIONS)
        label = read_label(row, fields.label)
    except DataError as error:
        return Problem(key, "broken_metadata", str(error))
    numbers = {name: number_of[attribute_value(row, name)] for name, number_of in attributes.items()}
    return Example(key, data, captions, label, numbers)


def _list(path: str) -> tuple[Path, list[Path], Mapping[str, int]]:
    """(folder that all are in, Parquet files in order, what was skipped)."""
    if Path(path).is_dir():
        names, skipped = files_below(Path(path), {"parquet"})
        root, files = Path(path), [Path(path) / name for name in names]
    else:
        files, skipped = sorted(map(Path, glob.glob(path, recursive=True))), {}
        root = files[0].parent if files else Path(path)
        if any(not file.is_relative_to(root) for file in files):
            root = Path(*_common(files))
    if not files:
        raise DataError("--path", path, "a Parquet file, a folder of them, or a pattern in quotes", "None is there.")
    return root, files, skipped


def _common(files: list[Path]) -> list[str]:
    shared = []
    for parts in zip(*(file.parent.parts for file in files)):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return shared


def _image_column(schema, name: str, file: Path) -> str:
    if name and name not in schema.names:
        expected = f"a column of {file}: {', '.join(schema.names)[:200]}"
        raise DataError("--image_field", name, expected, did_you_mean(name, schema.names))
    found = name or image_bytes_column(schema)
    if found is None:
        fix = "With paths of images use --source=folder --table=FILE."
        raise DataError(f"columns of {file}", ", ".join(schema.names)[:200], "one with the bytes of the images", fix)
    return found


def _class_names(schema, label: str) -> tuple[str, ...]:
    """Names of a ClassLabel column, which `datasets` keeps in the metadata; () without."""
    try:
        about = json.loads((schema.metadata or {})[b"huggingface"])
        names = about["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError):
        return ()
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _rows_of(files: list[Path], columns: tuple[str, ...]) -> Iterator[dict]:
    """The rows of all files, with these columns only."""
    import pyarrow.parquet

    for file in files:
        opened = pyarrow.parquet.ParquetFile(file)
        there = [column for column in columns if column.partition("/")[0] in opened.schema_arrow.names]
        for batch in opened.iter_batches(columns=there):
            yield from batch.to_pylist()
