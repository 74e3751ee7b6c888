"""Cycles of a program that was compiled for a TPU, as its compiler sees them. Nothing is run.

Two figures that are not of the same kind:
  XLA's operations carry the `estimated_cycles` of its cost model in the compiled text; those of a loop are counted once
  per iteration.
  A Pallas kernel carries none (XLA believes what its author writes into `cost_estimate`). Its machine code can be
  dumped: without loops of its own, a step of its grid issues one instruction bundle per cycle. What it waits for is
  not in it, so the work of the matrix units is the least that it takes as well.
"""

import pathlib
import re

# Cycles per second: bfloat16 peak (metrics/profiling.py) over the FLOPs that the matrix units of a core do in a cycle.
CLOCK = {
    "v5e": 197e12 / (4 * 128 * 128 * 2),
    "v5p": 459e12 / (2 * 4 * 128 * 128 * 2),
    "v6e": 918e12 / (4 * 256 * 256 * 2),
}

_COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{\s*$")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_LOOP = re.compile(r" while\(.*body=%?([\w.\-]+)")
_BUNDLES = re.compile(r"non empty scheduled bundles: (\d+)")


def estimated_cycles(hlo: str, iterations: int) -> int:
    """Of a compiled text whose loops all have as many iterations; loops within loops are not expected."""
    cycles, loops, computation = {}, {}, None
    for line in hlo.splitlines():
        if found := _COMPUTATION.match(line):
            computation = "ENTRY" if found["entry"] else found["name"]
        elif computation is not None:
            if found := _CYCLES.search(line):
                cycles[computation] = cycles.get(computation, 0) + int(found[1])
            if found := _LOOP.search(line):
                loops.setdefault(computation, []).append(found[1])
    bodies = loops.get("ENTRY", [])
    if any(body in loops for body in bodies):
        raise ValueError("a loop within a loop: expected loops of the entry only")
    return cycles.get("ENTRY", 0) + iterations * sum(cycles.get(body, 0) for body in bodies)


def dump_arguments(folder: str) -> str:
    """What LIBTPU_INIT_ARGS must hold, before libtpu is loaded, for the machine code to be written to a folder."""
    return f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true --xla_jf_dump_llo_pass_label_regex=.*final.*"


def bundles(folder: str, kernel: str) -> int:
    """Instruction bundles of the newest dump of a kernel."""
    found = sorted(pathlib.Path(folder).glob(f"*{kernel}*-schedule-analysis_final_bundles.txt"))
    if not found:
        raise FileNotFoundError(
            f"no machine code of {kernel} in {folder}: was LIBTPU_INIT_ARGS set before jax was used?"
        )
    return int(_BUNDLES.search(found[-1].read_text())[1])
