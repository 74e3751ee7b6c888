"""Writing a dataset: ArrayRecord shards of msgpack maps, every record checked, and the manifest last."""

import collections
import json
import os
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgpack
import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from xsample_jax.augment.ids import MAX_ID, NARROW
from xsample_jax.data.records import MANIFEST, Manifest, file_checksum, rows_of, stored_dtype
from xsample_jax.errors import DataError
from xsample_jax.io.paths import as_path, in_bucket

KEYS = {"id", "image", "label", "captions", "caption_embeddings", "attributes"}
MAX_LABEL = 2**31 - 1

# One record per group: random access reads nothing but the record asked for. Images are compressed already.
WRITER_OPTIONS = "group_size:1,zstd:3"


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
    """Writes a dataset so that a reader sees all of it or none of it.

    Shards are written into a hidden folder beside the final names, moved when all are complete, and the manifest comes
    last. The same records and options give the same bytes.

    Args:
      folder: where the set goes; made if missing. Other files in it are left alone.
      name: name of the set.
      splits: split -> records. A record is a dict with `id` (int, unique in the set, 0 <= id < 2**63), `image` (encoded
        bytes) and optionally `label` (int, -1 = none), `captions` (strings), `caption_embeddings` (float16,
        or as `text_encoder` says, [captions, E], or [1, E] where its `per` is "record"; array or its bytes) and
        `attributes` ({name: int}).
      class_names: names of the labels.
      attributes: names of the values of each attribute.
      text_encoder: description of the encoder of the embeddings (with "dim" = E); needed when records carry embeddings.
      shard_size: records per file.
      options: ArrayRecord writer options. Larger groups compress what neighbors share, at the price of decompressing a
        whole group for each random read.
      overwrite: replace a finished set in this folder.

    Returns:
      The manifest that was written.

    Raises:
      DataError: a record breaks the format, an id is used twice, or the folder holds a finished set already.
    """
    folder = as_path(folder)
    _check_request(folder, splits, overwrite)
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
            draft.splits[split], of_split = _write_split(partial, split, records, draft, shard_size, options)
            ids += of_split
        _check_unique(np.concatenate(ids) if ids else np.zeros(0, np.int64))
        manifest = draft.with_fingerprint()
        (partial / MANIFEST).write_text(manifest_text(manifest))
        _move_into(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return manifest


def _check_request(folder: Path, splits: Iterable[str], overwrite: bool) -> None:
    """Raises DataError where a set cannot be written into `folder`, or its splits cannot have their names."""
    if in_bucket(folder):
        fix = f"Write it here and copy it: gcloud storage rsync FOLDER {folder}. Or use tools.prepare."
        raise DataError("folder", str(folder), "a local folder", fix)
    if (folder / MANIFEST).exists() and not overwrite:
        fix = "Choose another folder, or pass overwrite=True."
        raise DataError("folder", str(folder), "a folder without a finished set", fix)
    if not splits:
        raise DataError("splits", {}, "at least one split")
    for split in splits:
        check_split(split)


def _move_into(partial: Path, folder: Path) -> None:
    """Moves complete shards and their manifest, which comes last, to where a reader looks for them."""
    # From here to the last rename the folder has no manifest: a crash leaves a set that does not open.
    (folder / MANIFEST).unlink(missing_ok=True)
    for stale in folder.glob("*.arrayrecord"):
        stale.unlink()
    for shard in sorted(partial.glob("*.arrayrecord")):
        os.replace(shard, folder / shard.name)
    os.replace(partial / MANIFEST, folder / MANIFEST)


def check_split(name: str, field: str = "split", fix: str = "") -> None:
    """Raises DataError, about `field`, for a name of a split that cannot be part of the names of its files."""
    if not re.fullmatch(r"[A-Za-z0-9_]+", name):
        raise DataError(field, name, "letters, digits and underscores only", fix)


def manifest_text(manifest: Manifest) -> str:
    """Returns the text of manifest.json."""
    return json.dumps(vars(manifest), indent=1, ensure_ascii=False, default=list) + "\n"  # list: of a ShardList


def _write_split(
    partial: Path, split: str, records: Iterable[dict], draft: Manifest, shard_size: int, options: str
) -> tuple[dict, list[np.ndarray]]:
    """Writes the shards of one split; returns its manifest entry, and the ids of each shard."""
    records, ids = iter(records), []
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
        shards.append(shard_entry(final, count))
    entry = {"count": sum(shard["count"] for shard in shards), "shards": shards}
    return entry | large_id(max((int(part.max(initial=0)) for part in ids), default=0)), ids


def large_id(largest: int) -> dict[str, int]:
    """What the entry of a split says of its largest id: nothing where one word holds it, as in every set of old."""
    return {"largest_id": largest} if largest >= NARROW else {}


def shard_entry(path: Path, count: int, file: str | None = None) -> dict:
    """Returns what a manifest says about a finished shard; `file`: its final name, if not the one it has now."""
    return {
        "file": file or path.name,
        "count": count,
        "bytes": path.stat().st_size,
        "sha256": file_checksum(path),
    }


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
    label_end = len(manifest.class_names) or MAX_LABEL
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
        dim, dtype = manifest.text_encoder["dim"], stored_dtype(manifest.text_encoder)
        rows = rows_of(len(captions), manifest.text_encoder)
        expected = f"{dtype} [{rows}, {dim}]"
        if isinstance(embeddings, bytes):
            if len(embeddings) != dtype.itemsize * dim * rows:
                refuse("caption_embeddings", f"{len(embeddings)} bytes", expected)
            embeddings = np.frombuffer(embeddings, dtype).reshape(rows, dim)
        if embeddings.shape != (rows, dim) or embeddings.dtype != dtype:
            refuse("caption_embeddings", f"{embeddings.dtype} {embeddings.shape}", expected)
        if not np.isfinite(embeddings).all():
            refuse("caption_embeddings", "a value that is not finite", "finite numbers")
        packed["caption_embeddings"] = np.ascontiguousarray(embeddings, dtype).tobytes()

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


# Class names that a program tells apart and a reader does not, or the reverse.


def as_read(name: str) -> str:
    """The name as a reader takes it: compatible characters, case, white space, and what has no width made alike."""
    visible = "".join(char for char in unicodedata.normalize("NFKC", name) if unicodedata.category(char) != "Cf")
    return " ".join(visible.replace("_", " ").split()).casefold()


def repeated(names: Sequence[str]) -> list[str]:
    """Names that several classes have, as they are written."""
    return sorted(name for name, count in collections.Counter(names).items() if count > 1)


def look_alikes(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Groups of different names that are read alike."""
    groups = collections.defaultdict(set)
    for name in names:
        groups[as_read(name)].add(name)
    return sorted(tuple(sorted(group)) for group in groups.values() if len(group) > 1)
