"""How a benchmark says what it found: one line per comparison, and all of them as JSON."""

import dataclasses
import json
import platform


@dataclasses.dataclass(frozen=True)
class Comparison:
    """`ours` and `peer` in the same unit; `gain` is how many times ours is better, which should reach `target`."""

    name: str
    ours: float
    peer: float
    gain: float
    target: float

    @property
    def passed(self) -> bool:
        return self.gain >= self.target

    def __str__(self) -> str:
        verdict = "PASS" if self.passed else "FAIL"
        return f"{self.name:<52} {self.ours:>10.4g} {self.peer:>10.4g} {self.gain:>8.2f} {self.target:>7.2f} {verdict}"


HEADER = f"{'name':<52} {'ours':>10} {'peer':>10} {'ratio':>8} {'target':>7}"


def less_is_better(name: str, ours: float, peer: float, target: float) -> Comparison:
    """Ours should be `target` times smaller than the peer."""
    return Comparison(name, ours, peer, peer / ours, target)


def at_most(name: str, ours: float, limit: float) -> Comparison:
    """Ours should stay below a limit."""
    return Comparison(name, ours, limit, limit / ours, 1.0)


def finish(benchmark: str, comparisons: list[Comparison], **facts) -> None:
    """Prints the comparisons as JSON, with the machine and what else must be known to read them."""
    import jax

    machine = {"jax": jax.__version__, "device": jax.devices()[0].device_kind, "machine": platform.machine()}
    rows = [dataclasses.asdict(c) | {"passed": c.passed} for c in comparisons]
    print(json.dumps({"benchmark": benchmark} | machine | facts | {"comparisons": rows}))
