"""Reading a dataset: one split, opened for random access by index. Its format: docs/data.md."""

import contextlib
import dataclasses
import hashlib
import resource
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, TypedDict

import msgpack
import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from xsample_jax.augment.ids import NARROW
from xsample_jax.data.shards import Copy, ShardCache, ShardList, canonical_text, read_fields
from xsample_jax.errors import DataError, RunError, did_you_mean
from xsample_jax.io.paths import as_path, errors_of_the_store, file_size, file_sizes, in_bucket

# The manifest.json of a dataset: what the set holds, and whether its files are still that.
#
# A manifest names splits, shards with checksums, classes, attributes and text encoder, and carries a fingerprint over
# all of that. It is written last: a folder without one was never finished and does not open.


SCHEMA_VERSION = 1
MANIFEST = "manifest.json"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a dataset holds; the fields are those of manifest.json.

    Attributes:
      name: name of the set.
      splits: split -> {"count": int, "shards": [{"file", "count", "bytes", "sha256"}, ...]}, and "largest_id" where it
        is 2**31 or more. Of a manifest that was read, shards are a ShardList.
      class_names: name of each value of `label`; empty when the set has no classes.
      attributes: attribute name -> name of each of its values.
      text_encoder: {"name", "revision", "pooling", "dim", "normalised", "template"} of the caption embeddings, or None.
      schema: version of the format.
      fingerprint: SHA-256 (hex) over all other fields; equal fingerprints mean equal bytes in every record.
    """

    name: str
    splits: dict
    class_names: tuple[str, ...] = ()
    attributes: dict = dataclasses.field(default_factory=dict)
    text_encoder: dict | None = None
    schema: int = SCHEMA_VERSION
    fingerprint: str = ""

    def with_fingerprint(self) -> "Manifest":
        """Returns the manifest with its fingerprint computed from the other fields."""
        return dataclasses.replace(self, fingerprint=_fingerprint(vars(self)))


def read_manifest(folder: str | Path) -> Manifest:
    """Reads and checks `folder`/manifest.json.

    Raises:
      DataError: it is missing (the set was never finished), is not a manifest, has another schema version, or does not
        match its own fingerprint (it was edited).
    """
    path = as_path(folder) / MANIFEST
    try:
        with errors_of_the_store(path):
            fields = read_fields(path.read_text())
    except FileNotFoundError:
        fix = "Give the folder of a dataset, or prepare the set again: it was not finished."
        raise DataError("manifest", str(path), "an existing file", fix) from None
    except (OSError, ValueError) as error:
        fix = "May this account read the bucket?" if in_bucket(path) else "Prepare the set again."
        raise DataError("manifest", str(path), f"readable JSON ({str(error)[:300]})", fix) from error
    if not isinstance(fields, dict) or "schema" not in fields:
        raise DataError("manifest", str(path), "the manifest of a dataset", "This file belongs to something else.")
    if fields["schema"] != SCHEMA_VERSION:
        fix = "Prepare the set again with this version, or read it with the version that wrote it."
        raise DataError(f"schema in {path}", fields["schema"], f"schema {SCHEMA_VERSION}", fix)
    known = {field.name for field in dataclasses.fields(Manifest)}
    if set(fields) != known:
        wrong = sorted(set(fields) ^ known)
        raise DataError(f"fields of {path}", wrong, f"exactly {', '.join(sorted(known))}", "Prepare the set again.")
    if fields["fingerprint"] != _fingerprint(fields):
        fix = "The manifest was changed by hand: restore it, or prepare the set again."
        raise DataError(f"fingerprint in {path}", fields["fingerprint"], f"{_fingerprint(fields)} (its contents)", fix)
    return Manifest(**{**fields, "class_names": tuple(fields["class_names"])})


def verify_records(folder: str | Path) -> list[DataError]:
    """Compares every shard with the manifest: size, then SHA-256 of all bytes. Reads the whole set.

    Returns:
      One DataError per bad file (missing, truncated, changed, or not in the manifest); empty when all is well.

    Raises:
      DataError: the manifest itself is missing or wrong.
    """
    folder = as_path(folder)
    manifest = read_manifest(folder)
    sizes = file_sizes(folder)
    shards = [shard for split in manifest.splits.values() for shard in split["shards"]]
    problems = []
    for shard in shards:
        problem = wrong_size(folder, shard, sizes)
        if problem is None and file_checksum(folder / shard["file"]) != shard["sha256"]:
            fix = "The file is damaged: fetch it or prepare the set again."
            problem = DataError("shard", str(folder / shard["file"]), f"SHA-256 {shard['sha256']}", fix)
        if problem:
            problems.append(problem)
    listed = {shard["file"] for shard in shards}
    for name in sorted(sizes):
        if name.endswith(".arrayrecord") and name not in listed:
            problems.append(DataError("shard", str(folder / name), "only files that the manifest lists", "Remove it."))
    return problems


def wrong_size(folder: Path, shard: dict, sizes: Mapping[str, int]) -> DataError | None:
    """Returns the error for a shard (an entry of the manifest) that is missing or of another size, or None.

    `sizes`: of the files that are there (storage.paths.file_sizes).
    """
    size = sizes.get(shard["file"])
    if size == shard["bytes"]:
        return None
    found = "missing" if size is None else f"{size} bytes"
    fix = "The copy is not complete: fetch it or prepare the set again."
    return DataError(f"shard {folder / shard['file']}", found, f"{shard['bytes']} bytes", fix)


def file_checksum(path: str | Path) -> str:
    """Returns the SHA-256 of a file as hex digits."""
    with as_path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fingerprint(fields: dict) -> str:
    """Hash of the canonical JSON (sorted keys, no spaces) of every manifest field but the fingerprint itself."""
    found = hashlib.sha256()
    for text in canonical_text({key: value for key, value in fields.items() if key != "fingerprint"}):
        found.update(text.encode())
    return found.hexdigest()


# How embeddings lie in a record: float16, or one byte a coordinate (`text_encoder["stored"]` of the manifest).


DTYPES = {"float16": np.dtype("<f2"), "int8": np.dtype("i1")}


def stored_dtype(text_encoder: dict) -> np.dtype:
    """Type of the rows of a set; sets without the entry hold float16."""
    stored = text_encoder.get("stored", "float16")
    if stored not in DTYPES:
        raise DataError("text_encoder.stored", stored, f"one of {', '.join(DTYPES)}", "Embed the captions again.")
    return DTYPES[stored]


def rows_of(captions: int, text_encoder: dict) -> int:
    """Rows of a record with so many captions: one each, or a single one where the vectors are of records (`per`)."""
    return 1 if text_encoder.get("per") == "record" else captions


def to_stored(rows: np.ndarray, stored: str) -> np.ndarray:
    """Unit rows [n, E] as they are stored.

    An int8 row is scaled so that its largest coordinate is 127. The scale is not kept: the row had unit length, which
    gives it back. Cosines move by 0.0004 (standard deviation) at E = 768.
    """
    if stored == "int8":
        return np.round(rows * (127 / np.abs(rows).max(axis=1, keepdims=True, initial=1e-12))).astype(np.int8)
    return rows.astype(np.float16)


def from_stored(raw: bytes, captions: int, text_encoder: dict) -> np.ndarray:
    """float16 [rows, E] (rows_of) from the bytes of a record; int8 rows are scaled back to unit length."""
    rows = np.frombuffer(raw, stored_dtype(text_encoder)).reshape(rows_of(captions, text_encoder), text_encoder["dim"])
    if rows.dtype != np.int8:
        return rows
    return unit_rows(rows).astype(np.float16)


def unit_rows(x: np.ndarray) -> np.ndarray:
    """Returns float32 rows [..., E] of length one, whatever finite numbers x has; a zero row stays zero, and one with
    infinity or NaN keeps a NaN."""
    x = np.asarray(x)
    x = x if x.dtype == np.float64 else np.asarray(x, np.float32)
    largest = np.maximum(x.max(-1, keepdims=True, initial=0), -x.min(-1, keepdims=True, initial=0))
    extreme = (largest > 0) & ((largest < 1e-12) | (largest > 1e12))  # a float32 does not hold its square
    with np.errstate(invalid="ignore"):  # infinity by infinity
        x = np.asarray(x / np.where(extreme, largest, 1) if extreme.any() else x, np.float32)
        return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


# No read-ahead: shuffled access would throw it away.
READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
LISTED, SAMPLED = 10_000, 32  # shards whose sizes are compared when a set is opened: all, or of more than that a sample
# What stays open at most: shards, and the records in them, of each of which a reader keeps the place in the file.
MOST_OPEN, MOST_INDEXED = 16_384, 2**29


class Record(TypedDict):
    """One record, as every source gives it: a dict, as its msgpack bytes are and as `write_records` takes it.

    caption_embeddings: float16 [n, E] of the n captions; [1, E] of own vectors, captions or not; None without either.
    label: -1 for none. attributes: places in the lists of names in the manifest. location: "file:index".
    """

    id: int
    image: bytes
    label: int
    captions: list[str]
    caption_embeddings: np.ndarray | None
    attributes: dict[str, int]
    location: str


class DataSource(Protocol):
    """What trains and is evaluated: records by index, with what is known about all of them.

    folder, split: where they are from. channels: of an image, 3 or 4, or of a vector (augment/views.py). wide_ids:
    some id does not fit into 31 bits.
    """

    folder: Path
    split: str
    manifest: Manifest
    channels: int
    wide_ids: bool

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> Record: ...

    def locate(self, i: int) -> str:
        """Where record `i` is, for messages."""

    def place(self, i: int) -> int:
        """Which record of the split it is, as data.side counts them."""


def open_records(folder: str | Path, split: str, fingerprint: str | None = None, channels: int = 3) -> "RecordSource":
    """Opens one split of a dataset for random access.

    Args:
      folder: the set, here or in a bucket (gs://BUCKET/NAME).
      split: one of the manifest's splits.
      fingerprint: what the manifest's fingerprint must be; None = anything.
      channels: 3, or 4 where images should be decoded with alpha. Only carried along.

    Raises:
      DataError: no manifest, no such split, another fingerprint, or a shard that is missing or has the wrong size.
    """
    folder = as_path(folder)
    manifest = read_manifest(folder)
    if fingerprint is not None and fingerprint != manifest.fingerprint:
        fix = "The config expects another version of the set: point data.path at it, or change data.fingerprint."
        raise DataError(f"fingerprint of {folder}", manifest.fingerprint, fingerprint, fix)
    if split not in manifest.splits:
        choices = ", ".join(manifest.splits)
        raise DataError("split", split, f"a split of {folder}: {choices}", did_you_mean(split, manifest.splits))
    shards = manifest.splits[split]["shards"]
    if len(shards) <= LISTED:
        sizes, looked_at = file_sizes(folder), shards
    else:  # a listing takes minutes in a bucket, and every shard is checked when it is opened
        looked_at = [shards[number] for number in np.linspace(0, len(shards) - 1, SAMPLED).astype(int)]
        sizes = {shard["file"]: size for shard in looked_at if (size := file_size(folder / shard["file"])) is not None}
    for shard in looked_at:
        problem = wrong_size(folder, shard, sizes)
        if problem:
            raise problem
    _allow_open_files(2 * min(len(shards), MOST_OPEN))  # a copy in the cache is held open beside its reader
    return RecordSource(folder, split, manifest, channels)


def _allow_open_files(count: int) -> None:
    """Raises this process's limit of open files where it is too low for `count` shards (1,024 on most systems)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 1024 if hard == resource.RLIM_INFINITY else min(count + 1024, hard)
    if soft != resource.RLIM_INFINITY and wanted > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class RecordSource:
    """One split: `len(source)` and `source[i]`; a grain data source as it is. Picklable, safe to share between threads.

    Attributes:
      folder, split, manifest: what was opened.
      channels: 3, or 4 for images with alpha.
      wide_ids: there are ids of 2**31 or more.
    """

    def __init__(self, folder: Path, split: str, manifest: Manifest, channels: int):
        self.folder, self.split, self.manifest, self.channels = as_path(folder), split, manifest, channels
        shards = manifest.splits[split]["shards"]
        self._shards = shards if isinstance(shards, ShardList) else ShardList(shards)
        self._ends = np.cumsum(self._shards.counts)
        self.wide_ids = manifest.splits[split].get("largest_id", 0) >= NARROW
        self._readers: dict[int, ArrayRecordReader] = {}
        self._memory: dict[int, list[bytes]] = {}
        self._cache: ShardCache | None = None
        self._copies: dict[int, Copy] = {}
        self._lock = threading.Lock()

    def __getstate__(self):
        # open files stay in their process
        return {**self.__dict__, "_readers": {}, "_memory": {}, "_copies": {}, "_lock": None}

    def __setstate__(self, state):
        self.__dict__.update(state, _lock=threading.Lock())

    def read_through(self, cache: ShardCache) -> None:
        """From here on shards are read from copies on this host's disk."""
        self._cache = cache

    def preload(self, memory: dict[int, list[bytes]] | None = None) -> None:
        """Reads the split into memory, for sets that are small. Damaged shards stay on disk, to be read one by one.

        memory: number of a shard -> its records, kept by the caller for all sources of the same split; it is filled.
        """
        self._memory = self._memory if memory is None else memory
        for number, shard in enumerate(self._shards):
            if number in self._memory:
                continue
            with contextlib.suppress(Exception):  # the record that is broken will say so itself
                records = self._reader(number).read_all()
                if len(records) == shard["count"]:
                    self._memory[number] = records

    def __len__(self) -> int:
        return self.manifest.splits[self.split]["count"]

    def __repr__(self) -> str:
        # grain compares this text when a position is restored: it must not depend on the machine.
        return f"RecordSource({self.manifest.name!r}, {self.split!r}, {self.manifest.fingerprint[:16]})"

    def locate(self, i: int) -> str:
        """Returns "file:index in the file" of record `i`, for error messages."""
        number, offset = self._position(i)
        return f"{self._shards[number]['file']}:{offset}"

    def place(self, i: int) -> int:
        """Which record of the split it is, as data.side counts them (data/perturb.py leaves some out)."""
        return i

    def __getitem__(self, i: int) -> Record:
        """Returns record `i`; IndexError past the end, DataError with file and index for a broken record."""
        number, offset = self._position(i)
        try:
            data = self._memory[number][offset] if number in self._memory else self._reader(number).read([offset])[0]
            record = msgpack.unpackb(data)
            return self._unpack(record, f"{self._shards[number]['file']}:{offset}")
        except (DataError, RunError):
            raise
        except Exception as error:  # the C++ reader raises bare RuntimeError, msgpack a family of its own
            where = f"{self.folder / self._shards[number]['file']}:{offset}"
            self._check_reachable(number, error)
            fix = "The file is damaged: run verify_records on the folder and fetch or prepare the set again."
            raise DataError(f"record {where}", str(error)[:200], "a readable record", fix) from error

    def _check_reachable(self, number: int, error: Exception) -> None:
        """Raises RunError where the shard cannot be read at all for now, which says nothing against its records."""
        path = self.folder / self._shards[number]["file"]
        try:
            if isinstance(error, OSError | MemoryError):
                raise error
            with path.open("rb") as file:
                file.read(1)
        except (OSError, MemoryError) as now:
            fix = "Is the disk or bucket reachable, and is there memory? Give the same command again then."
            raise RunError(f"reading {path}", str(now)[:200] or type(now).__name__, "a file that opens", fix) from now

    def _position(self, i: int) -> tuple[int, int]:
        count = len(self)
        if not -count <= i < count:
            raise IndexError(f"record {i} of {count} in split {self.split!r}")
        i = int(i) % count
        number = int(np.searchsorted(self._ends, i, side="right"))
        return number, i - (int(self._ends[number - 1]) if number else 0)

    def _reader(self, number: int) -> ArrayRecordReader:
        reader = self._readers.get(number)
        if reader is None:
            # Two threads may both open the file; one reader wins, the other is dropped unused.
            opened = ArrayRecordReader(str(self.file(number)), READER_OPTIONS)
            if opened.num_records() != self._shards[number]["count"]:
                raise ValueError(f"{opened.num_records()} records, the manifest says {self._shards[number]['count']}")
            reader = self._readers.setdefault(number, opened)
            self._close_some()
        return reader

    def _close_some(self) -> None:
        """Lets go of the shards that were opened first where too much is open; who reads one just now still has it."""
        with self._lock:
            most = min(MOST_OPEN, MOST_INDEXED // max(1, int(self._shards.counts.max(initial=1))))
            while len(self._readers) > max(1, most):
                oldest = next(iter(self._readers))
                self._readers.pop(oldest, None)
                self._copies.pop(oldest, None)

    def file(self, number: int) -> Path:
        """Where shard `number` is read: where it is, or its copy on this host."""
        path = self.folder / self._shards[number]["file"]
        if self._cache is None:
            return path  # ArrayRecord reads from buckets by itself
        return self._copies.setdefault(number, self._cache.open(self._shards[number], path)).path

    def _unpack(self, record: dict, location: str) -> Record:
        raw = record.get("caption_embeddings")
        embeddings = None
        if raw:  # nothing of a record without captions, also where the set is embedded
            embeddings = from_stored(raw, len(record["captions"]), self.manifest.text_encoder)
        return {
            "id": record["id"],
            "image": record["image"],
            "label": record["label"],
            "captions": record["captions"],
            "caption_embeddings": embeddings,
            "attributes": record["attributes"],
            "location": location,
        }


# The `text_encoder` of a manifest: whether two of them describe the same embeddings.


IF_ABSENT = {"stored": "float16", "dtype": "float32"}
PRECISION = {"stored", "dtype", "rounded_to"}  # how exactly the vectors of a model are kept: they stay near each other


def differing(old: Mapping, new: Mapping) -> dict:
    """Entries of `old`, a `text_encoder`, in which `new` differs; {} where both describe the same embeddings.

    Sets of earlier versions do not say to what length texts were cut, nor a prompt: that counts as the same. Weights
    that are not known are those of no other.
    """
    unsaid = {"max_length", "prompt"} - (old.keys() & new.keys())
    one, other = IF_ABSENT | {**old}, IF_ABSENT | {**new}
    return {
        key: one.get(key)
        for key in one | other
        if key not in unsaid and (one.get(key) != other.get(key) or (key, one.get(key)) == ("revision", "unknown"))
    }
