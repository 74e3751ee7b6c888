"""Rows of a file of vectors as records: features of audio, tables, molecules, for data.source=vectors."""

from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from xsample_jax.captions.vectors import read_columns, vectors_in
from xsample_jax.data.vectors import encode_vector
from xsample_jax.errors import DataError, did_you_mean
from xsample_jax.prepare.example import (
    Example,
    Fields,
    InputShard,
    Problem,
    Source,
    attribute_value,
    is_words,
    number_values,
    read_captions,
    read_column,
    read_label,
    unread_texts,
)

SAMPLE, COARSE = 10_000, 0.1  # rows that are looked at; the share of a spread that may be lost


def vectors_source(path: str, fields: Fields, shard_size: int) -> Source:
    """The rows of a .npz or .parquet file, or of a .npy with the other columns in the .json of the same name.

    Args:
      path: the file. fields: names of the columns; of `image` the vectors, by default the only column that can be.
      shard_size: rows of an input shard.
    """
    file = Path(path)
    columns = read_columns(file, "--path")
    name = _name_of_vectors(columns, fields.image, path)
    count = len(columns[name])
    for flag, named in (("--caption_fields", fields.captions), ("--label_field", filter(None, [fields.label]))):
        for column in named:
            if column not in columns:
                raise DataError(
                    flag, column, f"a column of {path}: {', '.join(columns)}", did_you_mean(column, columns)
                )
    short = [column for column, values in columns.items() if column != name and len(values) != count]
    if short:
        raise DataError(f"rows of {', '.join(short)} in {path}", len(columns[short[0]]), f"{count}, as {name} has")
    rows = [_row(columns, name, place) for place in range(count)]
    attributes = number_values(rows, fields.attributes) if fields.attributes else {}
    labels, names, notes = read_column([read_label(row, fields.label) for row in rows], fields.class_names)
    read = [file, file.with_suffix(".json")] if file.suffix == ".npy" else [file]
    stats = " ".join(f"{about.st_size} {about.st_mtime_ns}" for about in map(Path.stat, read))
    identity = f"{file.name} {stats} {fields}"
    shards = []
    for start in range(0, count, shard_size):
        places = range(start, min(start + shard_size, count))
        read = partial(read_rows, path, name, places, fields, attributes, labels[start : start + shard_size])
        shards.append(InputShard(f"{file.name}, rows {start} on", read, f"{identity} {start} {shard_size}"))
    note = f"vectors are {columns[name].shape[1]} wide: train with --config.data.image_size={columns[name].shape[1]}"
    values = {attribute: tuple(of) for attribute, of in attributes.items()}
    texts = [column for column, of in columns.items() if any(map(is_words, of))]
    notes = [note, *_coarse_columns(columns[name]), *notes, *unread_texts(texts, fields)]
    return Source(tuple(shards), attributes=values, notes=tuple(notes), **names)


def _coarse_columns(rows: np.ndarray) -> list[str]:
    """A note about numbers that differ from row to row by less than float16 can tell well."""
    some = np.asarray(rows[:SAMPLE], np.float64)
    if len(some) < 2:
        return []
    with np.errstate(over="ignore", invalid="ignore"):
        lost = np.sqrt(np.mean((some - some.astype(np.float16)) ** 2, axis=0))
        coarse = np.flatnonzero(lost > COARSE * some.std(axis=0))
    shown = ", ".join(map(str, coarse[:5])) + ", ..." * (len(coarse) > 5)
    fix = "lose more than a tenth of their spread in float16: standardize them."
    return [f"{len(coarse)} of {some.shape[1]} numbers of a vector (at {shown}) {fix}"] * bool(len(coarse))


def _name_of_vectors(columns, asked: str, path: str) -> str:
    wide = vectors_in(columns)
    if asked and asked not in wide:
        raise DataError("--image_field", asked, f"a column of vectors of {path}: {', '.join(wide) or 'none'}")
    if not asked and len(wide) != 1:
        found = ", ".join(wide) or "none"
        raise DataError(f"vectors in {path}", found, "one array of numbers [n, E]", "Name it: --image_field=NAME.")
    return asked or next(iter(wide))


@lru_cache(maxsize=1)
def _columns(path: str):
    return read_columns(Path(path), "--path")


def read_rows(
    path: str, name: str, places: Sequence[int], fields: Fields, attributes, labels: Sequence[int | str | None]
) -> Iterator[Example | Problem]:
    """Yields an example for every row, with its label, or a problem for one whose numbers float16 cannot hold."""
    columns = _columns(path)
    for place, label in zip(places, labels, strict=True):
        row, key = _row(columns, name, place), str(place)
        try:
            vector = encode_vector(columns[name][place], key)
        except DataError as error:
            yield Problem(key, "broken_image", f"{error.value}")
            continue
        captions = read_captions(row, fields.captions)
        numbers = {one: number_of[attribute_value(row, one)] for one, number_of in attributes.items()}
        yield Example(key, vector, captions, label, numbers)


def _row(columns, vectors: str, place: int) -> dict:
    """The entries of a row beside its vector, as Python values."""
    found = {name: values[place] for name, values in columns.items() if name != vectors}
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in found.items()}
