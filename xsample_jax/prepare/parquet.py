"""Parquet files that hold the encoded images themselves, the form in which most datasets are published now."""

import glob
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from xsample_jax.errors import DataError, did_you_mean
from xsample_jax.io.files import check_once
from xsample_jax.prepare.example import (
    Example,
    Fields,
    InputShard,
    Problem,
    Source,
    attribute_value,
    files_below,
    first_folder,
    label_entry,
    number_values,
    read_captions,
    read_column,
    read_label,
    unread_texts,
)

USUAL_IMAGES = ("image", "img", "jpg", "png")
# "train-00000-of-00005.parquet", as Hugging Face names the files of a split.
OF_SPLIT = re.compile(r"([A-Za-z0-9_]+?)-\d{5}-of-\d{5}(?:-[0-9a-f]+)?")


def parquet_source(path: str, fields: Fields, split_by_folder: bool = False) -> Source:
    """The rows of Parquet files with an image column; every row group is an input shard.

    The image column has bytes, or {bytes, path} as Hugging Face's `datasets` writes them. Files named
    SPLIT-00000-of-00005.parquet are of that split; names of classes are read from the metadata of `datasets`.

    Args:
      path: a file, a folder, or a pattern in quotes.
      fields: columns of image (by default one of USUAL_IMAGES, or the only one of bytes), captions (by default
        USUAL_CAPTIONS), label and attributes.
      split_by_folder: the first folder below `path` names the split.
    """
    import pyarrow.parquet  # half a second to import, which only this source should cost

    root, files, skipped = _list(path)
    names: tuple[str, ...] | None = None
    attributes = number_values(_rows_of(files, fields.attributes), fields.attributes) if fields.attributes else {}
    groups, images = [], {}
    for file in files:
        try:
            opened = pyarrow.parquet.ParquetFile(file)
        except (OSError, ValueError) as error:
            raise DataError("--path", str(file), f"a Parquet file ({str(error)[:200]})") from error
        schema = opened.schema_arrow
        check_once(schema.names, file)
        image = _image_column(schema, fields.image, file)
        images[image] = None
        _check_columns(schema, fields, file)
        here = class_names_in(schema, label_entry(fields, schema.names))
        if names is not None and here != names:
            raise DataError(f"class names of {file}", here[:3], f"{names[:3]}, as in the files before")
        names = here
        relative = file.relative_to(root).as_posix()
        of_split = OF_SPLIT.fullmatch(file.stem)
        split = first_folder(relative, path) if split_by_folder else of_split and of_split[1]
        about = f"{relative} {file.stat().st_size} {file.stat().st_mtime_ns} {fields}"
        if not fields.image and image != image_bytes_columns(schema)[0]:  # which it was in 0.1
            about += f" {image}"
        groups += [(file, group, image, f"{about} {group}", split) for group in range(opened.num_row_groups)]
    if names and fields.class_names:
        raise DataError("--class_names", fields.class_names[:3], f"nothing: {path} names its classes", "Leave it out.")
    classes, unasked, notes = _classes(files, fields, names or fields.class_names)
    shards = []
    for file, group, image, identity, split in groups:
        read = partial(read_row_group, str(file), group, image, fields, attributes, unasked)
        name = f"{file.relative_to(root).as_posix()}, row group {group}"
        shards.append(InputShard(name, read, identity, split))
    values = {name: tuple(found) for name, found in attributes.items()}
    texts = [name for name in schema.names if name not in images and holds(schema.field(name).type, TEXTS)]
    notes = [f"The images are those of the column {', '.join(images)}.", *notes, *unread_texts(texts, fields)]
    return Source(tuple(shards), attributes=values, skipped=skipped, notes=tuple(notes), **classes)


def _check_columns(schema, fields: Fields, file: Path) -> None:
    for flag, columns in (
        ("--caption_fields", fields.captions),
        ("--label_field", filter(None, [fields.label])),
        ("--attributes", fields.attributes),
    ):
        for column in columns:
            if column_type(schema, column) is None:
                expected = f"a column of {file}: {', '.join(schema.names)[:200]}"
                raise DataError(flag, column, expected, did_you_mean(column, schema.names))


def read_row_group(
    file: str,
    group: int,
    image: str,
    fields: Fields,
    attributes: Mapping[str, Mapping[str, int]],
    unasked: bool = False,
) -> Iterator[Example | Problem]:
    """Yields an example for every row of a row group, or a problem where there is no image.

    unasked: the labels are texts that nobody asked for; each is a problem, and its example has none.
    """
    import pyarrow.parquet

    name = Path(file).name
    try:
        opened = pyarrow.parquet.ParquetFile(file)
        start = sum(opened.metadata.row_group(before).num_rows for before in range(group))
        batches = opened.iter_batches(64, row_groups=[group])
        rows = (row for batch in batches for row in batch.to_pylist())
        for number, row in enumerate(rows, start):
            yield from _examples(f"{name}/{number}", row, image, fields, attributes, unasked)
    except (OSError, ValueError) as error:  # pyarrow's errors are of both kinds
        yield Problem(f"{name}, row group {group}", "broken_record", str(error)[:200])


def _examples(key: str, row: dict, image: str, fields: Fields, attributes, unasked) -> Iterator[Example | Problem]:
    data = row[image]
    data = data.get("bytes") if isinstance(data, dict) else data
    if not data:
        yield Problem(key, "no_image", "no bytes; an image that is only named is not read")
        return
    try:
        captions = read_captions(row, fields.captions)
        label = read_label(row, fields.label)
    except DataError as error:
        yield Problem(key, "broken_metadata", str(error))
        return
    if unasked and isinstance(label, str):
        yield Problem(key, "unknown_label", label[:80])
        label = None
    numbers = {name: number_of[attribute_value(row, name)] for name, number_of in attributes.items()}
    yield Example(key, data, captions, label, numbers)


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
    found = [name] if name else image_bytes_columns(schema)
    usual = [column for column in USUAL_IMAGES if column in found]
    if not found:
        fix = "With paths of images use --source=folder --table=FILE."
        raise DataError(f"columns of {file}", ", ".join(schema.names)[:200], "one with the bytes of the images", fix)
    if len(found) > 1 and not usual:
        fix = "Name that of the images: --image_field=COLUMN."
        raise DataError(f"columns of {file}", ", ".join(found)[:200], "one column of bytes, or one named image", fix)
    return (usual or found)[0]


def class_names_in(schema, label: str) -> tuple[str, ...]:
    """Names of a ClassLabel column, which `datasets` keeps in the metadata; () without."""
    try:
        about = json.loads((schema.metadata or {})[b"huggingface"])
        found = about["info"]["features"]
        for part in [label] if label in found else label.split("/"):
            found = found[part]
        names = found["names"]
    except (KeyError, TypeError, ValueError):
        return ()
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _classes(files: list[Path], fields: Fields, known: tuple[str, ...]) -> tuple[dict, bool, list[str]]:
    """What the labels are, as all rows of their column say where it is one of texts.

    Returns:
      `class_names` and `labels_are_names` of the Source, whether labels are texts that nobody asked for, and notes.
    """
    import pyarrow.parquet

    schemas = [pyarrow.parquet.read_schema(file) for file in files]
    column = label_entry(fields, schemas[0].names)
    if not any(holds(column_type(schema, column), TEXTS + BYTES) for schema in schemas):
        return {"class_names": known}, False, []
    labels = {read_label(row, column) for row in _rows_of(files, (column,))}
    _, classes, notes = read_column(sorted(labels, key=str), known)
    if not fields.label and not known and classes:
        fix = f"The texts in the column {column} are not read as labels; --label_field={column} makes them classes."
        return {}, True, [fix]
    return {"class_names": known} | classes, False, notes


def image_bytes_columns(schema) -> list[str]:
    """The columns of an Arrow schema that may hold encoded images: bytes, or {bytes, path} as Hugging Face has them."""
    import pyarrow.types as kinds

    found = []
    for field in schema:
        inner = field.type
        if kinds.is_struct(inner) and inner.get_field_index("bytes") >= 0:
            inner = inner.field("bytes").type
        if holds(inner, BYTES):
            found.append(field.name)
    return found


BYTES = ("binary", "large_binary", "binary_view", "fixed_size_binary")  # types of Arrow, by the names of their tests
TEXTS = ("string", "large_string", "string_view")


def holds(kind, names: Sequence[str]) -> bool:
    """Whether a type of Arrow is one of these, or a dictionary of one."""
    import pyarrow.types

    kind = kind.value_type if kind is not None and pyarrow.types.is_dictionary(kind) else kind
    return kind is not None and any(getattr(pyarrow.types, f"is_{name}", lambda kind: False)(kind) for name in names)


def column_type(schema, name: str):
    """The Arrow type of a column, or of the entry of structs that "json/label" names; None where there is none."""
    import pyarrow.types as kinds

    first, _, inner = (name, "", "") if name in schema.names else name.partition("/")
    kind = schema.field(first).type if first in schema.names else None
    for part in filter(None, inner.split("/")):
        kind = kind.value_type if kinds.is_list(kind) or kinds.is_large_list(kind) else kind
        place = kind.get_field_index(part) if kind is not None and kinds.is_struct(kind) else -1
        if place < 0:
            return None
        kind = kind.field(place).type
    return kind


def _rows_of(files: list[Path], columns: tuple[str, ...]) -> Iterator[dict]:
    """The rows of all files, with these columns only."""
    import pyarrow.parquet

    for file in files:
        opened = pyarrow.parquet.ParquetFile(file)
        names = opened.schema_arrow.names
        found = [column if column in names else column.partition("/")[0] for column in columns]
        there = [column for column in dict.fromkeys(found) if column in names]
        for batch in opened.iter_batches(columns=there):
            yield from batch.to_pylist()
