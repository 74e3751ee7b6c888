"""Wall time on a card, of forms of the same work taken in turn."""

import statistics
import time
from collections.abc import Callable, Mapping


def seconds_in_turn(forms: Mapping[str, tuple[Callable, Callable]], repeats: int, calls: int = 1) -> dict[str, float]:
    """Median seconds of a call of each form (function, wait for its result), after one that is not counted.

    A sample is `calls` calls that are waited for once: a card is given the next call while it works.
    """

    def sample(function, wait):
        start = time.perf_counter()
        for _ in range(calls):
            result = function()
        wait(result)
        return (time.perf_counter() - start) / calls

    for form in forms.values():
        sample(*form)
    rounds = [{name: sample(*form) for name, form in forms.items()} for _ in range(repeats)]
    return {name: statistics.median(times[name] for times in rounds) for name in forms}
