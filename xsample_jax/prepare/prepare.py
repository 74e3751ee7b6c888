"""From a job to a finished dataset: start or continue, run the input shards, write manifest and report."""

import collections
import concurrent.futures
import contextlib
import copy
import dataclasses
import itertools
import json
import multiprocessing
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import numpy as np

from xsample_jax.data.records import MANIFEST, Manifest, open_records, read_manifest
from xsample_jax.data.writer import large_id, manifest_text
from xsample_jax.errors import ConfigError, DataError
from xsample_jax.io.files import atomic_write, load_arrays
from xsample_jax.io.locks import leased, locked
from xsample_jax.io.paths import absolute, as_path, file_sizes, in_bucket, remove_tree
from xsample_jax.metrics.progress_bar import progress
from xsample_jax.prepare.example import KINDS, InputShard, Source
from xsample_jax.prepare.job import PARTS, Job
from xsample_jax.prepare.shards import HASHES, STATE, prepare_shard, read_part

# Where the input shards are worked on: processes of this machine, or Apache Beam. Both run the same function.


# Takes the job, the numbers of the input shards that are not done, and the folder; yields the count of each one done.
Runner = Callable[[Job, Sequence[int], str], Iterator[int]]


def local_runner(processes: int) -> Runner:
    """Processes of this machine; 1 works in this one. The first error ends the work, finished shards stay."""
    if processes < 1:
        raise DataError("--processes", processes, "at least 1")
    return partial(_run_locally, processes)


def _run_locally(processes: int, job: Job, numbers: Sequence[int], out: str) -> Iterator[int]:
    if min(processes, len(numbers)) <= 1:
        for number in numbers:
            yield prepare_shard(job, number, out)
        return
    # Not forked: the libraries have threads, and a fork copies their locks as they are.
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(
        min(processes, len(numbers)), context, initializer=_start_worker, initargs=(job, out)
    )
    try:
        for future in concurrent.futures.as_completed([pool.submit(_work, number) for number in numbers]):
            yield future.result()
    except BrokenProcessPool as error:
        fix = "Did it run out of memory? Use fewer --processes, and give the same command again."
        raise DataError("worker process", "ended", "a process that lives until its work is done", fix) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_worker: tuple[Job, str] | None = None


def _start_worker(job: Job, out: str) -> None:
    """The job travels once per process, not once per shard: the list of a folder's images is long."""
    global _worker
    _worker = (job, out)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for more work for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _work(number: int) -> int:
    job, out = _worker
    return prepare_shard(job, number, out)


def beam_runner(name: str, options: Sequence[str] = ()) -> Runner:
    """Apache Beam (extra `beam`): DirectRunner, DataflowRunner, FlinkRunner, SparkRunner.

    Args:
      name: of the runner.
      options: its own flags, passed on to Beam.
    """
    try:
        import apache_beam  # noqa: F401
    except ImportError as error:
        fix = "pip install 'xsample_jax[beam]', or leave --runner out to use the processes of this machine."
        raise DataError("--runner", name, "Apache Beam installed", fix) from error
    return partial(_run_on_beam, name, tuple(options))


def _run_on_beam(name: str, options: tuple[str, ...], job: Job, numbers: Sequence[int], out: str) -> Iterator[int]:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    place = str(absolute(out, "--out"))  # workers have other working directories
    try:
        with beam.Pipeline(options=PipelineOptions([f"--runner={name}", *options])) as pipeline:
            # Reshuffle: without it one worker would get all shards, fused with the step that lists them.
            shards = pipeline | "shards" >> beam.Create(list(numbers)) | beam.Reshuffle()
            shards | "prepare" >> beam.Map(_beam_work, beam.pvalue.AsSingleton(pipeline | beam.Create([job])), place)
    except (RuntimeError, ValueError) as error:  # Beam keeps the text of what its workers raise, not the type
        text = str(error).strip().splitlines()[-1]
        raise DataError("--runner", name, "a pipeline that runs to its end", text) from error
    yield from (0 for _ in numbers)  # Beam ends when all is done; counts are in the parts


def _beam_work(number: int, job: Job, out: str) -> int:
    return prepare_shard(job, number, out)


REPORT = "report.json"
PROBLEMS = "problems.jsonl"
JOB = "job.json"


def prepare(job: Job, out: str | Path, runner: Runner) -> tuple[Manifest, dict]:
    """Makes the set in `out`, or continues where an earlier call of the same job was stopped.

    The result is the same bytes however often the work was interrupted, and for any runner. Until all is done there is
    no manifest, so that nothing half-written is read.

    Returns:
      The manifest and the report (counts of records kept, dropped and odd; see docs/data.md).

    Raises:
      DataError: the folder holds another set or another job's work, a second process works in it, no record is left, or
        an input shard cannot be worked on.
    """
    out = as_path(out, "--out")
    state = out / STATE
    if (out / MANIFEST).exists():
        return _finished(job, out)
    with leased(out, "--out") if in_bucket(out) else locked(state, "--out", DataError):
        _claim(job, state)
        for left in state.glob("*.tmp"):
            shutil.rmtree(left)
        total = len(job.source.shards)
        sizes = file_sizes(out)
        todo = [number for number in range(total) if read_part(out, number, sizes) is None]
        if len(todo) < total:
            print(f"going on: {total - len(todo)} of {total} input shards are done", file=sys.stderr)
        start, records = time.monotonic(), 0
        for count in progress(runner(job, todo, str(out)), f"prepare {job.name}: input shards", len(todo)):
            records += count
        if records:
            rate = records / (time.monotonic() - start)
            print(f"{records} records written, {rate:,.0f} per second", file=sys.stderr)
        result = _finish(job, out)
    remove_tree(state)
    return result


# Stands for the input of a job while it is not listed; parts of a job that are known without it.
NOT_LISTED = Source((InputShard("", tuple, ""),))
OPTIONS = ("name", "splits", "image", "require_caption", "split_by_image")


def check_place(job: Job, out: str | Path) -> None:
    """Raises DataError, as `prepare`, where `out` has a set or work of other options; the input is not looked at."""
    out = as_path(out, "--out")
    finished = (out / MANIFEST).exists()
    before = _read_map(out / REPORT if finished else out / STATE / JOB)
    parts = _parts_of(before) or {}  # which 0.1 did not write
    if "job" in before and all(parts.get(name) == job.parts.get(name) for name in OPTIONS if parts):
        return
    if finished:
        raise _of_another(job, out, before, OPTIONS)
    if (out / STATE / JOB).exists():
        raise _begun_otherwise(job, out, before, OPTIONS)
    _refuse_foreign(out)


def _read_map(path: Path) -> dict:
    """A JSON map; {} where there is none."""
    found = None
    with contextlib.suppress(FileNotFoundError, ValueError, RecursionError):
        found = json.loads(path.read_text())
    return found if isinstance(found, dict) else {}


def _parts_of(before: Mapping) -> dict | None:
    parts = before.get("job_parts")
    return parts if isinstance(parts, dict) else None


def _finished(job: Job, out: Path) -> tuple[Manifest, dict]:
    """Returns a set that is there already, if it is this job's."""
    manifest, report = read_manifest(out), _read_map(out / REPORT)
    if report.get("job") == job.fingerprint:
        for split in manifest.splits:
            open_records(out, split)  # every shard is there, as long as it was
        remove_tree(out / STATE)  # where a kill came behind the manifest
        return manifest, report
    raise _of_another(job, out, report)


def _of_another(job: Job, out: Path, report: Mapping, names: Iterable[str] = ()) -> DataError:
    fix = f"{_difference(job, report, names)} Choose another folder, or remove this one."
    return DataError("--out", str(out), "an empty folder, or one that this very command has written", fix)


def _begun_otherwise(job: Job, out: Path, begun: Mapping, names: Iterable[str] = ()) -> DataError:
    fix = f"{_difference(job, begun, names)} Give the same command as before to go on, or choose another folder."
    return DataError("--out", str(out), "a folder in which this very work was begun", fix)


def _difference(job: Job, other: Mapping, names: Iterable[str] = ()) -> str:
    """A sentence on what another job, of which a report or job.json tells, had otherwise; names: of parts to look at,
    by default all."""
    before = _parts_of(other)
    if before is None:
        return "It is of other input or flags, or of an earlier version."
    names = [name for name in names or {**before, **job.parts} if before.get(name) != job.parts.get(name)]
    return f"Changed since: {'; '.join(PARTS.get(name, name) for name in names) or 'the version'}."


def _claim(job: Job, state: Path) -> None:
    path = state / JOB
    if not path.exists():
        _refuse_foreign(state.parent)
    begun = _read_map(path)
    if path.exists() and begun.get("job") != job.fingerprint:
        raise _begun_otherwise(job, state.parent, begun)
    text = json.dumps({"job": job.fingerprint, "job_parts": job.parts})
    atomic_write(path, lambda partial: partial.write_text(text))


def _refuse_foreign(out: Path) -> None:
    if foreign := next(out.glob("*.arrayrecord"), None):
        fix = "Choose another folder, or remove this one."
        raise DataError("--out", str(foreign), "a folder without records of other work", fix)


def _finish(job: Job, out: Path) -> tuple[Manifest, dict]:
    """Merges the parts in the order of the input shards."""
    state, total = out / STATE, len(job.source.shards)
    splits: dict[str, dict] = {}
    counts: collections.Counter = collections.Counter()
    sizes = file_sizes(out)
    for number in range(total):
        part = read_part(out, number, sizes)
        if part is None:
            raise DataError(f"input shard {number}", None, "a finished part", "Give the same command again.")
        counts.update(part["report"])
        for split, entry in part["splits"].items():
            merged = splits.setdefault(split, {"count": 0, "shards": []})
            merged["count"] += entry["count"]
            merged |= large_id(max(merged.get("largest_id", 0), entry.pop("largest_id", 0)))
            merged["shards"].append(entry)
    problems = out / PROBLEMS if counts["kept"] else state / "problems"
    atomic_write(problems, lambda partial: _join_problems(state, total, partial))
    if not counts["kept"]:
        found = ", ".join(f"{kind} {counts[kind]}" for kind in KINDS if counts[kind]) or "nothing at all"
        raise DataError(f"records of {job.name}", 0, "at least one", f"Found: {found}; see {problems}.")
    manifest = dataclasses.replace(
        job.empty_manifest(), splits={split: splits[split] for split in sorted(splits)}
    ).with_fingerprint()
    hashes = [load_arrays(state / f"{number:05d}.{HASHES}") for number in range(total)]
    captions, keys = _joined(hashes, "captions"), _joined(hashes, "keys")
    none = {
        "--label_field": counts["missing_field"] >= counts["kept"],
        "--caption_fields": not len(captions),
        "--class_names": not counts.pop("labeled", 1),
    }
    for flag in job.asked:
        if none[flag]:
            expected = "names of labels" if flag == "--class_names" else "an entry"
            raise DataError(flag, "in no example", f"{expected} that the examples have", f"See {problems}, and --help.")
    empty = [name for name, share in job.splits.items() if share and name not in splits and not _has_own_splits(job)]
    report = {
        "job": job.fingerprint,
        "job_parts": job.parts,
        "fingerprint": manifest.fingerprint,
        "kept": counts.pop("kept"),
        **dict(sorted(counts.items())),
        "captions": len(captions),
        "duplicate_captions": len(captions) - len(np.unique(captions)),
        "duplicate_keys_across_shards": len(keys) - len(np.unique(keys)),
        **_count_equal_images(hashes, splits),
        **({"empty_splits": empty} if empty else {}),
        **({"skipped": dict(sorted(job.source.skipped.items()))} if job.source.skipped else {}),
        **({"notes": list(job.source.notes)} if job.source.notes else {}),
    }
    for name, text in ((REPORT, json.dumps(report, indent=1) + "\n"), (MANIFEST, manifest_text(manifest))):
        atomic_write(out / name, lambda partial, text=text: partial.write_text(text))
    return manifest, report


def _has_own_splits(job: Job) -> bool:
    return all(shard.split for shard in job.source.shards)


def _count_equal_images(hashes: Sequence[Mapping[str, np.ndarray]], splits: Iterable[str]) -> dict:
    """How many images repeat an earlier one of their split byte by byte, and how many are in another split too."""
    found = {split: _joined(hashes, f"images-{split}") for split in sorted(splits)}
    different = {split: np.unique(images) for split, images in found.items()}
    repeated = sum(map(len, found.values())) - sum(map(len, different.values()))
    shared = {}
    for first, second in itertools.combinations(different, 2):
        both = len(np.intersect1d(different[first], different[second], assume_unique=True))
        if both:
            shared[f"{first} and {second}"] = both
    return {"duplicate_images": repeated, "images_in_two_splits": shared}


def _joined(hashes: Sequence[Mapping[str, np.ndarray]], what: str) -> np.ndarray:
    """The hashes of all parts, uint64 [n]."""
    return np.concatenate([np.zeros(0, np.uint64), *(part[what] for part in hashes if what in part)])


def _join_problems(state: Path, total: int, path: Path) -> None:
    with path.open("wb") as file:
        for number in range(total):
            file.write((state / f"{number:05d}.problems.jsonl").read_bytes())


COUNTED = {
    "image_one_color": "images of one color all over",
    "image_elongated": "images of which the center square leaves out more than a third (data.fit=pad keeps it)",
}


def summary(manifest: Manifest, report: Mapping, out: Path) -> Iterator[str]:
    """Yields what to tell the user about a finished set."""
    yield f"{manifest.name}: {report['kept']} records in {out}, fingerprint {manifest.fingerprint}"
    for split, entry in manifest.splits.items():
        size = sum(shard["bytes"] for shard in entry["shards"])
        yield f"  {split}: {entry['count']} records, {size / 1e6:,.1f} MB in {len(entry['shards'])} files"
    for note in report.get("notes", ()):
        yield f"  {note}"
    for kind in sorted(report):
        if kind.startswith("image_") and kind not in COUNTED:
            yield f"  {kind.removeprefix('image_').replace('_', '-')} images, encoded again: {report[kind]}"
    for kind, words in COUNTED.items():
        if report.get(kind):
            yield f"  {words}: {report[kind]} ({report[kind] / report['kept']:.0%})"
    if report.get("duplicate_images"):
        yield f"  images that repeat another of their split byte by byte: {report['duplicate_images']}"
    for both, count in report.get("images_in_two_splits", {}).items():
        yield f"  equal images in {both}: {count}; --split_by_image keeps them on one side"
    for split in report.get("empty_splits", ()):
        yield f"  split {split} is empty: its share of so few images is none"
    for what, count in report.get("skipped", {}).items():
        yield f"  skipped, {what}: {count}"
    yield f"  captions: {report['captions']}, of which {report['duplicate_captions']} repeat another exactly"
    if report["duplicate_keys_across_shards"]:
        yield f"  keys in more than one input shard, all kept: {report['duplicate_keys_across_shards']}"
    found = [kind for kind in KINDS if report.get(kind)]
    for kind in found:
        yield f"  {kind}: {report[kind]} ({KINDS[kind]})"
    if file_sizes(out).get(PROBLEMS):  # sets of classes have no line for each missing caption
        yield f"  one line for each of these: {out / PROBLEMS}"
    if manifest.text_encoder:
        yield f"  embeddings by {manifest.text_encoder['name']}"


# data.source=folder: a folder of images is prepared into a cache when a run starts, which then uses that.


CACHE = "~/.cache/xsample_jax/prepared"
SPLITS = "train=0.9,test=0.1"  # by a hash of the name, where no folder is named like the split that is trained on
SIZE = 256  # of the short side, as tools.prepare keeps it; more where data.image_size is more


def prepare_folder(config):
    """The config with data.source=records and the folder in the cache, made now if it is not there; others as they are.

    The cached dataset is of these very images: another name, number, size or time of a file makes another one.
    Classes are the innermost folders, captions the .txt files beside images, as tools.prepare has it.

    Raises ConfigError in a run of several processes; DataError as `prepare` does.
    """
    data = config.data
    if data.source != "folder":
        return config
    # Here: other runs and jobs should not wait for what these import.
    import jax

    from xsample_jax.config import resolve
    from xsample_jax.distributed import log_info
    from xsample_jax.prepare.example import Fields
    from xsample_jax.prepare.job import ImageOptions
    from xsample_jax.prepare.shards import parse_splits
    from xsample_jax.prepare.sources import Options, open_source

    if jax.process_count() > 1:
        fix = "Prepare it once: python -m xsample_jax.tools.prepare --source=folder --path=FOLDER --out=NEW."
        raise ConfigError("data.source", "folder", "records in a run of several processes", fix)
    place = Path(data.path).expanduser().absolute()
    by_folder = (place / data.split).is_dir()
    source = open_source("folder", str(place), Fields(), Options(split_by_folder=by_folder))
    splits = parse_splits("train=1" if by_folder else SPLITS)
    job = Job(place.name, source, splits, ImageOptions(max(SIZE, data.image_size)))
    out = Path(CACHE).expanduser() / f"{place.name}-{job.fingerprint[:12]}"
    out.mkdir(parents=True, exist_ok=True)
    manifest, report = prepare(job, out, local_runner(1))  # worker processes would start the user's script again
    for line in summary(manifest, report, out):
        log_info(f"{config.name}: {line}")
    config = copy.deepcopy(config).unlock()
    config.data.update(source="records", path=str(out))
    return resolve(config)
