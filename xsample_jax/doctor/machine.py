"""Will this machine do? Devices, room for the checkpoints, processors and memory of the host."""

import math
import os
import resource
import shutil
from collections.abc import Iterator

import jax

from xsample_jax.doctor.finding import NOTE, OK, PROBLEM, Finding, problems
from xsample_jax.errors import UserError
from xsample_jax.kernel_fit import check_kernels
from xsample_jax.mesh import make_mesh
from xsample_jax.objectives.build import build_objective
from xsample_jax.parts import Parts
from xsample_jax.storage.paths import absolute, in_bucket

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


def check_disk(parts: Parts, workdir: str) -> Iterator[Finding]:
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
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    text = f"{cpus} CPUs, {memory / GIB:.0f} GiB; images decoded ahead: {ahead / 2**20:,.0f} MiB"
    if ahead > memory / 2:
        yield Finding(PROBLEM, "host", f"{text}. Lower --config.data.prefetch.")
    else:
        yield Finding(OK, "host", text)
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if files != resource.RLIM_INFINITY and files < 1024:
        yield Finding(NOTE, "host", f"at most {files} open files: sets of more shards fail. Raise it: ulimit -Hn 65536")
