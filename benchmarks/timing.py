"""Two clocks, and forms of the same work timed in turn."""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple


class Times(NamedTuple):
    """Seconds of one call: `cpu` of all threads of this process, and on the wall."""

    cpu: float
    wall: float

    def scaled(self, factor: float) -> "Times":
        return Times(self.cpu * factor, self.wall * factor)


def once(function: Callable) -> Times:
    """Times of one call, which must not return before its work is done."""
    cpu, wall = time.process_time(), time.perf_counter()
    function()
    return Times(time.process_time() - cpu, time.perf_counter() - wall)


def interleaved(forms: Mapping[str, Callable], repeats: int) -> dict[str, Times]:
    """The least of each clock over `repeats` calls of every form, taken in turn: other work on the machine hits all.

    Call each form once before: what it compiles is not to be timed.
    """
    rounds = [{name: once(form) for name, form in forms.items()} for _ in range(repeats)]
    return {name: Times(*map(min, zip(*(times[name] for times in rounds)))) for name in forms}
