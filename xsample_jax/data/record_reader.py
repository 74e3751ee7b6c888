"""Reading a record set: one split, opened for random access by index. Its format: docs/data.md."""

import contextlib
import resource
from pathlib import Path

import msgpack
import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from xsample_jax.data.embedding_rows import from_stored
from xsample_jax.data.manifest import Manifest, read_manifest, wrong_size
from xsample_jax.data.shard_cache import Copy, ShardCache
from xsample_jax.errors import DataError, did_you_mean
from xsample_jax.storage.paths import as_path, file_sizes

# No read-ahead: shuffled access would throw it away.
READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"


def open_records(folder: str | Path, split: str, fingerprint: str | None = None, channels: int = 3) -> "RecordSource":
    """Opens one split of a record set for random access.

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
    sizes = file_sizes(folder)
    for shard in shards:
        problem = wrong_size(folder, shard, sizes)
        if problem:
            raise problem
    _allow_open_files(2 * len(shards))  # a copy in the cache is held open beside its reader
    return RecordSource(folder, split, manifest, channels)


def _allow_open_files(count: int) -> None:
    """Raises this process's limit of open files where it is too low for `count` shards (1,024 on most systems)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 1024 if hard == resource.RLIM_INFINITY else min(count + 1024, hard)
    if soft != resource.RLIM_INFINITY and wanted > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class RecordSource:
    """One split: `len(source)` and `source[i]`; a grain data source as it is. Picklable, safe to share between threads.

    `source[i]` is {"id": int, "image": encoded bytes, "label": int, "captions": list of str, "caption_embeddings":
    float16 [n, E], or None without captions or where they are not embedded, "attributes": {name: int}, "location":
    "file:index"}.

    Attributes:
      folder, split, manifest: what was opened.
      channels: 3, or 4 for images with alpha.
    """

    def __init__(self, folder: Path, split: str, manifest: Manifest, channels: int):
        self.folder, self.split, self.manifest, self.channels = as_path(folder), split, manifest, channels
        self._shards = manifest.splits[split]["shards"]
        self._ends = np.cumsum([shard["count"] for shard in self._shards])
        self._readers: dict[int, ArrayRecordReader] = {}
        self._memory: dict[int, list[bytes]] = {}
        self._cache: ShardCache | None = None
        self._copies: dict[int, Copy] = {}

    def __getstate__(self):
        return {**self.__dict__, "_readers": {}, "_memory": {}, "_copies": {}}  # open files stay in their process

    def read_through(self, cache: ShardCache) -> None:
        """From here on shards are read from copies on this host's disk."""
        self._cache = cache

    def preload(self) -> None:
        """Reads the split into memory, for sets that are small. Damaged shards stay on disk, to be read one by one."""
        for number, shard in enumerate(self._shards):
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

    def __getitem__(self, i: int) -> dict:
        """Returns record `i`; IndexError past the end, DataError with file and index for a broken record."""
        number, offset = self._position(i)
        try:
            data = self._memory[number][offset] if number in self._memory else self._reader(number).read([offset])[0]
            record = msgpack.unpackb(data)
            return self._unpack(record, f"{self._shards[number]['file']}:{offset}")
        except DataError:
            raise
        except Exception as error:  # the C++ reader raises bare RuntimeError, msgpack a family of its own
            where = f"{self.folder / self._shards[number]['file']}:{offset}"
            fix = "The file is damaged: run verify_records on the folder and fetch or prepare the set again."
            raise DataError(f"record {where}", str(error)[:200], "a readable record", fix) from error

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
        return reader

    def file(self, number: int) -> Path:
        """Where shard `number` is read: where it is, or its copy on this host."""
        path = self.folder / self._shards[number]["file"]
        if self._cache is None:
            return path  # ArrayRecord reads from buckets by itself
        return self._copies.setdefault(number, self._cache.open(self._shards[number], path)).path

    def _unpack(self, record: dict, location: str) -> dict:
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
