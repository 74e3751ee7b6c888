"""Is the data what the config takes it for? Manifest, files, a sample of the records, their embeddings."""

import collections
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from xsample_jax.data.decode import decode_record
from xsample_jax.data.manifest import file_checksum, read_manifest, verify_records, wrong_size
from xsample_jax.data.record_reader import RecordSource
from xsample_jax.data.sources import open_source, source_folder
from xsample_jax.doctor.finding import NOTE, OK, PROBLEM, Finding, problems
from xsample_jax.errors import DataError, UserError
from xsample_jax.examples import open_examples
from xsample_jax.objectives.build import build_objective
from xsample_jax.storage.paths import as_path, file_sizes

# What a quick look may cost: 1 GB of checksums, 256 records.
CHECKED_BYTES = 1_000_000_000
CHECKED_RECORDS = 256
UNIT = 0.01  # a row of float16 is a unit vector up to this


def check_data(config, every_file: bool = False) -> Iterator[Finding]:
    """Yields what is wrong with the data of a config, and what is right.

    Args:
      config: resolved config.
      every_file: compare the checksum of every file, not only of some.
    """
    try:
        if config.data.path is not None and not as_path(config.data.path).is_dir():
            fix = "Make it: python -m xsample_jax.tools.prepare. Or say where it is: --config.data.path=FOLDER."
            raise DataError("data.path", config.data.path, "an existing folder", fix)
        folder = source_folder(config.data)
        manifest = read_manifest(folder)
    except UserError as error:
        yield from problems("data", error)
        return
    counts = ", ".join(f"{split} {entry['count']}" for split, entry in manifest.splits.items())
    yield Finding(OK, "data", f"{manifest.name} in {folder}: {counts}; fingerprint {manifest.fingerprint[:16]}")
    yield from check_files(folder, every_file)
    if config.data.source == "records" and config.data.fingerprint is None:
        fix = f"To pin it: --config.data.fingerprint={manifest.fingerprint}"
        yield Finding(NOTE, "data", f"data.fingerprint is not set: the run would take any version of this set. {fix}")
    for split in _splits(config):
        try:
            source = open_source(config.data, split)
        except UserError as error:
            yield from problems("data", error)
            continue
        if not len(source):
            yield Finding(PROBLEM, "data", f"split {split} is empty: prepare the set with a larger share for it.")
            continue
        yield from check_records(source)
    try:
        open_examples(config, config.data.split, build_objective(config.objective).requires)[0]
    except UserError as error:
        yield from problems("data", error)
    else:
        preset = config.objective.preset
        yield Finding(OK, "data", f"the set has all that objective.preset = {preset!r} reads")


def check_files(folder: Path, every_file: bool) -> Iterator[Finding]:
    """Sizes of all files; checksums of all of them, or of the first ones up to CHECKED_BYTES."""
    if every_file:
        wrong = verify_records(folder)
        yield from (Finding(PROBLEM, "data", str(error)) for error in wrong)
        if not wrong:
            yield Finding(OK, "data", "all files have the size and the checksum of the manifest")
        return
    shards = [shard for entry in read_manifest(folder).splits.values() for shard in entry["shards"]]
    sizes = file_sizes(folder)
    wrong = [error for error in (wrong_size(folder, shard, sizes) for shard in shards) if error]
    yield from (Finding(PROBLEM, "data", str(error)) for error in wrong)
    if wrong:
        return
    checked, budget = 0, CHECKED_BYTES
    for shard in sorted(shards, key=lambda shard: shard["sha256"]):  # as good as at random, and the same every time
        if checked and shard["bytes"] > budget:
            break
        if file_checksum(folder / shard["file"]) != shard["sha256"]:
            fix = "It is damaged: fetch it again, or prepare the set again."
            yield Finding(PROBLEM, "data", f"{folder / shard['file']} has another checksum than the manifest. {fix}")
        checked, budget = checked + 1, budget - shard["bytes"]
    more = "" if checked == len(shards) else " (--every_file checks all)"
    yield Finding(OK, "data", f"{len(shards)} files have the right size; read {checked} for their checksum{more}")


def check_records(source: RecordSource) -> Iterator[Finding]:
    """Reads and decodes records spread evenly over a split."""
    places = np.unique(np.linspace(0, len(source) - 1, CHECKED_RECORDS).astype(int))
    broken: list[DataError] = []
    counts: collections.Counter = collections.Counter()
    rows = []
    for place in places:
        try:
            record = source[int(place)]
            decode_record(record, 32, source.channels)
        except DataError as error:
            broken.append(error)
            continue
        counts["caption"] += bool(record["captions"])
        counts["label"] += record["label"] >= 0
        if record["caption_embeddings"] is not None:
            counts["embedding"] += 1
            rows.append(np.asarray(record["caption_embeddings"], np.float32))
    for error in broken[:3]:
        yield Finding(PROBLEM, "records", f"split {source.split}: {error}")
    if len(broken) > 3:
        fix = "Clean it: python -m xsample_jax.tools.prepare --source=records --path=FOLDER --out=NEW"
        yield Finding(PROBLEM, "records", f"split {source.split}: {len(broken)} of {len(places)} are broken. {fix}")
    good = len(places) - len(broken)
    have = ", ".join(f"{counts[what]} with {what}" for what in ("label", "caption", "embedding"))
    yield Finding(OK, "records", f"split {source.split}: {good} of {len(places)} looked at are whole; {have}")
    if source.manifest.text_encoder is not None:
        yield from check_embeddings(source, rows, good - counts["embedding"])


def check_embeddings(source: RecordSource, rows: list[np.ndarray], missing: int) -> Iterator[Finding]:
    """Finite, of unit length, different from each other, and there for every record."""
    about, encoder = "embeddings", source.manifest.text_encoder
    fix = "Embed the captions again: python -m xsample_jax.tools.embed"
    if missing:
        text = f"split {source.split}: {missing} records have none. Drop them: tools.prepare --require_caption. {fix}"
        yield Finding(PROBLEM, about, text)
    rows = np.concatenate([some for some in rows if len(some)] or [np.zeros((0, encoder["dim"]), np.float32)])
    if not len(rows):
        return
    if not np.isfinite(rows).all():
        yield Finding(PROBLEM, about, f"split {source.split}: values that are not finite. {fix}")
        return
    norms = np.linalg.norm(rows, axis=1)
    if encoder.get("normalised") and np.abs(norms - 1).max() > UNIT:
        text = f"lengths from {norms.min():.3f} to {norms.max():.3f}, the manifest says unit vectors"
        yield Finding(PROBLEM, about, f"split {source.split}: {text}. {fix}")
        return
    units = rows / np.maximum(norms, 1e-12)[:, None]
    cosine = units @ units.T
    mean = (cosine.sum() - len(rows)) / max(len(rows) * (len(rows) - 1), 1)
    if len(rows) > 8 and mean > 0.95:
        text = f"mean cosine of different captions is {mean:.2f}: they are nearly all the same"
        yield Finding(PROBLEM, about, f"split {source.split}: {text}. Wrong pooling, or one caption for all? {fix}")
        return
    text = f"{encoder['name']}, {encoder['dim']} numbers, finite, length {norms.mean():.3f}, mean cosine {mean:.2f}"
    yield Finding(OK, about, f"split {source.split}: {text}")


def _splits(config) -> list[str]:
    """Splits that the run reads."""
    names = [config.data.split]
    if config.eval.suite != "none":
        names += [config.eval.train_split, config.eval.split]
    return list(dict.fromkeys(names))
