"""Caption embeddings into a finished dataset: shard by shard, resumable, and swapped in at once at the end."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from xsample_jax.captions.embed_state import KnownRows, Piece, WorkFolder, alone, leftovers, remove, text_key
from xsample_jax.captions.encoders import describe, encode_unique, fill_template
from xsample_jax.captions.vectors import VectorFile
from xsample_jax.data.class_texts import ABOUT, FILE, spelled_out
from xsample_jax.data.records import (
    Manifest,
    RecordSource,
    differing,
    file_checksum,
    open_records,
    read_manifest,
    stored_dtype,
    to_stored,
)
from xsample_jax.data.shards import shard_cache
from xsample_jax.data.writer import pack_record
from xsample_jax.errors import DataError
from xsample_jax.io.files import atomic_write, save_array
from xsample_jax.io.paths import as_path, in_bucket
from xsample_jax.metrics.progress_bar import progress

IN_MEMORY = 2**28  # bytes; larger shards are read record by record, twice


@dataclasses.dataclass(frozen=True)
class EmbeddedSet:
    """What `embed_set` did.

    captions, distinct, without: of the shards of this call; without = records with no caption.
    unread, cut: of the distinct ones, those without a word that the model knows (all have the same embedding), and
    those that reach the most tokens that it reads. Both are 0 with a tokenizer that does not tell.
    finished: the set carries the embeddings (False while other parts are missing).
    before: it carried them already, and nothing was done.
    """

    manifest: Manifest
    captions: int = 0
    distinct: int = 0
    without: int = 0
    unread: int = 0
    cut: int = 0
    finished: bool = True
    before: bool = False


@dataclasses.dataclass(frozen=True)
class CaptionForm:
    """template: text with {caption} that each caption is put into; stored: "float16", or "int8" for half the bytes."""

    template: str = "{caption}"
    stored: str = "float16"


AS_IT_IS = CaptionForm()


def embed_set(
    folder: str | Path,
    encoder,
    form: CaptionForm = AS_IT_IS,
    *,
    overwrite: bool = False,
    part: tuple[int, int] | None = None,
    show: bool = True,
) -> EmbeddedSet:
    """Adds the embeddings of all captions to a dataset, or continues where a stopped call left off.

    A second call for a set that has them does nothing. Where calls were stopped makes no difference to the result.
    Of two calls for the same shards at the same time the second is refused.

    Args:
      folder: a finished set.
      encoder: of `open_encoder`; or a VectorFile, whose vectors are those of the records, not of their captions.
      form: what an encoder is given of a caption, and how its embedding is stored.
      overwrite: replace embeddings of another model, template or type.
      part: (i, n): only shards i, i + n, ... of the set, for n processes at a time. A call without it joins the parts.
      show: progress on stderr.

    Raises:
      DataError: not a finished set, another process at work on it, no captions, a shard that is not what the manifest
        says, embeddings of another model that are there or under way, no room on the disk, or an embedding that is zero
        or not finite.
    """
    folder = as_path(folder, "--set")
    text_encoder = describe(encoder, form.template) | {"stored": form.stored}
    stored_dtype(text_encoder)
    fill_template(form.template, [])
    manifest = read_manifest(folder)
    # Without a lock: the set may be one that cannot be written to.
    if _has(manifest, text_encoder) and (part is not None or not leftovers(folder, manifest)):
        return EmbeddedSet(manifest, before=True)
    with alone(folder, part):
        manifest = read_manifest(folder)
        if _has(manifest, text_encoder):
            if part is None:
                remove(leftovers(folder, manifest))
            return EmbeddedSet(manifest, before=True)
        if manifest.text_encoder is not None and not overwrite:
            there = differing(manifest.text_encoder, text_encoder)
            fix = "Pass --overwrite to replace them; one set holds embeddings of one model only."
            raise DataError(f"text_encoder of {folder}", there, "no embeddings, or those of this very model", fix)
        if isinstance(encoder, VectorFile):
            encoder.check_keys(folder, manifest, show)
        return _embed(WorkFolder(folder, manifest, text_encoder), manifest, encoder, part, show)


def _has(manifest: Manifest, text_encoder: dict) -> bool:
    return manifest.text_encoder is not None and not differing(manifest.text_encoder, text_encoder)


def _embed(work: WorkFolder, old: Manifest, encoder, part: tuple[int, int] | None, show: bool) -> EmbeddedSet:
    mine = work.pieces if part is None else work.pieces[part[0] :: part[1]]
    todo = [piece for piece in mine if not work.finished(piece)]
    work.check_room(todo)
    sources = {split: open_records(work.folder, split) for split in old.splits}
    known = KnownRows(work.draft.text_encoder)
    records = sum(piece.entry["count"] for piece in todo)
    ticks = iter(progress(range(records + 1), "embed, records", records, enabled=show))
    totals = np.zeros(5, np.int64)
    for piece in mine:
        if piece in todo:
            source = _one_shard(sources[piece.split], piece)
            totals += _embed_shard(source, work, piece, encoder, known, _shared_out(ticks, len(source)))
        else:
            known.add(work.rows(piece))
    if part is not None:
        return EmbeddedSet(old, *totals.tolist(), finished=False)
    if not known:
        work.remove()
        fix = "Prepare the set with captions; for class names use --what=classes."
        raise DataError(f"captions of {work.folder}", 0, "at least one caption in the set", fix)
    return EmbeddedSet(work.swap_in(), *totals.tolist())


def _embed_shard(
    source: RecordSource, work: WorkFolder, piece: Piece, encoder, known: KnownRows, advance: Callable[[float], None]
) -> tuple[int, ...]:
    """Writes the new rows and the new shard; returns the counts of EmbeddedSet, captions first."""
    texts: dict[bytes, str] = {}
    new: list[str] = []  # the captions of `texts`: a template has words that every model knows
    counted = without = 0
    for index in range(len(source)):
        filled = _texts_of(source[index], encoder, work.draft)
        counted += len(filled)
        without += not filled
        for caption, text in filled:
            if (key := text_key(text)) not in known and key not in texts:
                texts[key] = text
                new.append(caption)
    table = np.zeros(len(texts), known.dtype)
    if texts:
        table["key"] = np.array([np.void(key) for key in texts], "V16")
        table["row"] = _encode(list(texts.values()), encoder, work.draft.text_encoder, advance)
    atomic_write(work.rows(piece), lambda path: save_array(path, table))
    known.add(work.rows(piece))
    atomic_write(work.shard(piece), lambda path: _rewrite(source, work.draft, encoder, known, path))
    advance(1.0)
    return counted, len(texts), without, *_unread_and_cut(encoder, new)


def _texts_of(record: dict, encoder, manifest: Manifest) -> list[tuple[str, str]]:
    """(caption, text whose embedding is stored) for every row of a record; of own vectors its key, twice."""
    if isinstance(encoder, VectorFile):
        return [(encoder.text_of(record, manifest),) * 2]
    captions = record["captions"]
    return list(zip(captions, fill_template(manifest.text_encoder["template"], captions), strict=True))


def _unread_and_cut(encoder, captions: Sequence[str]) -> tuple[int, int]:
    """How many captions have no word that the model knows, and how many reach the most tokens that it reads."""
    counts = encoder.count_known(captions) if captions and hasattr(encoder, "count_known") else None
    if counts is None:
        return 0, 0
    return int((counts[:, 0] == 0).sum()), int((counts[:, 1] >= encoder.info.get("max_length", np.inf)).sum())


def _encode(texts: Sequence[str], encoder, text_encoder: dict, advance: Callable[[float], None]) -> np.ndarray:
    """Rows of the texts as they are stored [n, E]; `advance` is told the share that is done."""
    done = 0

    def encoded(count: int) -> None:
        nonlocal done
        done += count
        advance(done / len(texts))

    vectors = encode_unique(encoder, texts, encoded)
    if vectors.shape[1] != text_encoder["dim"]:
        raise DataError("embedding", vectors.shape, f"width {text_encoder['dim']}, as the model says")
    return to_stored(vectors, text_encoder["stored"])


def _rewrite(source: RecordSource, manifest: Manifest, encoder, known: KnownRows, path: Path) -> None:
    """The records of one shard with their embeddings, grouped and compressed as they were."""
    reader = ArrayRecordReader(str(source.file(0)))
    options = reader.writer_options_string()
    reader.close()
    writer = ArrayRecordWriter(str(path), options)
    try:
        for index in range(len(source)):
            record = source[index]
            where = record.pop("location")
            rows = known.rows([text_key(text) for _, text in _texts_of(record, encoder, manifest)])
            writer.write(pack_record(record | {"caption_embeddings": rows}, manifest, where))
    finally:
        writer.close()


def _one_shard(source: RecordSource, piece: Piece) -> RecordSource:
    """The records of one shard; DataError where it is not what the manifest says, as the new one would hide that."""
    splits = {piece.split: {"count": piece.entry["count"], "shards": [piece.entry]}}
    manifest = dataclasses.replace(source.manifest, splits=splits)
    single = RecordSource(source.folder, source.split, manifest, source.channels)
    if in_bucket(source.folder):
        single.read_through(shard_cache(piece.entry["bytes"]))
    elif file_checksum(single.file(0)) != piece.entry["sha256"]:  # the cache compares it by itself
        fix = "The file is damaged: fetch it or prepare the set again."
        raise DataError("shard", str(single.file(0)), f"SHA-256 {piece.entry['sha256']}", fix)
    if piece.entry["bytes"] < IN_MEMORY:
        single.preload()
    return single


def _shared_out(ticks, records: int) -> Callable[[float], None]:
    """advance(share of the shard that is done) -> as many ticks of the progress line as that makes records."""
    shown = 0

    def advance(share: float) -> None:
        nonlocal shown
        while shown < int(share * records):
            next(ticks)
            shown += 1

    return advance


# Embeddings of the class names of a dataset, for the class_text graph.


def embed_classes(
    folder: str | Path, encoder, template: str = "a photo of a {caption}", overwrite: bool = False
) -> np.ndarray:
    """Writes class_embeddings.npy, float16 [classes, E] of the set's class names, for the class_text graph.

    class_embeddings.json beside it says of which model, template and names they are. WordNet ids are embedded as the
    names of their classes.

    Raises:
      DataError: no set, or none with classes; or it has class embeddings of something else and not `overwrite`.
    """
    folder = as_path(folder, "--set")
    names = read_manifest(folder).class_names
    if not names:
        raise DataError(f"class_names of {folder}", [], "names to embed", "Only sets with labels have class texts.")
    about = {"text_encoder": describe(encoder, template), "class_names": list(names)}
    if (folder / FILE).exists() and not overwrite:
        _refuse_another(folder, about["text_encoder"])
    rows = encode_unique(encoder, fill_template(template, spelled_out(names))).astype(np.float16)
    (folder / ABOUT).unlink(missing_ok=True)  # at no moment beside rows of another model
    atomic_write(folder / FILE, lambda path: save_array(path, rows))
    text = json.dumps(about, indent=1, ensure_ascii=False) + "\n"
    atomic_write(folder / ABOUT, lambda path: path.write_text(text, encoding="utf-8"))
    return rows


def _refuse_another(folder: Path, text_encoder: dict) -> None:
    fix = "Pass --overwrite to replace them."
    if not (folder / ABOUT).exists():
        raise DataError("class embeddings", str(folder / FILE), f"none, or {ABOUT} that says what they are", fix)
    there = differing(json.loads((folder / ABOUT).read_text(encoding="utf-8"))["text_encoder"], text_encoder)
    if there:
        raise DataError(f"text_encoder of {folder / FILE}", there, "none, or that of this very model", fix)
