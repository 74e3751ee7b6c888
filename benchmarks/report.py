"""How a benchmark says what it found: one line per comparison, and all of them as JSON in the last line."""

import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import platform
import re

from benchmarks.timing import Times
from xsample_jax.io.files import atomic_write

LOOSE = 0.7  # times depend on the machine: the exit status is 1 below this share of a target
INSTALL = "make .venv/installed-bench, or pip install -e '.[bench]' -c constraints.txt"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """`ours` and `peer` in the same unit; `gain` is how many times ours is better, which should reach `target`.

    clock: "cpu" or "wall" if they were measured by this clock, None for what is the same on any machine. `other`: the
    gain by the other clock.
    """

    name: str
    ours: float
    peer: float
    gain: float
    target: float
    clock: str | None = None
    other: float | None = None

    @property
    def passed(self) -> bool:
        return bool(self.gain >= self.target)

    @property
    def acceptable(self) -> bool:
        """Passed, or a time that is not far from its target."""
        return bool(self.gain >= self.target * (1.0 if self.clock is None else LOOSE))

    def __str__(self) -> str:
        verdict = "PASS" if self.passed else "FAIL"
        line = f"{self.name:<52} {self.ours:>10.4g} {self.peer:>10.4g} {self.gain:>8.2f} {self.target:>7.2f} {verdict}"
        if self.other is None:
            return line
        return f"{line}  {'wall' if self.clock == 'cpu' else 'cpu'} {self.other:.2f}"


HEADER = f"{'name':<52} {'ours':>10} {'peer':>10} {'ratio':>8} {'target':>7}"


def less_is_better(name: str, ours: float, peer: float, target: float) -> Comparison:
    """Ours should be `target` times smaller than the peer."""
    return Comparison(name, ours, peer, peer / ours, target)


def at_most(name: str, ours: float, limit: float, clock: str | None = None) -> Comparison:
    """Ours should stay below a limit; a limit of 0 asks for exactly nothing. `clock`: by which ours was measured."""
    gain = limit / ours if ours else max(1.0, limit)
    return Comparison(name, ours, limit, gain, 1.0, clock)


def faster(name: str, ours: Times, peer: Times, target: float, clock: str = "cpu") -> Comparison:
    """Ours should take `target` times less than the peer by the given clock."""
    gains = {"cpu": peer.cpu / ours.cpu, "wall": peer.wall / ours.wall}
    judged, peers = getattr(ours, clock), getattr(peer, clock)
    gain = gains.pop(clock)
    return Comparison(name, judged, peers, gain, target, clock, *gains.values())


def write_json(path: pathlib.Path, record: object) -> None:
    """Writes a record of benchmarks, all of it or nothing: hours of work are in the one that is there."""
    atomic_write(path, lambda partial: partial.write_text(json.dumps(record, indent=1) + "\n"))


def lacking(*modules: str) -> list[str]:
    """Those of the peers' modules that are not installed here."""
    return [name for name in modules if importlib.util.find_spec(name) is None]


def cpu_name() -> str:
    """The model of this machine's CPU, or its architecture where it is not told."""
    about = pathlib.Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", about.read_text()) if about.exists() else None
    return found[1].strip() if found else platform.machine()


def finish(benchmark: str, comparisons: list[Comparison], missing: list[str] = (), **facts) -> int:
    """Prints the comparisons as JSON, with the machine and what else must be known to read them.

    Args:
      benchmark: its name.
      comparisons: whose lines were printed before.
      missing: modules of peers that are not installed: their comparisons were left out, which is no success.
      facts: anything else for the JSON.

    Returns:
      The exit status: 1 if something is missing or a comparison not acceptable.
    """
    import jax

    for name in missing:
        print(f"{benchmark}: {name} is not installed, its comparisons are left out ({INSTALL})")
    machine = {"jax": jax.__version__, "device": jax.devices()[0].device_kind, "machine": platform.machine()}
    machine |= {"cpu": cpu_name(), "cores": len(os.sched_getaffinity(0))}
    machine |= {
        name: importlib.metadata.version(name)
        for name in ("torch", "torchvision", "timm", "sentence-transformers", "opencv-python-headless", "pillow")
        if importlib.util.find_spec(
            {"pillow": "PIL", "opencv-python-headless": "cv2"}.get(name, name.replace("-", "_"))
        )
    }
    rows = [dataclasses.asdict(c) | {"passed": c.passed} for c in comparisons]
    print(json.dumps({"benchmark": benchmark} | machine | facts | {"missing": [*missing], "comparisons": rows}))
    return 0 if not missing and all(comparison.acceptable for comparison in comparisons) else 1
