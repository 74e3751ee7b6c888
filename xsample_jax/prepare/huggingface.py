"""Datasets of the Hugging Face hub, or a folder laid out like one, by the library `datasets` (extra `hf`).

Rows are streamed: a file of the dataset is an input shard, and nothing but the records is written to disk.
"""

import csv
import os
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from xsample_jax.errors import DataError, did_you_mean
from xsample_jax.io.files import check_once, file_encoding
from xsample_jax.prepare.example import (
    Example,
    Fields,
    InputShard,
    Problem,
    Source,
    is_unasked,
    label_entry,
    read_captions,
    read_column,
    read_label,
    texts_are_names,
    unread_texts,
)
from xsample_jax.prepare.parquet import class_names_in

TEXTS = ("string", "large_string")
NAME = re.compile(r"(?P<path>[^@]+?)(?::(?P<config>[\w.-]+))?(?:@(?P<revision>[\w./-]+))?")


def hub_source(path: str, fields: Fields) -> Source:
    """All splits of a dataset with a column of images.

    Args:
      path: USER/NAME, USER/NAME:CONFIG, with @REVISION at the end for a commit or tag; or a local folder.
      fields: columns of image, captions (by default USUAL_CAPTIONS) and label.

    Raises DataError: `datasets` is not installed, the dataset is not there, or it lacks a column.
    """
    try:
        import datasets
    except ImportError as error:
        fix = "pip install 'xsample_jax[hf]', or download its Parquet files: --source=parquet."
        raise DataError("--source", "hf", "the package datasets installed", fix) from error
    local = Path(path).exists()
    found = NAME.fullmatch(path)
    if not local and not found:
        raise DataError("--path", path, "USER/NAME, USER/NAME:CONFIG, USER/NAME:CONFIG@REVISION, or a local folder")
    options = {"path": path} if local else found.groupdict()
    options = {{"config": "name"}.get(key, key): value for key, value in options.items() if value}
    try:
        builder = datasets.load_dataset_builder(**options)
        splits = datasets.load_dataset(**options, streaming=True)
    except Exception as error:  # of the hub, the network, the files and their formats
        fix = "Is there a network, and is it public (hf auth login)? Files that you have: --source=parquet."
        raise DataError("--path", path, f"a dataset of the hub or a folder ({str(error)[:150]})", fix) from error
    # The hash knows the commit of the hub, but of a local folder whose README.md lists its files only that list.
    identity = f"{options.get('revision')} {builder.hash} {fields}" + f" {_local_files(path)}" * local
    shards, names, in_files = [], (), ()
    for split, rows in _with_columns_once(builder, splits):
        features = rows.features or next(iter(rows.take(1)), {})
        image = _image_column(features, fields.image, datasets, path)
        if not rows.features:
            fix = "A table that names the files of images: --source=folder --path=FOLDER --table=FILE."
            raise DataError("--image_field", image, f"a column that holds images; those of {path} have no types", fix)
        for flag, columns in (("--caption_fields", fields.captions), ("--label_field", filter(None, [fields.label]))):
            for column in columns:
                if column.partition("/")[0] not in features:
                    expected = f"a column of {path}: {', '.join(features)}"
                    raise DataError(flag, column, expected, did_you_mean(column, features))
        label = label_entry(fields, features)
        here = tuple(getattr(_feature(features, label), "names", None) or ())
        names = _same_names(f"split {split}", here, names)
        for file in _parquet_files(builder, split):  # among themselves: README.md may give all of them other names
            in_files = _same_names(file, class_names_in(_schema(file), label), in_files)
        for number in range(rows.num_shards):
            read = partial(read_shard, options, split, number, image, fields)
            shards.append(InputShard(f"{path}, {split} {number}", read, f"{identity} {split} {number}", split))
    if names and fields.class_names:
        raise DataError("--class_names", fields.class_names[:3], f"nothing: {path} names its classes", "Leave it out.")
    known = names or fields.class_names
    classes = {"class_names": known, "labels_are_names": texts_are_names(fields.class_names)}
    texts = [name for name, kind in features.items() if getattr(kind, "dtype", "") in TEXTS]
    notes = unread_texts(texts, fields)
    if fields.label and not known and getattr(_feature(features, fields.label), "dtype", "") in TEXTS:
        column = [fields.label.partition("/")[0]]
        labels = {read_label(row, fields.label) for rows in splits.values() for row in rows.select_columns(column)}
        _, found, more = read_column(sorted(labels, key=str))
        classes, notes = classes | found, [*notes, *more]
    return Source(tuple(shards), notes=tuple(notes), **classes)


def _feature(features, name: str):
    """The type of a column, or of the entry that "objects/label" names; None where there is none."""
    found = features
    for part in [name] if name in features else name.split("/"):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _same_names(where: str, here: tuple[str, ...], names: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the two that are there; DataError where they differ: equal numbers would be different classes."""
    if here and names and here != names:
        fix = "Write all files with one list of names."
        raise DataError(f"class names of {where}", here[:3], f"{names[:3]}, as in the splits before", fix)
    return here or names


def _parquet_files(builder, split: str) -> list[str]:
    """The Parquet files of a split that lie here, or the first of those that do not."""
    files = [file for file in _files(builder, split) if file.endswith(".parquet")]
    return [file for place, file in enumerate(files) if place == 0 or os.path.exists(file)]


def _files(builder, split: str) -> list[str]:
    return [str(file) for file in (builder.config.data_files or {}).get(split, ())]


def _with_columns_once(builder, splits: Mapping) -> Iterator[tuple]:
    """The items of `splits`; DataError for two columns of one name in the files of one.

    Arrow stops at them with an error of its own, and pandas gives the second one of a CSV file another name.
    """
    for split, rows in splits.items():
        for file in _parquet_files(builder, split):
            check_once(_schema(file).names, Path(file))
        for file in map(Path, _files(builder, split)):
            if file.suffix == ".csv" and file.is_file():
                check_once(_names_in_csv(file, builder.config), file)
        yield split, rows


def _names_in_csv(file: Path, config) -> list[str]:
    """The names in the first line of a CSV file, without empty ones, which spreadsheets write; [] where `config`, the
    options in README.md, gives the names or says that they are elsewhere."""
    given = [getattr(config, name, None) for name in ("names", "column_names", "skiprows")]
    if getattr(config, "header", "infer") != "infer" or any(one is not None for one in given):
        return []
    comma = getattr(config, "delimiter", None) or getattr(config, "sep", ",")
    try:
        with open(file, newline="", encoding=file_encoding(file), errors="replace") as opened:
            names = next(csv.reader(opened, delimiter=comma if len(comma) == 1 else ","), ())
    except csv.Error as error:
        fix = "Is there a quote without a partner?"
        raise DataError(f"columns of {file}", str(error), "a line with the names of the columns", fix) from error
    return [name for name in names if name.strip()]


def _schema(file: str):
    import fsspec
    import pyarrow.parquet

    try:
        with fsspec.open(file, "rb") as opened:
            return pyarrow.parquet.read_schema(opened)
    except (OSError, ValueError) as error:
        raise DataError("--path", file, f"a Parquet file ({str(error)[:150]})", "Is there a network?") from error


def _local_files(root: str) -> list[tuple[str, int, int]]:
    """(path, size, time) of every file below a folder, but hidden ones."""
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = [os.path.join(folder, name) for name in names if not name.startswith(".")]
        stats = [(path, os.stat(path)) for path in paths if os.path.isfile(path)]
        found += [(os.path.relpath(path, root), stat.st_size, stat.st_mtime_ns) for path, stat in stats]
    return sorted(found)


def read_shard(options: dict, split: str, number: int, image: str, fields: Fields) -> Iterator[Example | Problem]:
    """Yields the examples of one file of a split, images as the bytes that it holds."""
    import datasets

    rows = datasets.load_dataset(**options, split=split, streaming=True)
    rows = rows.shard(num_shards=rows.num_shards, index=number)
    rows = rows.cast_column(image, datasets.Image(decode=False))
    for place, row in enumerate(rows):
        key = f"{split}/{number}/{place}"
        data = row[image] or {}
        try:
            encoded = data.get("bytes") or _read(data.get("path"))
            captions, label = read_captions(row, fields.captions), read_label(row, fields.label)
        except OSError as error:
            yield Problem(key, "no_image", str(error)[:200])
            continue
        except DataError as error:
            yield Problem(key, "broken_metadata", str(error))
            continue
        if not encoded:
            yield Problem(key, "no_image", "no bytes")
            continue
        if is_unasked(label, fields):
            yield Problem(key, "unknown_label", label[:80])
            label = None
        yield Example(key, encoded, captions, label)


def _read(path: str | None) -> bytes:
    """The bytes of an image that a row only names: a local file, or one of the hub (hf://)."""
    if not path:
        return b""
    import fsspec

    with fsspec.open(path, "rb") as file:
        return file.read()


def _image_column(features, asked: str, datasets, path: str) -> str:
    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    found = asked or (images[0] if images else None)
    if found is None or found not in features:
        expected = f"a column of {path}: {', '.join(features)}" if asked else f"a column of images in {path}"
        raise DataError("--image_field", asked or "none", expected, did_you_mean(asked, features) if asked else "")
    return found
