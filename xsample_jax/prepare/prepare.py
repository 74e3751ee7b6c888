"""From a job to a finished record set: start or go on, run the input shards, write manifest and report."""

import collections
import contextlib
import dataclasses
import json
import shutil
import sys
import time
from pathlib import Path

import numpy as np

from xsample_jax.data.manifest import MANIFEST, Manifest, read_manifest
from xsample_jax.data.record_reader import open_records
from xsample_jax.data.record_writer import manifest_text
from xsample_jax.data.whole_file import load_arrays, write_whole
from xsample_jax.errors import DataError
from xsample_jax.faults.lock import locked
from xsample_jax.metrics.progress import progress
from xsample_jax.prepare.example import KINDS
from xsample_jax.prepare.job import Job
from xsample_jax.prepare.runners import Runner
from xsample_jax.prepare.shards import STATE, read_part
from xsample_jax.storage.lease import leased
from xsample_jax.storage.paths import as_path, file_sizes, in_bucket, remove_tree

REPORT = "report.json"
PROBLEMS = "problems.jsonl"
JOB = "job.json"


def prepare(job: Job, out: str | Path, runner: Runner) -> tuple[Manifest, dict]:
    """Makes the set in `out`, or goes on where an earlier call of the same job was stopped.

    The result is the same bytes however often the work was interrupted, and for any runner. Until all is done there is
    no manifest, so that nothing half-written is read.

    Returns:
      The manifest and the report (counts of what was kept, dropped and odd; see docs/data.md).

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


def _finished(job: Job, out: Path) -> tuple[Manifest, dict]:
    """Returns a set that is there already, if it is this job's."""
    manifest, report = read_manifest(out), None
    with contextlib.suppress(FileNotFoundError, ValueError):
        report = json.loads((out / REPORT).read_text())
    if isinstance(report, dict) and report.get("job") == job.fingerprint:
        for split in manifest.splits:
            open_records(out, split)  # every shard is there, as long as it was
        remove_tree(out / STATE)  # where a kill came behind the manifest
        return manifest, report
    fix = "Choose another folder, or remove this one."
    raise DataError("--out", str(out), "an empty folder, or one that this very command has written", fix)


def _claim(job: Job, state: Path) -> None:
    path = state / JOB
    if not path.exists() and (foreign := next(state.parent.glob("*.arrayrecord"), None)):
        fix = "Choose another folder, or remove this one."
        raise DataError("--out", str(foreign), "a folder without records of other work", fix)
    if path.exists() and path.read_text() != job.fingerprint:
        fix = "Give the same command as before to go on, or choose another folder, or remove this one."
        raise DataError("--out", str(state.parent), "a folder in which this very work was begun", fix)
    write_whole(path, lambda partial: partial.write_text(job.fingerprint))


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
            merged["shards"].append(entry)
    problems = out / PROBLEMS if counts["kept"] else state / "problems"
    write_whole(problems, lambda partial: _join_problems(state, total, partial))
    if not counts["kept"]:
        found = ", ".join(f"{kind} {counts[kind]}" for kind in KINDS if counts[kind]) or "nothing at all"
        raise DataError(f"records of {job.name}", 0, "at least one", f"Found: {found}; see {problems}.")
    manifest = dataclasses.replace(
        job.empty_manifest(), splits={split: splits[split] for split in sorted(splits)}
    ).with_fingerprint()
    captions, repeated = _stored(state, total, "captions")
    report = {
        "job": job.fingerprint,
        "fingerprint": manifest.fingerprint,
        "kept": counts.pop("kept"),
        **dict(sorted(counts.items())),
        "captions": captions,
        "duplicate_captions": repeated,
        "duplicate_keys_across_shards": _stored(state, total, "keys")[1],
    }
    for name, text in ((REPORT, json.dumps(report, indent=1) + "\n"), (MANIFEST, manifest_text(manifest))):
        write_whole(out / name, lambda partial, text=text: partial.write_text(text))
    return manifest, report


def _join_problems(state: Path, total: int, path: Path) -> None:
    with path.open("wb") as file:
        for number in range(total):
            file.write((state / f"{number:05d}.problems.jsonl").read_bytes())


def _stored(state: Path, total: int, what: str) -> tuple[int, int]:
    """Number of hashes in all parts, and how many of them repeat an earlier one."""
    hashes = np.concatenate([load_arrays(state / f"{number:05d}.{what}.npy") for number in range(total)])
    return len(hashes), len(hashes) - len(np.unique(hashes))
