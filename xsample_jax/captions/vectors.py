"""Vectors of your own in place of caption embeddings: features of another encoder, metadata, any rows with a cosine.

A file names its rows by a key that the records have as well: their id, label, or one of their attributes. In a dataset
such a vector is the one row of its record, whatever captions the record has (`per` of the manifest's `text_encoder`).
"""

import collections
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from xsample_jax.data.records import Manifest, open_records
from xsample_jax.errors import DataError, did_you_mean
from xsample_jax.io.files import check_once, load_arrays, parse_json
from xsample_jax.metrics.progress_bar import progress

SUFFIXES = (".npz", ".npy", ".parquet")
FORMS = "float [n, E] and a key for each row: .npz with both arrays, .parquet with both columns, or .npy with a .json"
NAMED = 5  # keys in a message


class VectorFile:
    """The rows of a file by their keys; for `embed_set` an encoder, whose texts are the keys of the records.

    Attributes:
      info: what the manifest says of the vectors: the name of the file, a checksum of keys and rows, the width.
      key: the array, column or entry with the keys, and the field of the records that they are compared with.

    Raises DataError for a file that is missing, of another form, or has a key twice.
    """

    def __init__(self, path: Path, key: str = "id"):
        keys, self._rows = _read(path, key)
        self.key, self._names = key, isinstance(keys[0], str) if len(keys) else False
        texts = [str(one) for one in keys]
        twice = [text for text, count in collections.Counter(texts).items() if count > 1]
        if twice:
            raise DataError(f"{key} in {path}", twice[:NAMED], "every key once", "Leave one row for each.")
        self._row_of = dict(zip(texts, range(len(texts)), strict=True))
        digest = hashlib.sha256(json.dumps([key, texts]).encode() + np.ascontiguousarray(self._rows).tobytes())
        self.info = {
            "name": f"vectors of {path.name}",
            "revision": digest.hexdigest()[:16],
            "pooling": "none",
            "dim": self._rows.shape[1],
            "per": "record",
            "key": key,
        }

    def encode(self, texts: Sequence[str], advance: Callable[[int], None] = lambda count: None) -> np.ndarray:
        """The rows of keys, float32 [n, E]; KeyError for one that the file lacks (`check_keys` looks before)."""
        advance(len(texts))
        return self._rows[[self._row_of[text] for text in texts]].astype(np.float32)

    def text_of(self, record: Mapping, manifest: Manifest) -> str:
        """The key of a record; "" where it has none, as without a label."""
        if self.key == "id":
            return str(record["id"])
        number = record["label"] if self.key == "label" else record["attributes"][self.key]
        names = manifest.class_names if self.key == "label" else manifest.attributes[self.key]
        if number < 0:
            return ""
        return str(names[number]) if self._names and names else str(number)

    def check_keys(self, folder: Path, manifest: Manifest, show: bool) -> None:
        """Reads every record; DataError, which names some of them, where the file has no vector for a key."""
        fields = ["id", "label", *manifest.attributes]
        if self.key not in fields:
            fix = did_you_mean(self.key, fields) or "The file needs this name for its keys, too."
            raise DataError("--key", self.key, f"a field of the records: {', '.join(fields)}", fix)
        missing: collections.Counter = collections.Counter()
        for split in manifest.splits:
            source = open_records(folder, split)
            for place in progress(range(len(source)), f"keys of {split}", len(source), enabled=show):
                if (text := self.text_of(source[place], manifest)) not in self._row_of:
                    missing[text or "none"] += 1
        if missing:
            some = ", ".join(list(missing)[:NAMED]) + ", ..." * (len(missing) > NAMED)
            found = f"{missing.total()} records without, of {self.key} {some}"
            fix = "Add them to the file, or prepare the dataset without these records."
            raise DataError("--vectors", found, f"a vector for the {self.key} of every record", fix)


def _read(path: Path, key: str) -> tuple[list, np.ndarray]:
    """(keys, rows float [n, E]) of a file."""
    columns = read_columns(path, "--vectors")
    if key not in columns:
        raise DataError("--key", key, f"a name in {path}: {', '.join(columns)}", did_you_mean(key, columns))
    wide = vectors_in(columns)
    wide.pop(key, None)
    if len(wide) != 1:
        found = f"{path} with {', '.join(wide) or 'no array [n, E]'}"
        raise DataError("--vectors", found, "one array of vectors", f"It holds {FORMS}.")
    (rows,), keys = wide.values(), columns[key]
    keys = keys.tolist() if isinstance(keys, np.ndarray) else list(keys)
    if len(keys) != len(rows) or not all(isinstance(one, int | str) for one in keys):
        raise DataError(f"{key} in {path}", f"{len(keys)} for {len(rows)} rows", "an integer or a text for each row")
    if not len(rows) or not rows.shape[1]:
        raise DataError("--vectors", f"{path}, {list(rows.shape)}", "at least one vector")
    return keys, rows


def read_columns(path: Path, flag: str) -> dict[str, np.ndarray | list]:
    """Arrays and lists of a file by name; DataError about `flag` for a file that is missing or of another form."""
    if path.suffix not in SUFFIXES:
        raise DataError(flag, str(path), f"a name that ends with {', '.join(SUFFIXES)}", f"It holds {FORMS}.")
    if not path.is_file():
        raise DataError(flag, str(path), "an existing file", f"It holds {FORMS}.")
    return _parquet_columns(path) if path.suffix == ".parquet" else _numpy_columns(path, flag)


def vectors_in(columns: Mapping[str, np.ndarray | list]) -> dict[str, np.ndarray]:
    """The columns that are numbers [n, E]."""
    return {
        name: rows
        for name, rows in columns.items()
        if isinstance(rows, np.ndarray) and rows.ndim == 2 and rows.dtype.kind in "fiu"
    }


def _numpy_columns(path: Path, flag: str) -> dict[str, np.ndarray | list]:
    found = load_arrays(path)
    if isinstance(found, dict):
        if single := [name for name, values in found.items() if not values.ndim]:
            fix = "Save the file without it."
            raise DataError(f"{single[0]} in {path}", "a single value", "an array with an entry for each row", fix)
        return found
    beside = path.with_suffix(".json")
    try:
        columns = parse_json(beside.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        fix = "tools.encode writes both; or save keys and vectors with numpy.savez."
        raise DataError(flag, str(path), f"{beside.name} beside it, with a key for each row", fix) from None
    if not isinstance(columns, dict):
        raise DataError(flag, str(beside), "a JSON map: {NAME: [an entry for each row]}", "Name its lists.")
    lists = {name: value for name, value in columns.items() if isinstance(value, list)}
    return lists | {path.stem: found}


def _parquet_columns(path: Path) -> dict[str, np.ndarray | list]:
    """Columns by name: lists of one length as arrays [n, E], others as lists. Lists of other values are left out."""
    import pyarrow.compute
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(path).read()
    except (OSError, ValueError) as error:
        raise DataError("--vectors", str(path), f"a Parquet file ({str(error)[:200]})", "Write it again.") from error
    check_once(table.column_names, path)
    columns = {}
    for name in table.column_names:
        column = table[name].combine_chunks()
        kind = column.type
        if not hasattr(kind, "value_type") or pyarrow.types.is_dictionary(kind):
            columns[name] = column.to_pylist()
        elif pyarrow.types.is_floating(kind.value_type) or pyarrow.types.is_integer(kind.value_type):
            lengths = pyarrow.compute.unique(pyarrow.compute.list_value_length(column)).to_pylist()
            if len(lengths) != 1 or not lengths[0]:
                raise DataError(f"{name} in {path}", f"lists of {lengths[:3]} numbers", "one length in all rows")
            columns[name] = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
    return columns
