"""Will this machine do? Devices, room for the checkpoints, processors and memory of the host; and all findings."""

import dataclasses
import math
import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import jax

from xsample_jax.augment.vectors import CHANNELS
from xsample_jax.config.rules_objective import check_kernels
from xsample_jax.data.dataset import train_batches
from xsample_jax.data.vectors import draw_vectors
from xsample_jax.errors import UserError
from xsample_jax.io.paths import absolute, in_bucket
from xsample_jax.metrics.profiling import host_memory
from xsample_jax.objectives.from_config import build_objective
from xsample_jax.reports.contact_sheet import gallery_sheet
from xsample_jax.reports.data_findings import NOTE, OK, PROBLEM, Finding, check_data, once, problems, reported
from xsample_jax.setup import RunSetup, build_run, check_device_memory
from xsample_jax.sharding import make_mesh

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
        gallery_sheet(list(draw_vectors(shown) if shown.shape[-1] == CHANNELS else shown), titles, sheet)
    except OSError as error:  # the run does not need the sheet
        return Finding(NOTE, "disk", f"no sheet of the first batch: {error}. Choose another --out.")
    return Finding(OK, "data", f"first batch with its captions: {sheet}")
