"""What the doctor finds: whether the data is what the config takes it for, and whether the machine will do."""

import collections
import contextlib
import dataclasses
import hashlib
import math
import os
import resource
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np

from xsample_jax.augment.ids import VECTOR_CHANNELS
from xsample_jax.config.rules_objective import check_kernels
from xsample_jax.data.dataset import Dataset, open_evaluated, open_for_a_look, train_batches, without_cache
from xsample_jax.data.decode import loses_a_third, open_image
from xsample_jax.data.records import Manifest, RecordSource, file_checksum, read_manifest, verify_records, wrong_size
from xsample_jax.data.sources import Mixture, open_source, source_folder, spread_places
from xsample_jax.data.splits import check_eval_splits
from xsample_jax.data.vectors import draw_vectors, is_vector
from xsample_jax.data.writer import look_alikes, repeated
from xsample_jax.errors import DataError, Problems, UserError, raise_all
from xsample_jax.evals.registry import check_metric_names
from xsample_jax.io.paths import absolute, as_path, file_sizes, in_bucket
from xsample_jax.metrics.profiling import host_memory
from xsample_jax.objectives.from_config import build_objective
from xsample_jax.reports.caption_graph import one_vector
from xsample_jax.reports.contact_sheet import gallery_sheet
from xsample_jax.setup import RunSetup, build_run, check_device_memory
from xsample_jax.sharding import make_mesh

# What a check says: one line, and what to do about it.


OK, NOTE, PROBLEM = "ok", "note", "problem"


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the doctor.

    Attributes:
      level: ok, note (a run would work) or problem (it would not, or not as meant).
      about: config, data, records, embeddings, devices, disk or host.
      text: what was found, and the fix.
    """

    level: str
    about: str
    text: str

    def __str__(self) -> str:
        return f"{self.level:8}{self.about:12}{' '.join(self.text.split())}"


def problems(about: str, error: UserError) -> Iterator[Finding]:
    """The findings of an error."""
    for single in error.problems if isinstance(error, Problems) else [error]:
        yield Finding(PROBLEM, about, str(single))


def once(findings: Iterable[Finding]) -> list[Finding]:
    """The findings without those that an earlier one says, alone or among more: several checks meet one broken file."""
    kept: list[Finding] = []
    for finding in findings:
        if not any(finding.text in earlier.text for earlier in kept):
            kept.append(finding)
    return kept


@contextlib.contextmanager
def reported(about: str, findings: list[Finding]):
    """Turns a UserError inside into findings."""
    try:
        yield
    except UserError as error:
        findings.extend(problems(about, error))


# What a quick look may cost for each set: 1 GB of checksums, 256 records of a split.
# The data: manifests, files, and some records, read as the run reads them.


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
        manifests = read_manifests(config.data)
    except UserError as error:
        yield from problems("data", error)
        return
    for folder, manifest in manifests.items():
        counts = ", ".join(f"{split} {entry['count']}" for split, entry in manifest.splits.items())
        yield Finding(OK, "data", f"{manifest.name} in {folder}: {counts}; fingerprint {manifest.fingerprint[:16]}")
        yield from check_names(manifest)
        yield from check_files(folder, every_file)
    if config.data.source == "records" and config.data.fingerprint is None:
        fix = f"To pin it: --config.data.fingerprint={manifests[source_folder(config.data)].fingerprint}"
        yield Finding(NOTE, "data", f"data.fingerprint is not set: the run would take any version of this set. {fix}")
    yield from check_training(config)
    if config.eval.suite != "none":
        yield from check_evaluation(config)
        yield from check_shared_images(config, every_file)


def check_names(manifest: Manifest) -> Iterator[Finding]:
    """Class names that several classes have, are empty, or look the same to a reader."""
    names = manifest.class_names
    fix = "Name the classes apart: tools.prepare --class_names"
    if twice := repeated(names):
        text = f"{len(twice)} class names stand for several classes, as {', '.join(map(repr, twice[:3]))}"
        yield Finding(NOTE, "data", f"{manifest.name}: {text}. {fix}")
    if any(not name.strip() for name in names):
        yield Finding(PROBLEM, "data", f"{manifest.name}: a class has no name. {fix}")
    if groups := look_alikes(names):
        yield Finding(NOTE, "data", f"{manifest.name}: classes that read alike, as {groups[0]}. {fix}")


def read_manifests(data) -> dict[Path, Manifest]:
    """Folder -> manifest of each set of the `data` section; raises all that is wrong with them at once."""
    named = {"data.path": data.path} | {f"data.mix[{n}].path": entry["path"] for n, entry in enumerate(data.mix)}
    found, wrong = {}, []
    for field, path in named.items():
        try:
            if path is not None and not as_path(path, field).is_dir():
                fix = "Make it: python -m xsample_jax.tools.prepare. Or say where it is: --config.data.path, data.mix."
                raise DataError(field, path, "an existing folder", fix)
            folder = source_folder(data) if field == "data.path" else as_path(path)
            found[folder] = read_manifest(folder)
        except UserError as error:
            wrong.append(error)
    raise_all(wrong, "the sets of the run")
    return found


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


def check_training(config) -> Iterator[Finding]:
    """Whether the sets have what the objective reads, and a sample of the records of each."""
    try:
        examples = open_for_a_look(config)
    except UserError as error:
        yield from problems("data", error)
        return
    preset = f"objective.preset = {config.objective.preset!r}"
    yield Finding(OK, "data", f"the set has all that {preset} reads")
    by_objective = preset if examples.fields & {"label", "class_embedding"} else ""
    source, start = examples.source, 0
    for single in source.sources if isinstance(source, Mixture) else [source]:
        by_evaluation = _labels_for(config, single) if not start else ""  # of mixed sets, evaluations open the first
        yield from check_records(examples, single, by_objective or by_evaluation, start)
        start += len(single)


def check_evaluation(config) -> Iterator[Finding]:
    """Whether the splits of the evaluation will do, and a sample of the records of those that are not trained on."""
    try:
        check_metric_names(config)
        check_eval_splits(config)
    except UserError as error:
        yield from problems("data", error)
        return
    for split in dict.fromkeys((config.eval.train_split, config.eval.split)):
        if split == config.data.split:
            continue
        try:
            examples = open_evaluated(config, split, open_source(without_cache(config.data), split))
        except UserError as error:
            yield from problems("data", error)
            continue
        yield from check_records(examples, examples.source, _labels_for(config, examples.source))


def check_shared_images(config, every_image: bool = False) -> Iterator[Finding]:
    """Images of the evaluated split that are in the training split too, byte for byte.

    every_image: of splits of any size; else those of more than CHECKED_BYTES are left out, with a note.
    """
    splits = read_manifest(source_folder(config.data)).splits
    trained, evaluated = config.data.split, config.eval.split
    if evaluated == trained or not {trained, evaluated} <= splits.keys():
        return
    size = sum(shard["bytes"] for split in (trained, evaluated) for shard in splits[split]["shards"])
    if size > CHECKED_BYTES and not every_image:
        yield Finding(NOTE, "data", f"images of {trained} and {evaluated} are not compared (--every_file does)")
        return
    data = without_cache(config.data)
    seen = _image_hashes(open_source(data, trained))
    shared = [key in seen for key in _image_hashes(open_source(data, evaluated)).elements()]
    if any(shared):
        text = f"{sum(shared)} of {len(shared)} images of {evaluated} are in {trained} too: scores count them as new"
        fix = "Split by image: tools.prepare --split_by_image"
        yield Finding(NOTE, "data", f"{text}. {fix}")
    else:
        yield Finding(OK, "data", f"no image of {evaluated} is in {trained}")


def _image_hashes(source: RecordSource) -> collections.Counter:
    found: collections.Counter = collections.Counter()
    for place in range(len(source)):
        with contextlib.suppress(DataError):  # named by check_records
            found[hashlib.blake2b(source[place]["image"], digest_size=16).digest()] += 1
    return found


def _labels_for(config, source: RecordSource) -> str:
    """The key of the evaluation that wants labels in a split, or "". Without class names, check_eval_splits looks."""
    evaluated = source.split in (config.eval.split, config.eval.train_split)
    asks = config.eval.suite == "probe" and evaluated and source.manifest.class_names
    return "eval.suite = 'probe'" if asks else ""


def check_records(examples: Dataset, source: RecordSource, labels_for: str, start: int = 0) -> Iterator[Finding]:
    """Reads records spread evenly over a split as training or an evaluation does.

    Args:
      examples: as the run opens them.
      source: them, or of a mixture the set that is looked at, whose first record is number `start` of them.
      labels_for: the key that asks for labels, or "".
    """
    where = f"split {source.split}" + ("" if source is examples.source else f" of {source.folder}")
    strict = dataclasses.replace(examples, on_error="raise")
    places = spread_places(len(source), CHECKED_RECORDS)
    broken: list[DataError] = []
    counts: collections.Counter = collections.Counter()
    rows, captions = [], []
    for place in map(int, start + places):
        try:
            record = examples.source[place]
            counts["read"] += 1
            counts["label"] += record["label"] >= 0
            counts["caption"] += bool(record["captions"])
            embedded = record["caption_embeddings"] is not None
            counts["embedding"] += embedded
            strict[place]
            if examples.fit == "crop" and not is_vector(record["image"]):
                counts["cut"] += loses_a_third(open_image(record["image"], examples.image_size, reuse=True))
            if embedded:
                rows.append(np.asarray(record["caption_embeddings"], np.float32))
                captions += record["captions"]
        except DataError as error:
            broken.append(error)
    whole = len(places) - len(broken)
    level = NOTE if whole and examples.on_error == "skip" else PROBLEM
    skipped = " (data.on_error = 'skip': left out)" if level == NOTE else ""
    for error in broken[:3]:
        yield Finding(level, "records", f"{where}: {error}{skipped}")
    if len(broken) > 3:
        fix = "Clean it: python -m xsample_jax.tools.prepare --source=records --path=FOLDER --out=NEW"
        text = f"{len(broken)} of {len(places)} are broken or lack what is read{skipped}"
        yield Finding(level, "records", f"{where}: {text}. {fix}")
    if labels_for and counts["read"] and not counts["label"]:
        text = f"none of {counts['read']} looked at has a label, which {labels_for} reads"
        yield Finding(PROBLEM, "records", f"{where}: {text}. Choose another, or label them.")
    if counts["cut"]:
        fix = "Take the whole image: --config.data.fit=pad"
        yield Finding(NOTE, "records", f"{where}: {counts['cut']} of {whole} lose more than a third to the crop. {fix}")
    have = ", ".join(f"{counts[what]} with {what}" for what in ("label", "caption", "embedding"))
    yield Finding(OK, "records", f"{where}: {whole} of {len(places)} looked at are whole; {have}")
    if source.manifest.text_encoder is not None:
        missing = counts["read"] - counts["embedding"]
        if missing:
            needed = "caption_embedding" in examples.fields and not examples.zero_captions
            fix = "Drop them: tools.prepare --require_caption. Embed the others: python -m xsample_jax.tools.embed"
            text = f"{where}: {missing} records have none. {fix}"
            yield Finding(level if needed else NOTE, "embeddings", text)
        yield from check_embeddings(where, source.manifest.text_encoder, rows, captions)


def check_embeddings(where: str, encoder: dict, rows: list[np.ndarray], captions: Sequence[str]) -> Iterator[Finding]:
    """Finite, of unit length, different from each other.

    Args:
      rows: those of each record, float32 [captions, E].
      captions: the captions of all of them.
    """
    about, fix = "embeddings", "Embed the captions again: python -m xsample_jax.tools.embed"
    if not rows:
        return
    rows = np.concatenate(rows)
    if not np.isfinite(rows).all():
        yield Finding(PROBLEM, about, f"{where}: values that are not finite. {fix}")
        return
    norms = np.linalg.norm(rows, axis=1)
    if encoder.get("normalised") and np.abs(norms - 1).max() > UNIT:
        text = f"lengths from {norms.min():.3f} to {norms.max():.3f}, the manifest says unit vectors"
        yield Finding(PROBLEM, about, f"{where}: {text}. {fix}")
        return
    units = rows / np.maximum(norms, 1e-12)[:, None]
    cosine = units @ units.T
    mean = (cosine.sum() - len(rows)) / max(len(rows) * (len(rows) - 1), 1)
    if len(rows) > 8 and mean > 0.95:
        text = f"mean cosine of different captions is {mean:.2f}: they are nearly all the same"
        yield Finding(PROBLEM, about, f"{where}: {text}. Wrong pooling, or one caption for all? {fix}")
        return
    confused = 0 if encoder.get("per") == "record" else len(one_vector(units, captions))
    if confused:
        text = f"{confused} of {len(captions)} captions have the embedding of another one, as {encoder['name']} has no"
        fix = "Embed them with a model of their language: python -m xsample_jax.tools.embed --model=NAME --overwrite"
        yield Finding(
            PROBLEM if 2 * confused > len(captions) else NOTE, about, f"{where}: {text} words for them. {fix}"
        )
    text = f"{encoder['name']}, {encoder['dim']} numbers, finite, length {norms.mean():.3f}, mean cosine {mean:.2f}"
    yield Finding(OK, about, f"{where}: {text}")


# The machine: devices, room for the checkpoints, processors and memory of the host.


GIB = 2**30


def check_devices(config) -> Iterator[Finding]:
    """What jax sees, and whether the mesh, the batch and the kernels of the config fit on it."""
    devices = jax.devices()
    yield Finding(
        OK, "devices", f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform}), jax {jax.__version__}"
    )
    if devices[0].platform == "cpu":
        fix = "Install xsample_jax[tpu], [cuda12] or [cuda13] to use an accelerator."
        yield Finding(NOTE, "devices", f"no accelerator: fine for small runs only. {fix}")
    try:
        mesh = make_mesh(config.mesh, config.batch_size)
        check_kernels(config, build_objective(config.objective), mesh)
    except UserError as error:
        yield from problems("devices", error)
        return
    shape = ", ".join(f"{name} {size}" for name, size in mesh.shape.items())
    yield Finding(OK, "devices", f"mesh {shape}: {config.batch_size // len(devices)} images per device")


def check_disk(parts: RunSetup, workdir: str) -> Iterator[Finding]:
    """Room for the checkpoints that will be kept, and one more that is being written."""
    state = parts.abstract_state
    size = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(state) if hasattr(leaf, "dtype"))
    checkpoint = parts.config.checkpoint
    kept = checkpoint.keep_latest + (checkpoint.keep_best if checkpoint.metric else 0) + 1
    folder = absolute(workdir, "--workdir")
    if in_bucket(folder):
        yield Finding(OK, "disk", f"{kept} checkpoints of {size / 2**20:,.0f} MiB go into {folder}")
        return
    while not folder.exists():
        folder = folder.parent
    fix = "Choose another --workdir."
    if not folder.is_dir():
        yield Finding(PROBLEM, "disk", f"{folder} is a file: --workdir is to be a folder. {fix}")
        return
    if not os.access(folder, os.W_OK):
        yield Finding(PROBLEM, "disk", f"{folder} cannot be written to. {fix}")
        return
    free = shutil.disk_usage(folder).free
    text = f"{kept} checkpoints of {size / 2**20:,.0f} MiB; {free / GIB:.1f} GiB free in {folder}"
    if size * kept > free:
        fix = "Make room, choose another --workdir, or lower --config.checkpoint.keep_latest."
        yield Finding(PROBLEM, "disk", f"no room for {text}. {fix}")
    else:
        yield Finding(OK, "disk", f"room for {text}")


def check_host(config, channels: int) -> Iterator[Finding]:
    """Decoding threads, memory for the batches that are decoded ahead, open files."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if config.data.threads > 4 * cpus:
        fix = f"--config.data.threads={2 * cpus}"
        yield Finding(
            NOTE, "host", f"data.threads = {config.data.threads} on {cpus} CPUs: more threads than help. {fix}"
        )
    ahead = config.data.prefetch * config.batch_size * config.data.image_size**2 * channels
    memory = host_memory()
    text = f"{cpus} CPUs, {memory / GIB:.0f} GiB; images decoded ahead: {ahead / 2**20:,.0f} MiB"
    if ahead > memory / 2:
        yield Finding(PROBLEM, "host", f"{text}. Lower --config.data.prefetch.")
    else:
        yield Finding(OK, "host", text)
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if files != resource.RLIM_INFINITY and files < 1024:
        yield Finding(NOTE, "host", f"at most {files} open files: sets of more shards fail. Raise it: ulimit -Hn 65536")


def diagnose(config, workdir: str, sheet: Path, every_file: bool = False) -> list:
    """Returns all findings about a resolved config and draws its first batch to `sheet`."""
    findings = [Finding(OK, "config", f"{config.name}: {config.objective.preset}, {config.model.encoder}")]
    findings += check_data(config, every_file)
    findings += check_devices(config)
    if any(finding.level == PROBLEM and finding.about in ("data", "devices") for finding in findings):
        return once(findings)  # a run cannot be put together
    with reported("data", findings):
        parts, examples = build_run(config)
        check_device_memory(parts)
        findings += check_disk(parts, workdir)
        findings += check_host(config, examples.source.channels)
        findings.append(draw_first_batch(config, examples, sheet))
    return once(findings)


def draw_first_batch(config, examples, sheet: Path, images: int = 12):
    """Draws the first images that a run will read, and their captions; returns the Finding."""
    batches = train_batches(dataclasses.replace(examples, fields=examples.fields | {"index"}), config, start=0)
    batch = next(batches)
    batches.close()
    names = examples.source.manifest.class_names
    titles = []
    for index in batch["index"][:images]:
        record = examples.source[int(index)]
        label = names[record["label"]] if names and record["label"] >= 0 else record["label"]
        titles.append(f"id {record['id']} [{label}] {' | '.join(record['captions']) or '(no caption)'}")
    try:
        shown = batch["image"][:images]
        gallery_sheet(list(draw_vectors(shown) if shown.shape[-1] == VECTOR_CHANNELS else shown), titles, sheet)
    except (OSError, DataError) as error:  # the run does not need the sheet
        return Finding(NOTE, "disk", f"no sheet of the first batch: {error} Choose another --out.")
    return Finding(OK, "data", f"first batch with its captions: {sheet}")
