"""--dry_run: what a run will be, before any step: sizes, shardings, memory, FLOPs, and a picture of its first batch."""

import collections
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from xsample_jax.assemble import assemble
from xsample_jax.compiled_report import GIB, CompiledReport, compiled_report, describe
from xsample_jax.data.augment import make_views
from xsample_jax.data.contact_sheet import contact_sheet, unnormalise
from xsample_jax.data.pipeline import train_batches
from xsample_jax.data_facts import STAND_IN
from xsample_jax.kernel_fit import check_kernels
from xsample_jax.memory_fit import check_fit, overflow
from xsample_jax.mesh import make_mesh
from xsample_jax.objectives.build import build_objective
from xsample_jax.parts import Parts
from xsample_jax.sharding import bytes_per_device
from xsample_jax.storage.paths import as_path, local_copy_of
from xsample_jax.topology import topology_devices

PICTURE = "dry_run.png"


def dry_run(config, workdir: str | None = None, topology: str | None = None) -> CompiledReport:
    """Compiles the train step of a config and prints what it found.

    Args:
      config: resolved config.
      workdir: where the picture of the first augmented batch goes (default: the current folder).
      topology: a TPU slice to compile for ("v5e:16x16"); its data need not be here, stand-in shapes are used.
    """
    if topology:
        return _describe_slice(config, topology)
    parts, examples = assemble(config)
    _print_sizes(parts)
    report = compiled_report(parts.train_step.lower(parts.abstract_state, parts.abstract_batch).compile())
    print(describe(report, f"device ({jax.devices()[0].device_kind})"))
    check_fit(parts, report)
    picture = as_path(workdir or ".", "--workdir") / PICTURE
    with local_copy_of(picture) as path:
        path.parent.mkdir(parents=True, exist_ok=True)
        _draw_first_batch(config, examples, path)
    print(f"picture of the first augmented images: {picture}")
    return report


def _describe_slice(config, topology: str) -> CompiledReport:
    devices = topology_devices(topology)
    with config.unlocked():
        config.model.conv_impl = "conv" if config.model.conv_impl == "auto" else config.model.conv_impl
    parts = stand_in_parts(config, devices)
    print(f"TPU slice {topology}: {len(devices)} devices, {devices[0].device_kind}")
    _print_sizes(parts)
    lowered = parts.train_step.lower(parts.abstract_state, parts.abstract_batch)
    try:
        report = compiled_report(lowered.compile())
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise overflow(parts, topology, error) from error
    print(describe(report, "TPU device"))
    check_fit(parts, report)
    return report


def stand_in_parts(config, devices) -> Parts:
    """The parts of a run whose data is elsewhere: RGB photographs, 1,000 classes, all-mpnet-base-v2 embeddings."""
    mesh, objective = make_mesh(config.mesh, config.batch_size, devices), build_objective(config.objective)
    check_kernels(config, objective, mesh)
    classes = np.ones((STAND_IN.classes, STAND_IN.caption_dim), np.float16)
    return Parts(config, STAND_IN, mesh, classes if "class_embedding" in objective.requires else None)


def _print_sizes(parts: Parts) -> None:
    config, state = parts.config, parts.abstract_state
    groups: dict[str, int] = collections.Counter()
    for name, leaf in state.params.items():
        groups[name.split("/")[0]] += math.prod(leaf.shape)
    total = sum(groups.values())
    print(
        f"run {config.name}: objective {config.objective.preset}, encoder {config.model.encoder}, {parts.steps} steps"
    )
    print(f"parameters: {total:,} (" + ", ".join(f"{name} {count:,}" for name, count in groups.items()) + ")")
    print(f"mesh: {dict(parts.mesh.shape)}; rows of the loss: {config.views * config.batch_size}")
    for name, leaf in parts.abstract_batch.items():
        print(f"batch {name}: {leaf.dtype}{list(leaf.shape)}, split as {leaf.sharding.spec}")
    for name in ("params", "statistics", "opt_state", "memory"):
        print(f"{name} per device: {bytes_per_device(getattr(state, name)) / GIB:.3f} GiB")
    split = {name: leaf for name, leaf in state.params.items() if leaf.sharding.spec}
    print(f"parameters split over devices: {len(split)} of {len(state.params)}")
    for name, leaf in sorted(split.items(), key=lambda item: -math.prod(item[1].shape))[:5]:
        print(f"  {name} {list(leaf.shape)}: {leaf.sharding.spec}")


def _draw_first_batch(config, examples, path: pathlib.Path, images: int = 8) -> None:
    batches = train_batches(examples, config, start=0)
    batch = next(batches)
    batches.close()
    sources, ids = batch["image"][:images], batch["id"][:images]
    step = jnp.zeros((), jnp.int32)
    views = jax.device_get(make_views(sources, ids, config.seed, step, config.augment, config.views))
    views = unnormalise(views, config.augment).reshape(len(sources), config.views, *views.shape[1:])
    rows = [[source, *of_image] for source, of_image in zip(sources, views, strict=True)]
    titles = ["image", *(f"view {number + 1}" for number in range(config.views))]
    contact_sheet(rows, [f"id {i}" for i in ids], path, titles)
