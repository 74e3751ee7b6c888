"""Caption embeddings into a finished record set: shard by shard, resumable, and swapped in at once at the end.

Everything is prepared in a hidden folder beside the shards: for each of them SHARD.rows.npy (embeddings of the captions
that no earlier shard had) and the new shard. Both are written under a temporary name and renamed, so what has its name
is whole. At the end the new shards move in under new names, the manifest is replaced in one step, the old shards go:
at every moment the folder holds a set that opens, first the old one and then the new one. Images are copied once.
"""

import dataclasses
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from xsample_jax.captions.embed_lock import alone
from xsample_jax.captions.encoders import describe, encode_unique, fill_template
from xsample_jax.captions.known_rows import KnownRows, text_key
from xsample_jax.class_embeddings import ABOUT, FILE
from xsample_jax.data.embedding_rows import stored_dtype, to_stored
from xsample_jax.data.manifest import MANIFEST, Manifest, file_checksum, read_manifest
from xsample_jax.data.record_reader import RecordSource, open_records
from xsample_jax.data.record_writer import pack_record
from xsample_jax.data.shard_cache import shard_cache
from xsample_jax.data.whole_file import save_array, write_whole
from xsample_jax.errors import DataError
from xsample_jax.metrics.progress import progress
from xsample_jax.storage.paths import as_path, file_sizes, in_bucket, remove_tree

IN_MEMORY = 2**28  # bytes; larger shards are read record by record, twice


@dataclasses.dataclass(frozen=True)
class EmbeddedSet:
    """What `embed_set` did. captions, distinct, without: of the shards of this call; without = records with no caption.

    finished: the set carries the embeddings (False while other parts are missing).
    """

    manifest: Manifest
    captions: int
    distinct: int
    without: int
    finished: bool


def embed_set(
    folder: str | Path,
    encoder,
    *,
    template: str = "{caption}",
    stored: str = "float16",
    overwrite: bool = False,
    part: tuple[int, int] | None = None,
    show: bool = True,
) -> EmbeddedSet:
    """Adds the embeddings of all captions to a record set, or goes on where a call that was stopped left off.

    A second call for a set that has them does nothing. Where calls were stopped makes no difference to the result.
    Of two calls for the same shards at the same time the second is refused.

    Args:
      folder: a finished set.
      encoder: of `open_encoder`.
      template: text with {caption} that each caption is put into.
      stored: "float16", or "int8" for half the bytes.
      overwrite: replace embeddings of another model, template or type.
      part: (i, n): only shards i, i + n, ... of the set, for n processes at a time. A call without it joins the parts.
      show: progress on stderr.

    Raises:
      DataError: not a finished set, another process at work on it, no captions, embeddings of another model that are
        there or under way, no room on the disk, or an embedding that is zero or not finite.
    """
    folder = as_path(folder, "--set")
    read_manifest(folder)  # a folder that holds no set gets no locks
    with alone(folder, part):
        return _embed(folder, encoder, template, stored, overwrite, part, show)


def _embed(
    folder: Path, encoder, template: str, stored: str, overwrite: bool, part: tuple[int, int] | None, show: bool
) -> EmbeddedSet:
    """`embed_set` for the one that holds the set, or the part."""
    old = read_manifest(folder)
    text_encoder = describe(encoder, template) | {"stored": stored}
    stored_dtype(text_encoder)
    fill_template(template, [""])
    if old.text_encoder == text_encoder:
        _remove_leftovers(folder, old)
        return EmbeddedSet(old, 0, 0, 0, True)
    if old.text_encoder is not None and not overwrite:
        differing = {k: v for k, v in old.text_encoder.items() if text_encoder.get(k) != v}
        fix = "Pass --overwrite to replace them; one set holds embeddings of one model only."
        raise DataError(f"text_encoder of {folder}", differing, "no embeddings, or those of this very model", fix)
    tag = hashlib.sha256(f"{old.fingerprint}{json.dumps(text_encoder, sort_keys=True)}".encode()).hexdigest()[:8]
    work = _open_work(folder, tag)
    new = dataclasses.replace(old, text_encoder=text_encoder)

    shards = [(split, number) for split, entry in old.splits.items() for number in range(len(entry["shards"]))]
    mine = shards if part is None else shards[part[0] :: part[1]]
    names = {shard: _new_name(old.splits[shard[0]]["shards"][shard[1]]["file"], tag) for shard in shards}
    todo = [shard for shard in mine if not _finished(folder, work, names[shard])]
    _check_room(folder, old, todo)
    known = KnownRows(text_encoder)
    records = sum(old.splits[split]["shards"][number]["count"] for split, number in todo)
    ticks = iter(progress(range(records + 1), "embed, records", records, enabled=show))
    totals = np.zeros(3, np.int64)
    for shard in mine:
        rows = work / f"{names[shard]}.rows.npy"
        if shard in todo:
            source = _one_shard(open_records(folder, shard[0]), shard[1])
            advance = _shared_out(ticks, len(source))
            totals += _embed_shard(source, new, encoder, template, known, rows, work / names[shard], advance)
        else:
            known.add(rows)
    if part is not None:
        return EmbeddedSet(old, *totals.tolist(), finished=False)
    if not known:
        fix = "Prepare the set with captions; for class names use --what=classes."
        raise DataError(f"captions of {folder}", 0, "at least one caption in the set", fix)
    return EmbeddedSet(_swap_in(folder, work, new, names), *totals.tolist(), finished=True)


def embed_classes(folder: str | Path, encoder, template: str = "a photo of a {caption}") -> np.ndarray:
    """Writes class_embeddings.npy, float16 [classes, E] of the set's class names, for the class_text graph.

    class_embeddings.json beside it says of which model, template and names they are.
    """
    folder = as_path(folder, "--set")
    names = read_manifest(folder).class_names
    if not names:
        raise DataError(f"class_names of {folder}", [], "names to embed", "Only sets with labels have class texts.")
    rows = encode_unique(encoder, fill_template(template, names)).astype(np.float16)
    about = {"text_encoder": describe(encoder, template), "class_names": list(names)}
    write_whole(folder / FILE, lambda path: save_array(path, rows))
    text = json.dumps(about, indent=1, ensure_ascii=False) + "\n"
    write_whole(folder / ABOUT, lambda path: path.write_text(text, encoding="utf-8"))
    return rows


def _embed_shard(
    source: RecordSource,
    manifest: Manifest,
    encoder,
    template: str,
    known: KnownRows,
    rows: Path,
    out: Path,
    advance: Callable[[float], None],
) -> tuple[int, int, int]:
    """Writes the new rows and the new shard; returns captions, new distinct ones, records without any."""
    texts: dict[bytes, str] = {}
    counted = without = 0
    for index in range(len(source)):
        captions = source[index]["captions"]
        counted += len(captions)
        without += not captions
        for text in fill_template(template, captions):
            if (key := text_key(text)) not in known:
                texts.setdefault(key, text)
    if not rows.exists():
        done = 0

        def encoded(count: int) -> None:
            nonlocal done
            done += count
            advance(done / len(texts))

        table = np.zeros(len(texts), known.dtype)
        if texts:
            vectors = encode_unique(encoder, list(texts.values()), encoded)
            if vectors.shape[1] != manifest.text_encoder["dim"]:
                raise DataError("embedding", vectors.shape, f"width {manifest.text_encoder['dim']}, as the model says")
            table["key"] = np.array([np.void(key) for key in texts], "V16")
            table["row"] = to_stored(vectors, manifest.text_encoder["stored"])
        write_whole(rows, lambda path: save_array(path, table))
    known.add(rows)
    write_whole(out, lambda path: _rewrite(source, manifest, template, known, path))
    advance(1.0)
    return counted, len(texts), without


def _rewrite(source: RecordSource, manifest: Manifest, template: str, known: KnownRows, path: Path) -> None:
    """The records of one shard with their embeddings, grouped and compressed as they were."""
    reader = ArrayRecordReader(str(source.file(0)))
    options = reader.writer_options_string()
    reader.close()
    writer = ArrayRecordWriter(str(path), options)
    try:
        for index in range(len(source)):
            record = source[index]
            where = record.pop("location")
            keys = [text_key(text) for text in fill_template(template, record["captions"])]
            writer.write(pack_record(record | {"caption_embeddings": known.rows(keys)}, manifest, where))
    finally:
        writer.close()


def _swap_in(folder: Path, work: Path, draft: Manifest, names: dict[tuple[str, int], str]) -> Manifest:
    """Moves the new shards in, replaces the manifest, removes the old shards and the work folder."""
    splits = {}
    for split, entry in draft.splits.items():
        shards = []
        for number, shard in enumerate(entry["shards"]):
            final = folder / names[split, number]
            if not final.exists():
                (work / final.name).replace(final)
            about = {"file": final.name, "bytes": file_sizes(folder)[final.name], "sha256": file_checksum(final)}
            shards.append(shard | about)
        splits[split] = {**entry, "shards": shards}
    manifest = dataclasses.replace(draft, splits=splits).with_fingerprint()
    text = json.dumps(dataclasses.asdict(manifest), indent=1, ensure_ascii=False) + "\n"
    write_whole(folder / MANIFEST, lambda path: path.write_text(text, encoding="utf-8"))
    _remove_leftovers(folder, manifest)
    return manifest


def _remove_leftovers(folder: Path, manifest: Manifest) -> None:
    listed = {shard["file"] for entry in manifest.splits.values() for shard in entry["shards"]}
    for path in folder.glob("*.arrayrecord"):
        if path.name not in listed:
            path.unlink()
    for work in folder.glob(".embed-*"):
        remove_tree(work)


def _open_work(folder: Path, tag: str) -> Path:
    work = folder / f".embed-{tag}"
    others = [path for path in folder.glob(".embed-*") if path != work]
    if others:
        fix = "Finish it with the same model and flags, or remove that folder."
        raise DataError("embeddings under way", str(others[0]), "no unfinished work of another model in this set", fix)
    work.mkdir(exist_ok=True)
    return work


def _finished(folder: Path, work: Path, name: str) -> bool:
    rows = work / f"{name}.rows.npy"
    return rows.exists() and ((work / name).exists() or (folder / name).exists())


def _check_room(folder: Path, manifest: Manifest, todo: list[tuple[str, int]]) -> None:
    sizes = [manifest.splits[split]["shards"][number]["bytes"] for split, number in todo]
    # In a bucket there is room; here one shard is made at a time.
    need = max(sizes, default=0) if in_bucket(folder) else sum(sizes)
    free = shutil.disk_usage(tempfile.gettempdir() if in_bucket(folder) else folder).free
    if free < 1.05 * need:
        expected = (
            f"{1.05 * need / 2**30:.1f} GiB and room for the embeddings: shards are copied before the old ones go"
        )
        fix = "Make room, or move the set to a larger disk."
        raise DataError("free disk", f"{free / 2**30:.1f} GiB", expected, fix)


def _one_shard(source: RecordSource, number: int) -> RecordSource:
    shard = source.manifest.splits[source.split]["shards"][number]
    splits = {source.split: {"count": shard["count"], "shards": [shard]}}
    manifest = dataclasses.replace(source.manifest, splits=splits)
    single = RecordSource(source.folder, source.split, manifest, source.channels)
    if in_bucket(source.folder):
        single.read_through(shard_cache(shard["bytes"]))
    if shard["bytes"] < IN_MEMORY:
        single.preload()
    return single


def _new_name(file: str, tag: str) -> str:
    """train-00000-of-00012.arrayrecord -> train-00000-of-00012.TAG.arrayrecord (in place of an earlier tag)."""
    return re.sub(r"(\.[0-9a-f]{8})?\.arrayrecord$", f".{tag}.arrayrecord", file)


def _shared_out(ticks, records: int) -> Callable[[float], None]:
    """advance(share of the shard that is done) -> as many ticks of the progress line as that makes records."""
    shown = 0

    def advance(share: float) -> None:
        nonlocal shown
        while shown < int(share * records):
            next(ticks)
            shown += 1

    return advance
