"""The record format: ArrayRecord shards of msgpack maps beside a manifest.json that fixes what they hold.

A folder is one set. Its manifest names splits, shards with checksums, classes, attributes and text encoder, and carries
a fingerprint over all of that. The manifest is written last: a folder without one was never finished and does not open.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgpack
import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from xsample_jax.errors import DataError, did_you_mean

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
KEYS = {"id", "image", "label", "captions", "caption_embeddings", "attributes"}
MAX_ID = 2**31 - 1  # ids become int32 random keys on the device

# One record per group: random access reads nothing but the record asked for. Images are compressed already.
WRITER_OPTIONS = "group_size:1,zstd:3"
# No read-ahead: shuffled access would throw it away.
READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a record set holds; the fields are those of manifest.json.

    Attributes:
      name: name of the set.
      splits: split -> {"count": int, "shards": [{"file", "count", "bytes", "sha256"}, ...]}.
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
        return dataclasses.replace(self, fingerprint=_fingerprint(dataclasses.asdict(self)))


def _fingerprint(fields: dict) -> str:
    """Hash of the canonical JSON (sorted keys, no spaces) of every manifest field but the fingerprint itself."""
    rest = {key: value for key, value in fields.items() if key != "fingerprint"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def write_records(
    folder: str | Path,
    name: str,
    splits: dict[str, Iterable[dict]],
    class_names: Iterable[str] = (),
    attributes: dict[str, Iterable[str]] | None = None,
    text_encoder: dict | None = None,
    shard_size: int = 50_000,
    options: str = WRITER_OPTIONS,
    overwrite: bool = False,
) -> Manifest:
    """Writes a record set so that a reader sees all of it or none of it.

    Shards are written into a hidden folder beside the final names, moved when all are complete, and the manifest comes
    last. The same records and options give the same bytes.

    Args:
      folder: where the set goes; made if missing. Other files in it are left alone.
      name: name of the set.
      splits: split -> records. A record is a dict with `id` (int, unique in the set, 0 <= id < 2**31), `image` (encoded
        bytes) and optionally `label` (int, -1 = none), `captions` (strings), `caption_embeddings` (float16
        [captions, E], array or its bytes) and `attributes` ({name: int}).
      class_names: names of the labels.
      attributes: names of the values of each attribute.
      text_encoder: description of the encoder of the embeddings (with "dim" = E); needed when records carry embeddings.
      shard_size: records per file.
      options: ArrayRecord writer options. Larger groups compress what neighbours share, at the price of decompressing a
        whole group for each random read.
      overwrite: replace a finished set in this folder.

    Returns:
      The manifest that was written.

    Raises:
      DataError: a record breaks the format, an id is used twice, or the folder holds a finished set already.
    """
    folder = Path(folder)
    manifest_path = folder / MANIFEST
    if manifest_path.exists() and not overwrite:
        fix = "Choose another folder, or pass overwrite=True."
        raise DataError("folder", str(folder), "a folder without a finished set", fix)
    if not splits:
        raise DataError("splits", {}, "at least one split")
    for split in splits:
        if not re.fullmatch(r"[A-Za-z0-9_]+", split):
            raise DataError("split", split, "letters, digits and underscores only")
    folder.mkdir(parents=True, exist_ok=True)
    draft = Manifest(
        name=name,
        splits={},
        class_names=tuple(class_names),
        attributes={key: list(values) for key, values in (attributes or {}).items()},
        text_encoder=dict(text_encoder) if text_encoder else None,
    )
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder))
    try:
        ids: list[np.ndarray] = []
        for split, records in splits.items():
            draft.splits[split] = _write_split(partial, split, records, draft, shard_size, options, ids)
        _check_unique(np.concatenate(ids) if ids else np.zeros(0, np.int64))
        manifest = draft.with_fingerprint()
        (partial / MANIFEST).write_text(json.dumps(dataclasses.asdict(manifest), indent=1, ensure_ascii=False) + "\n")
        # From here to the last rename the folder has no manifest: a crash leaves a set that does not open.
        manifest_path.unlink(missing_ok=True)
        for stale in folder.glob("*.arrayrecord"):
            stale.unlink()
        for shard in sorted(partial.glob("*.arrayrecord")):
            os.replace(shard, folder / shard.name)
        os.replace(partial / MANIFEST, manifest_path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return manifest


def _write_split(
    partial: Path, split: str, records: Iterable[dict], draft: Manifest, shard_size: int, options: str, ids: list
) -> dict:
    """Writes the shards of one split, appends its ids to `ids` and returns its manifest entry."""
    records = iter(records)
    temporary: list[tuple[Path, int]] = []
    while True:
        path = partial / f"{split}-{len(temporary):05d}"
        count, shard_ids = _write_shard(path, split, records, draft, shard_size, options)
        if not count and temporary:
            path.unlink()
            break
        temporary.append((path, count))
        ids.append(np.asarray(shard_ids, np.int64))
        if count < shard_size:
            break
    shards = []
    for number, (path, count) in enumerate(temporary):  # the number of shards is known only now
        final = path.with_name(f"{split}-{number:05d}-of-{len(temporary):05d}.arrayrecord")
        path.rename(final)
        shards.append(
            {"file": final.name, "count": count, "bytes": final.stat().st_size, "sha256": file_checksum(final)}
        )
    return {"count": sum(shard["count"] for shard in shards), "shards": shards}


def _write_shard(
    path: Path, split: str, records: Iterator[dict], draft: Manifest, shard_size: int, options: str
) -> tuple[int, list[int]]:
    """Writes up to `shard_size` records to `path`; returns how many there were and their ids."""
    writer = ArrayRecordWriter(str(path), options)
    ids: list[int] = []
    try:
        for record in records:
            writer.write(pack_record(record, draft, f"{split}[{record.get('id', len(ids))}]"))
            ids.append(int(record["id"]))
            if len(ids) == shard_size:
                break
    finally:
        writer.close()
    return len(ids), ids


def _check_unique(ids: np.ndarray) -> None:
    values, counts = np.unique(ids, return_counts=True)
    if np.any(counts > 1):
        raise DataError("id", int(values[counts > 1][0]), "each id once in a set", "Number the records of all splits.")


def pack_record(record: dict, manifest: Manifest, where: str) -> bytes:
    """Checks one record against the manifest and returns its msgpack bytes (keys in a fixed order).

    Raises:
      DataError: names `where`, the key, what it held and what it should hold.
    """

    def refuse(key, value, expected):
        raise DataError(f"{where} {key}", value, expected)

    unknown = set(record) - KEYS
    if unknown:
        refuse("keys", sorted(unknown), f"only {', '.join(sorted(KEYS))}")
    packed = {"id": record.get("id"), "image": record.get("image"), "label": record.get("label", -1)}
    if not _is_int(packed["id"]) or not 0 <= packed["id"] <= MAX_ID:
        refuse("id", packed["id"], f"an int from 0 to {MAX_ID}")
    if not isinstance(packed["image"], bytes) or not packed["image"]:
        refuse("image", type(packed["image"]).__name__, "the bytes of an encoded image, not empty")
    label_end = len(manifest.class_names) or MAX_ID
    if not _is_int(packed["label"]) or not -1 <= packed["label"] < label_end:
        refuse("label", packed["label"], f"an int, -1 (none) to {label_end - 1}")
    packed["id"], packed["label"] = int(packed["id"]), int(packed["label"])

    captions = list(record.get("captions", ()))
    if not all(isinstance(caption, str) for caption in captions):
        refuse("captions", captions, "a list of strings")
    packed["captions"] = captions

    embeddings = record.get("caption_embeddings")
    if embeddings is not None:
        if not manifest.text_encoder:
            refuse("caption_embeddings", "given", "no embeddings in a set whose text_encoder is None")
        dim = manifest.text_encoder["dim"]
        if isinstance(embeddings, bytes):
            if len(embeddings) != 2 * dim * len(captions):
                refuse("caption_embeddings", f"{len(embeddings)} bytes", f"float16 [{len(captions)}, {dim}]")
            embeddings = np.frombuffer(embeddings, "<f2").reshape(len(captions), dim)
        if embeddings.shape != (len(captions), dim) or embeddings.dtype != np.float16:
            refuse("caption_embeddings", f"{embeddings.dtype} {embeddings.shape}", f"float16 [{len(captions)}, {dim}]")
        if not np.isfinite(embeddings).all():
            refuse("caption_embeddings", "a value that is not finite", "finite numbers")
        packed["caption_embeddings"] = np.ascontiguousarray(embeddings, "<f2").tobytes()

    given = dict(record.get("attributes", {}))
    if set(given) != set(manifest.attributes):
        refuse("attributes", sorted(given), f"the manifest's: {sorted(manifest.attributes)}")
    for key, value in given.items():
        if not _is_int(value) or not 0 <= value < len(manifest.attributes[key]):
            refuse(f"attributes.{key}", value, f"an int from 0 to {len(manifest.attributes[key]) - 1}")
    packed["attributes"] = {key: int(given[key]) for key in sorted(given)}
    return msgpack.packb(packed)


def _is_int(value) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def read_manifest(folder: str | Path) -> Manifest:
    """Reads and checks `folder`/manifest.json.

    Raises:
      DataError: it is missing (the set was never finished), is not a manifest, has another schema version, or does not
        match its own fingerprint (it was edited).
    """
    path = Path(folder) / MANIFEST
    try:
        fields = json.loads(path.read_text())
    except FileNotFoundError:
        fix = "Give the folder of a record set, or prepare the set again: it was not finished."
        raise DataError("manifest", str(path), "an existing file", fix) from None
    except (OSError, ValueError) as error:
        raise DataError("manifest", str(path), f"readable JSON ({error})", "Prepare the set again.") from error
    if not isinstance(fields, dict) or "schema" not in fields:
        raise DataError("manifest", str(path), "the manifest of a record set", "This file belongs to something else.")
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


def open_records(folder: str | Path, split: str, fingerprint: str | None = None, channels: int = 3) -> "RecordSource":
    """Opens one split of a record set for random access.

    Args:
      folder: the set.
      split: one of the manifest's splits.
      fingerprint: what the manifest's fingerprint must be; None = anything.
      channels: 3, or 4 where images should be decoded with alpha. Only carried along.

    Raises:
      DataError: no manifest, no such split, another fingerprint, or a shard that is missing or has the wrong size.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if fingerprint is not None and fingerprint != manifest.fingerprint:
        fix = "The config expects another version of the set: point data.path at it, or change data.fingerprint."
        raise DataError(f"fingerprint of {folder}", manifest.fingerprint, fingerprint, fix)
    if split not in manifest.splits:
        choices = ", ".join(manifest.splits)
        raise DataError("split", split, f"a split of {folder}: {choices}", did_you_mean(split, manifest.splits))
    for shard in manifest.splits[split]["shards"]:
        problem = _wrong_size(folder, shard)
        if problem:
            raise problem
    return RecordSource(folder, split, manifest, channels)


class RecordSource:
    """One split: `len(source)` and `source[i]`; a grain data source as it is. Picklable, safe to share between threads.

    `source[i]` is {"id": int, "image": encoded bytes, "label": int, "captions": list of str,
    "caption_embeddings": float16 [n, E] or None, "attributes": {name: int}, "location": "file:index"}.

    Attributes:
      folder, split, manifest: what was opened.
      channels: 3, or 4 for images with alpha.
    """

    def __init__(self, folder: Path, split: str, manifest: Manifest, channels: int):
        self.folder, self.split, self.manifest, self.channels = Path(folder), split, manifest, channels
        self._shards = manifest.splits[split]["shards"]
        self._ends = np.cumsum([shard["count"] for shard in self._shards])
        self._readers: dict[int, ArrayRecordReader] = {}
        self._memory: dict[int, list[bytes]] = {}

    def __getstate__(self):
        return {**self.__dict__, "_readers": {}, "_memory": {}}  # open files stay in their process

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
            opened = ArrayRecordReader(str(self.folder / self._shards[number]["file"]), READER_OPTIONS)
            if opened.num_records() != self._shards[number]["count"]:
                raise ValueError(f"{opened.num_records()} records, the manifest says {self._shards[number]['count']}")
            reader = self._readers.setdefault(number, opened)
        return reader

    def _unpack(self, record: dict, location: str) -> dict:
        raw = record.get("caption_embeddings")
        embeddings = None
        if raw is not None:
            embeddings = np.frombuffer(raw, "<f2").reshape(len(record["captions"]), self.manifest.text_encoder["dim"])
        return {
            "id": record["id"],
            "image": record["image"],
            "label": record["label"],
            "captions": record["captions"],
            "caption_embeddings": embeddings,
            "attributes": record["attributes"],
            "location": location,
        }


def select_caption(record: dict, which: str, where: str = "manifest.json") -> tuple[str | None, np.ndarray | None]:
    """Picks the caption and the embedding that `data.caption` asks for.

    Args:
      record: as a RecordSource returns it.
      which: "first", "mean" (renormalised mean of the embeddings; no single caption), or an index as text.
      where: names the set in errors, as the path of its manifest.

    Returns:
      (caption or None, float16 [E] of unit length or None). "first" gives (None, None) for a record without captions.

    Raises:
      DataError: the record has no embeddings to average, or not that many captions.
    """
    captions, embeddings = record["captions"], record["caption_embeddings"]
    if which == "mean":
        if embeddings is None or not len(embeddings):
            fix = "Embed its captions with `python -m xsample_jax.tools.embed`, or set data.caption=first."
            raise DataError("data.caption", which, f"caption embeddings in the set of {where}", fix)
        return None, _unit(_unit_rows(embeddings).mean(axis=0), record, where)
    index = 0 if which == "first" else int(which)
    if index >= len(captions):
        if which == "first":
            return None, None
        expected = f"one of the {len(captions)} captions that a record has in the set of {where}"
        fix = "Set data.caption=first or a smaller index, or prepare the set with more captions."
        raise DataError("data.caption", which, expected, fix)
    embedding = None if embeddings is None else _unit(embeddings[index].astype(np.float32), record, where)
    return captions[index], embedding


def _unit_rows(embeddings: np.ndarray) -> np.ndarray:
    rows = embeddings.astype(np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)


def _unit(vector: np.ndarray, record: dict, where: str) -> np.ndarray:
    """Scales to unit length in float32, then rounds to float16."""
    norm = np.linalg.norm(vector)
    if not norm > 1e-6:
        field = f"caption embedding of id {record['id']}"
        raise DataError(field, "a zero vector", f"a direction, in the set of {where}", "Embed the captions again.")
    return (vector / norm).astype(np.float16)


def verify_records(folder: str | Path) -> list[DataError]:
    """Compares every shard with the manifest: size, then SHA-256 of all bytes. Reads the whole set.

    Returns:
      One DataError per bad file (missing, truncated, changed, or not in the manifest); empty when all is well.

    Raises:
      DataError: the manifest itself is missing or wrong.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    shards = [shard for split in manifest.splits.values() for shard in split["shards"]]
    problems = []
    for shard in shards:
        problem = _wrong_size(folder, shard)
        if problem is None and file_checksum(folder / shard["file"]) != shard["sha256"]:
            fix = "The file is damaged: fetch it or prepare the set again."
            problem = DataError("shard", str(folder / shard["file"]), f"SHA-256 {shard['sha256']}", fix)
        if problem:
            problems.append(problem)
    listed = {shard["file"] for shard in shards}
    for path in sorted(folder.glob("*.arrayrecord")):
        if path.name not in listed:
            problems.append(DataError("shard", str(path), "only files that the manifest lists", "Remove it."))
    return problems


def _wrong_size(folder: Path, shard: dict) -> DataError | None:
    path = folder / shard["file"]
    size = -1
    with contextlib.suppress(FileNotFoundError):
        size = path.stat().st_size
    if size == shard["bytes"]:
        return None
    found = "missing" if size < 0 else f"{size} bytes"
    fix = "The copy is not complete: fetch it or prepare the set again."
    return DataError(f"shard {path}", found, f"{shard['bytes']} bytes", fix)


def file_checksum(path: str | Path) -> str:
    """Returns the SHA-256 of a file as hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
