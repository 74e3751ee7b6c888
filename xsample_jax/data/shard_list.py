"""The shards of a split as columns: a manifest names 10^6 of them, and as dicts they would take half a gigabyte."""

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

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
    that are no shards stay as they are.
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
