"""--dry_run: what a run will need: sizes, shardings, memory, FLOPs, and an image of its first batch."""

import collections
import dataclasses
import math
import pathlib
import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from xsample_jax.augment.ids import VECTOR_CHANNELS, ids_of
from xsample_jax.augment.views import make_views
from xsample_jax.config.rules_objective import check_kernels
from xsample_jax.data.dataset import train_batches
from xsample_jax.data.vectors import draw_vectors
from xsample_jax.errors import ConfigError, shorten
from xsample_jax.io.paths import as_path, local_copy_of
from xsample_jax.objectives.from_config import build_objective
from xsample_jax.objectives.side_information import OF_PAIRS
from xsample_jax.reports.contact_sheet import contact_sheet, unnormalize
from xsample_jax.setup import PLACEHOLDER_SPEC, RunSetup, build_run
from xsample_jax.sharding import bytes_per_device, make_mesh
from xsample_jax.topology import compiler_options, gpu_memory, topology_devices

# What a compiled step says about itself: memory, FLOPs, the compiler's time estimate and its collectives.


GIB = 2**30
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8}
_COLLECTIVES = "all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all"
_INSTRUCTION = re.compile(rf"= (?P<shapes>.*?) (?P<op>{_COLLECTIVES})(?P<start>-start)?\(")
_SHAPE = re.compile(r"(?P<dtype>[a-z]+[0-9]*)\[(?P<dims>[\d,]*)\]")
_LIBRARY_CALL = re.compile(r'custom_call_target="__(cu\w+)\$([\w$]+)"')


@dataclasses.dataclass(frozen=True)
class Collective:
    """Collectives of one kind and dtype in the program text: how many, and the bytes of their results per device."""

    op: str
    dtype: str
    count: int
    bytes: int


@dataclasses.dataclass(frozen=True)
class CompiledReport:
    """Figures of one device. `seconds` is the compiler's own estimate (TPU only), never a measurement.

    flops and bytes_accessed are 0 where the compiler does not count them (GPU); library_calls: {name: how many} of
    cuBLAS and cuDNN (GPU).
    """

    arguments: int
    outputs: int
    aliased: int
    temporaries: int
    flops: float
    bytes_accessed: float
    seconds: float | None
    collectives: tuple[Collective, ...]
    library_calls: Mapping[str, int]

    @property
    def peak(self) -> int:
        """Bytes that must fit at once: arguments, outputs that are not donated arguments, and temporaries."""
        return self.arguments + self.outputs - self.aliased + self.temporaries


def compiled_report(compiled) -> CompiledReport:
    """Reads the analyses of a jax `Compiled`."""
    memory, cost, text = compiled.memory_analysis(), compiled.cost_analysis() or {}, compiled.as_text()
    seconds = cost.get("optimal_seconds")
    return CompiledReport(
        memory.argument_size_in_bytes,
        memory.output_size_in_bytes,
        memory.alias_size_in_bytes,
        memory.temp_size_in_bytes,
        cost.get("flops", 0.0),
        cost.get("bytes accessed", 0.0),
        seconds if seconds and seconds > 0 else None,
        collectives(text),
        collections.Counter(f"{call[1]} {call[2].replace('$', ' ')}" for call in _LIBRARY_CALL.finditer(text)),
    )


def collective_arrays(hlo: str) -> list[list[tuple[str, str, tuple[int, ...]]]]:
    """(op, dtype, shape) of every array that a collective of an HLO text results in, a list for each collective.

    An asynchronous pair counts once, at its start. The start of an all-gather or a permute lists its operands before
    its results: as two tuples where it combines several, and else as one of each, of which the larger is counted.
    """
    found = []
    for line in hlo.splitlines():
        match = _INSTRUCTION.search(line)
        if not match:
            continue
        with_operands = match["start"] and match["op"] in ("all-gather", "collective-permute")
        _, combined, results = match["shapes"].partition("), (")
        shapes = results if with_operands and combined else match["shapes"]
        arrays = [
            (match["op"], shape["dtype"], tuple(int(d) for d in shape["dims"].split(",") if d))
            for shape in _SHAPE.finditer(shapes)
        ]
        if with_operands and not combined:
            arrays = [max(arrays, key=_bytes_of)]
        if arrays:
            found.append(arrays)
    return found


def collectives(hlo: str) -> tuple[Collective, ...]:
    """Collectives of an HLO text by kind and dtype."""
    found: dict[tuple[str, str], list[int]] = collections.defaultdict(list)
    for arrays in collective_arrays(hlo):
        for op, dtype in dict.fromkeys(array[:2] for array in arrays):
            found[op, dtype].append(sum(_bytes_of(array) for array in arrays if array[1] == dtype))
    return tuple(Collective(op, dtype, len(sizes), sum(sizes)) for (op, dtype), sizes in sorted(found.items()))


def _bytes_of(array: tuple[str, str, tuple[int, ...]]) -> int:
    _, dtype, shape = array
    return math.prod(shape) * _BYTES.get(dtype, 4)


def describe(report: CompiledReport, device: str) -> str:
    """The report as lines for a person; `device` names what the figures are for."""
    lines = [
        f"memory per {device}: {report.peak / GIB:.3f} GiB (state and batch {report.arguments / GIB:.3f}, "
        f"temporaries {report.temporaries / GIB:.3f})",
    ]
    if report.flops:
        lines.append(f"FLOPs per step and {device}: {report.flops:.3e}; bytes accessed: {report.bytes_accessed:.3e}")
    if report.seconds is not None:
        lines.append(
            f"compiler's time estimate: {1e3 * report.seconds:.1f} ms per step (an estimate, not a measurement)"
        )
    for item in report.collectives:
        lines.append(f"collective {item.op} {item.dtype}: {item.count} with {item.bytes / 2**20:.2f} MiB per {device}")
    if not report.collectives:
        lines.append("collectives: none")
    if report.library_calls:
        lines.append("library calls: " + ", ".join(f"{count} {name}" for name, count in report.library_calls.items()))
    return "\n".join(lines)


# Does a step fit the memory of its devices? If not: what takes the space, and which config key gives it back.


def check_fit(parts: RunSetup, report: CompiledReport, topology: str | None = None) -> None:
    """Raises ConfigError when a device needs more for the step than it has, or than config.mesh.memory_limit allows.

    topology: of described devices; the TPU compiler refuses by itself what does not fit, that of GPUs does not.
    """
    limit = parts.config.mesh.memory_limit
    there = gpu_memory(topology) if topology else None
    if there is not None and report.peak > there[0] * there[1]:
        memory, fraction = there
        raise ConfigError(
            "mesh.topology",
            topology,
            f"GPUs that hold the {report.peak / GIB:.2f} GiB of the step; jax takes {fraction:.0%} of their "
            f"{memory / GIB:.1f} GiB (XLA_PYTHON_CLIENT_MEM_FRACTION)",
            advice(parts),
        )
    if limit is not None and report.peak > limit * GIB:
        raise ConfigError(
            "mesh.memory_limit",
            limit,
            f"at least {report.peak / GIB:.2f} GiB, which the step takes of a device (state and batch "
            f"{report.arguments / GIB:.2f}, activations and scratch {report.temporaries / GIB:.2f})",
            advice(parts),
        )


def overflow(parts: RunSetup, topology: str, error: Exception) -> ConfigError:
    """The error for a step that the compiler cannot place in the memory of a slice, in words that help."""
    first_line = str(error).splitlines()[0]
    return ConfigError(
        "mesh.topology",
        topology,
        f"a slice whose memory holds the step, of which the state alone takes "
        f"{bytes_per_device(parts.abstract_state) / GIB:.2f} GiB a device; the compiler says: "
        f"{shorten(first_line, 120)}",
        advice(parts),
    )


def advice(parts: RunSetup) -> str:
    """The config keys that would make the step smaller, those that cost least first."""
    config, devices = parts.config, parts.mesh.size
    keys = []
    if config.precision.compute == "float32":
        keys.append("precision.compute=bfloat16")  # half the activations
    if config.loss.impl == "dense":
        keys.append("loss.impl=auto")  # no matrix of all pairs
    if config.mesh.fsdp * config.mesh.tensor < devices:
        keys.append(f"mesh.fsdp={devices // config.mesh.tensor}")  # the state is split
    if config.model.remat == "none":
        keys.append("model.remat=block")  # activations of one block at a time, one more forward pass
    chunks, objective = 2 * config.loss.grad_cache, parts.objective
    whole = objective.local_views or any(head.standardized for head in objective.heads.values())
    whole = whole or any(rows.block in OF_PAIRS for rows in objective.rows)
    if config.batch_size % (chunks * devices) == 0 and not whole:
        keys.append(f"loss.grad_cache={chunks}")  # activations of a part of the batch at a time
    return f"Try, the cheapest first: --config.{', --config.'.join([*keys, 'batch_size'])} smaller, or more devices."


IMAGE = "dry_run.png"


def dry_run(config, workdir: str | None = None, topology: str | None = None) -> CompiledReport:
    """Compiles the train step of a config and prints what it found.

    Args:
      config: resolved config.
      workdir: where the image of the first augmented batch goes (default: the current folder).
      topology: a TPU slice or GPUs to compile for ("v5e:16x16", "h100x8"); the data need not be here, stand-in shapes
        are used.
    """
    if topology:
        return _describe_topology(config, topology)
    parts, examples = build_run(config)
    _print_sizes(parts)
    report = compiled_report(parts.train_step.lower(parts.abstract_state, parts.abstract_batch).compile())
    print(describe(report, f"device ({jax.devices()[0].device_kind})"))
    check_fit(parts, report)
    image = as_path(workdir or ".", "--workdir") / IMAGE
    with local_copy_of(image) as path:
        path.parent.mkdir(parents=True, exist_ok=True)
        _draw_first_batch(config, examples, path)
    print(f"image of the first augmented images: {image}")
    return report


def _describe_topology(config, topology: str) -> CompiledReport:
    devices = topology_devices(topology)
    parts = placeholder_setup(config, devices)
    kind = "GPU" if gpu_memory(topology) else "TPU"
    place = "GPUs" if kind == "GPU" else "TPU slice"
    print(f"{place} {topology}: {len(devices)} devices, {devices[0].device_kind}")
    _print_sizes(parts)
    lowered = parts.train_step.lower(parts.abstract_state, parts.abstract_batch)
    try:
        report = compiled_report(lowered.compile(compiler_options=compiler_options(devices)))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise overflow(parts, topology, error) from error
    print(describe(report, f"{kind} device"))
    check_fit(parts, report, topology)
    return report


def placeholder_setup(config, devices) -> RunSetup:
    """The parts of a run whose data is elsewhere: RGB photographs, 1,000 classes, all-mpnet-base-v2 embeddings."""
    mesh, objective = make_mesh(config.mesh, config.batch_size, devices), build_objective(config.objective)
    check_kernels(config, objective, mesh)
    classes = np.ones((PLACEHOLDER_SPEC.classes, PLACEHOLDER_SPEC.caption_dim), np.float16)
    channels = VECTOR_CHANNELS if config.data.source == "vectors" else PLACEHOLDER_SPEC.channels
    facts = dataclasses.replace(PLACEHOLDER_SPEC, channels=channels)
    return RunSetup(config, facts, mesh, classes if "class_embedding" in objective.requires else None)


def _print_sizes(parts: RunSetup) -> None:
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
    if views.ndim == 2:  # vectors: there is nothing to see
        contact_sheet([[image] for image in draw_vectors(sources)], [f"id {i}" for i in ids], path, ["vector"])
        return
    views = unnormalize(views, config.augment).reshape(len(sources), config.views, *views.shape[1:])
    rows = [[source, *of_image] for source, of_image in zip(sources, views, strict=True)]
    titles = ["image", *(f"view {number + 1}" for number in range(config.views))]
    contact_sheet(rows, [f"id {i}" for i in ids_of(ids)], path, titles)
