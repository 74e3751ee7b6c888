"""What a compiled step says about itself: memory, FLOPs, the compiler's time estimate and its collectives."""

import collections
import dataclasses
import math
import re

GIB = 2**30
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8}
_COLLECTIVES = "all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all"
_INSTRUCTION = re.compile(rf"= (?P<shapes>.*?) (?P<op>{_COLLECTIVES})(?P<start>-start)?\(")
_SHAPE = re.compile(r"(?P<dtype>[a-z]+[0-9]*)\[(?P<dims>[\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Collective:
    """Collectives of one kind and dtype in the program text: how many, and the bytes of their results per device."""

    op: str
    dtype: str
    count: int
    bytes: int


@dataclasses.dataclass(frozen=True)
class CompiledReport:
    """Figures of one device. `seconds` is the compiler's own estimate (TPU only), never a measurement."""

    arguments: int
    outputs: int
    aliased: int
    temporaries: int
    flops: float
    bytes_accessed: float
    seconds: float | None
    collectives: tuple[Collective, ...]

    @property
    def peak(self) -> int:
        """Bytes that must fit at once: arguments, outputs that are not donated arguments, and temporaries."""
        return self.arguments + self.outputs - self.aliased + self.temporaries


def compiled_report(compiled) -> CompiledReport:
    """Reads the analyses of a jax `Compiled`."""
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    seconds = cost.get("optimal_seconds")
    return CompiledReport(
        memory.argument_size_in_bytes,
        memory.output_size_in_bytes,
        memory.alias_size_in_bytes,
        memory.temp_size_in_bytes,
        cost.get("flops", 0.0),
        cost.get("bytes accessed", 0.0),
        seconds if seconds and seconds > 0 else None,
        collectives(compiled.as_text()),
    )


def collective_arrays(hlo: str) -> list[list[tuple[str, str, tuple[int, ...]]]]:
    """(op, dtype, shape) of every array that a collective of an HLO text results in, a list for each collective.

    An asynchronous pair counts once, at its start. The start of an all-gather or a permute lists its operand beside its
    result: the larger of the two is counted.
    """
    found = []
    for line in hlo.splitlines():
        match = _INSTRUCTION.search(line)
        if not match:
            continue
        arrays = [
            (match["op"], shape["dtype"], tuple(int(d) for d in shape["dims"].split(",") if d))
            for shape in _SHAPE.finditer(match["shapes"])
        ]
        if match["start"] and match["op"] in ("all-gather", "collective-permute"):
            arrays = [max(arrays, key=_bytes_of)]
        if arrays:
            found.append(arrays)
    return found


def collectives(hlo: str) -> tuple[Collective, ...]:
    """Collectives of an HLO text by kind and dtype."""
    found: dict[tuple[str, str], list[int]] = collections.defaultdict(list)
    for arrays in collective_arrays(hlo):
        op, dtype, _ = arrays[0]
        found[op, dtype].append(sum(_bytes_of(array) for array in arrays))
    return tuple(Collective(op, dtype, len(sizes), sum(sizes)) for (op, dtype), sizes in sorted(found.items()))


def _bytes_of(array: tuple[str, str, tuple[int, ...]]) -> int:
    _, dtype, shape = array
    return math.prod(shape) * _BYTES.get(dtype, 4)


def describe(report: CompiledReport, device: str) -> str:
    """The report as lines for a person; `device` names what the figures are for."""
    lines = [
        f"memory per {device}: {report.peak / GIB:.3f} GiB (state and batch {report.arguments / GIB:.3f}, "
        f"temporaries {report.temporaries / GIB:.3f})",
        f"FLOPs per step and {device}: {report.flops:.3e}; bytes accessed: {report.bytes_accessed:.3e}",
    ]
    if report.seconds is not None:
        lines.append(
            f"compiler's time estimate: {1e3 * report.seconds:.1f} ms per step (an estimate, not a measurement)"
        )
    for item in report.collectives:
        lines.append(f"collective {item.op} {item.dtype}: {item.count} with {item.bytes / 2**20:.2f} MiB per {device}")
    if not report.collectives:
        lines.append("collectives: none")
    return "\n".join(lines)
