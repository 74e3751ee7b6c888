"""The shards of a split: their list as columns, and copies of them on the disk of this host."""

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from xsample_jax.errors import ConfigError, DataError, RunError
from xsample_jax.io.files import create_new, open_lock
from xsample_jax.io.paths import download

# A manifest names 10^6 shards, and as dicts they would take half a gigabyte.


FIELDS = {"bytes": int, "count": int, "file": str, "sha256": str}  # of a shard
PART = 4096  # shards that are dicts or pieces of text at the same time


class ShardList(Sequence):
    """A sequence of {"file": str, "count": int, "bytes": int, "sha256": str}; equal to a list of the same dicts.

    Attributes:
      counts, sizes: int64 [shards], records and bytes of each.
    """

    def __init__(self, shards: Iterable[Mapping] = ()):
        shards, parts = iter(shards), [_columns([])]
        while part := list(itertools.islice(shards, PART)):
            parts.append(_columns(part))
        self._take(parts)

    def _take(self, parts: Sequence[tuple]) -> None:
        self.counts, self.sizes, *lengths = (np.concatenate(column) for column in list(zip(*parts, strict=True))[:4])
        self._texts = [b"".join(part[place] for part in parts) for place in (4, 5)]
        self._bounds = [np.concatenate([[0], np.cumsum(of_text)]) for of_text in lengths]

    @classmethod
    def of_columns(cls, parts: Sequence[tuple]) -> "ShardList":
        """From what `_columns` gives for each part."""
        made = cls.__new__(cls)
        made._take([_columns([]), *parts])
        return made

    def part(self, start: int, stop: int) -> "ShardList":
        """The shards from `start` to `stop`, without a copy of their names."""
        made = type(self).__new__(type(self))
        made.counts, made.sizes, made._texts = self.counts[start:stop], self.sizes[start:stop], self._texts
        made._bounds = [bounds[start : stop + 1] for bounds in self._bounds]
        return made

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, number):
        if isinstance(number, slice):
            return [self[one] for one in range(*number.indices(len(self)))]
        if not -len(self) <= number < len(self):
            raise IndexError(f"shard {number} of {len(self)}")
        number = int(number) % len(self)
        file, checksum = (next(self._text(which, number, number + 1)) for which in (0, 1))
        counts = {"count": int(self.counts[number]), "bytes": int(self.sizes[number])}
        return {"file": file, **counts, "sha256": checksum}

    def _text(self, which: int, start: int, stop: int) -> Iterator[str]:
        bounds = self._bounds[which][start : stop + 1].tolist()
        return (self._texts[which][one:two].decode() for one, two in itertools.pairwise(bounds))

    def __iter__(self) -> Iterator[dict]:
        return (self[number] for number in range(len(self)))

    def __eq__(self, other) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(one == two for one, two in zip(self, other, strict=True))

    __hash__ = None

    def canonical(self) -> Iterator[str]:
        """Pieces of the JSON of this list with sorted keys and no spaces."""
        yield "["
        for start in range(0, len(self), PART):
            stop = min(start + PART, len(self))
            texts = ([json.dumps(text, ensure_ascii=False) for text in self._text(of, start, stop)] for of in (0, 1))
            rows = zip(self.sizes[start:stop].tolist(), self.counts[start:stop].tolist(), *texts, strict=True)
            text = ",".join(
                f'{{"bytes":{size},"count":{count},"file":{file},"sha256":{checksum}}}'
                for size, count, file, checksum in rows
            )
            yield f",{text}" if start else text
        yield "]"


def _columns(shards: Sequence[Mapping]) -> tuple:
    """(counts, bytes, lengths of the names, of the checksums, names, checksums) of some shards."""
    texts = [[shard[name].encode() for shard in shards] for name in ("file", "sha256")]
    lengths = [np.array([len(text) for text in of_name], np.int64) for of_name in texts]
    counts, sizes = (np.array([shard[name] for shard in shards], np.int64) for name in ("count", "bytes"))
    return counts, sizes, *lengths, *map(b"".join, texts)


def read_fields(text: str):
    """What a manifest.json says, with the shards of its splits as ShardLists. ValueError for what is not JSON.

    Shards become columns while the text is read: all their dicts are never there at once. Entries of an edited file
    that are not shards stay as they are.
    """
    parts: list[tuple] = []
    waiting: list[dict] = []

    def keep(entry: dict):
        if not _is_shard(entry):
            return entry
        waiting.append(entry)
        if len(waiting) == PART:
            parts.append(_columns(waiting))
            waiting.clear()
        return None

    fields = json.loads(text, object_hook=keep)
    shards, start = ShardList.of_columns([*parts, _columns(waiting)]), 0
    splits = fields.get("splits") if isinstance(fields, dict) else None
    for entry in splits.values() if isinstance(splits, dict) else ():
        if not isinstance(entry, dict) or not isinstance(entry.get("shards"), list):
            continue
        whole = all(shard is None for shard in entry["shards"])
        stop = start + sum(shard is None for shard in entry["shards"])
        here = shards.part(start, stop)
        rest = iter(here)
        entry["shards"] = here if whole else [next(rest, None) if one is None else one for one in entry["shards"]]
        start = stop
    return fields


def _is_shard(entry: dict) -> bool:
    if entry.keys() != FIELDS.keys() or any(type(entry[name]) is not kind for name, kind in FIELDS.items()):
        return False
    return 0 <= entry["count"] < 2**63 and 0 <= entry["bytes"] < 2**63


def canonical_text(fields: Mapping) -> Iterator[str]:
    """Pieces of the JSON of the fields of a manifest, with sorted keys and no spaces."""
    for number, name in enumerate(sorted(fields)):
        yield f"{',' if number else '{'}{_dumps(name)}:"
        if name == "splits" and isinstance(fields[name], dict) and all(map(_is_dict, fields[name].values())):
            yield from _canonical_splits(fields[name])
        else:
            yield _dumps(fields[name])
    yield "}"


def _canonical_splits(splits: Mapping) -> Iterator[str]:
    yield "{"
    for number, split in enumerate(sorted(splits)):
        yield f"{',' if number else ''}{_dumps(split)}:{{"
        for place, (name, value) in enumerate(sorted(splits[split].items())):
            yield f"{',' if place else ''}{_dumps(name)}:"
            if isinstance(value, ShardList):
                yield from value.canonical()
            else:
                yield _dumps(value)
        yield "}"
    yield "}"


def _is_dict(value) -> bool:
    return isinstance(value, dict)


def _dumps(value) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


FOLDER, LIMIT = "XSAMPLE_CACHE", "XSAMPLE_CACHE_GB"
# Copies of shards on the disk of this host, for records that are in a bucket (data.cache=disk).
#
# A shard is copied when it is first read. The name of a copy is the checksum of its content, so a set that was changed
# has other copies, and two sets that share a shard share the copy. All processes of a host use one folder: one of them
# copies, the others wait for it. What was not used for the longest time goes when the limit is reached, but never a
# shard that some process has open.
#
#     XSAMPLE_CACHE      the folder (~/.cache/xsample_jax/shards)
#     XSAMPLE_CACHE_GB   how many GB (10^9 bytes) all copies may take (100)


COPY = ".arrayrecord"


class ShardCache:
    """A folder of copies.

    Args:
      folder: made if missing.
      limit: bytes.
    """

    def __init__(self, folder: pathlib.Path, limit: int):
        self._folder, self.limit = folder, limit

    def open(self, shard: dict, source: pathlib.Path) -> "Copy":
        """The local copy of a shard (an entry of the manifest) that is at `source`, copied if it is not there yet.

        Raises DataError: what was read is not what the manifest says. RunError: it cannot be read, or there is no room
        for it, which says nothing against the records.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{shard['sha256']}{COPY}"
        while True:
            with _locked(self._folder / f"{shard['sha256']}.lock"):
                if not path.exists():
                    self._copy(shard, source, path)
                with contextlib.suppress(FileNotFoundError):  # it went between the two lines
                    return Copy(path)

    def _copy(self, shard: dict, source: pathlib.Path, path: pathlib.Path) -> None:
        partial = self._folder / f"{shard['sha256']}.{shard['bytes']}.partial"  # the name says what room it will take
        partial.unlink(missing_ok=True)
        try:
            with _locked(self._folder / ".room"):
                self._make_room(shard["bytes"])
                create_new(partial)
            download(source, partial)
            with partial.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != shard["sha256"]:
                fix = "It is damaged: prepare the set again, or copy it again."
                raise DataError(f"shard {source}", found, f"SHA-256 {shard['sha256']}", fix)
            os.replace(partial, path)
        except OSError as error:
            fix = f"Is the bucket reachable, and is there room? {FOLDER} names the folder, {LIMIT} its limit."
            raise RunError(f"copying {source}", str(error)[:300], f"a copy in {self._folder}", fix) from error
        finally:
            partial.unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        about = sorted(self._copies())
        taken = sum(bytes_ for _, bytes_, _ in about)
        for _, bytes_, path in about:
            if taken + size <= self.limit:
                return
            # A copy is in use while it is open; one in the making, while its maker has the lock.
            held = path if path.suffix == COPY else self._folder / f"{path.name.split('.')[0]}.lock"
            if _removed(path, held):
                taken -= bytes_
        if taken + size > self.limit:
            found = f"{self.limit / 1e9:g} GB, of which {taken / 1e9:.3g} GB are in use"
            fix = f"Raise {LIMIT}, or read without copies: --config.data.cache=none."
            raise RunError(f"cache {self._folder}", found, f"room for {size / 1e9:.3g} GB more", fix)

    def _copies(self) -> Iterator[tuple[float, int, pathlib.Path]]:
        """(time of last use, bytes, path) of every copy, also of those in the making."""
        for path in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError, ValueError):  # ValueError: a name that is not ours
                if path.suffix in (COPY, ".partial"):
                    about = path.stat()
                    yield about.st_mtime, int(path.suffixes[0][1:]) if path.suffix != COPY else about.st_size, path


class Copy:
    """A copy that stays for as long as this object does. `path`: where it is."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        self._file = path.open("rb")
        fcntl.flock(self._file, fcntl.LOCK_SH)
        os.utime(path)  # FileNotFoundError where it was removed before the lock

    def __del__(self):
        with contextlib.suppress(AttributeError):
            self._file.close()


def shard_cache(needed: int) -> ShardCache:
    """The cache of this host; ConfigError when it is smaller than the `needed` bytes of a split, read in any order."""
    text = os.environ.get(LIMIT, "100")
    try:
        limit = int(float(text) * 1e9)
    except ValueError:
        raise ConfigError(LIMIT, text, "a number of GB") from None
    if needed > limit:
        fix = f"Set {LIMIT} higher, or read without copies (--config.data.cache=none), or mount the bucket."
        expected = f"at least the {needed / 1e9:.3g} GB of the split: its records are read in random order"
        raise ConfigError(LIMIT, text, expected, fix)
    default = pathlib.Path("~/.cache/xsample_jax/shards").expanduser()
    return ShardCache(pathlib.Path(os.environ.get(FOLDER) or default), limit)


def _removed(path: pathlib.Path, held: pathlib.Path) -> bool:
    """Removes a file unless somebody holds a lock on `held`; whether it did."""
    with contextlib.suppress(OSError), held.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
        return True
    return False


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[None]:
    with open_lock(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
