"""Where the time goes: steps, waiting for data, evaluation, checkpoints; images per second, MFU and time left."""

import contextlib
import time
from collections.abc import Callable, Iterator

# Time in these is no training time: left out of images per second and of the rate behind the estimate.
_ASIDE = ("compile", "evaluation", "checkpoint")


class Clocks:
    """Wall clocks of one training run.

    Put `with clocks.measure("data_wait")` (also "evaluation", "checkpoint", "compile") around those parts of the loop
    and call `clocks.step()` after every step. The first step compiles: wrap it in `measure("compile")`; it then counts
    neither for the rate nor as a step of it.

    Args:
      images_per_step: images of a step over all hosts.
      chips: all that the run is on.
      seconds_at_peak: of a step whose model FLOPs are done at the peak of the chips; None: unknown, no MFU.
      now: clock in seconds (tests pass their own).
    """

    def __init__(
        self,
        images_per_step: int,
        chips: int = 1,
        seconds_at_peak: float | None = None,
        *,
        now: Callable[[], float] = time.perf_counter,
    ):
        self._images, self._chips, self._at_peak, self._now = images_per_step, chips, seconds_at_peak, now
        self._started = self._window_start = now()
        self._total: dict[str, float] = {}
        self._window: dict[str, float] = {}
        self._steps = self._window_steps = 0
        self._compiled = False

    @contextlib.contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Adds the time of the block to the clock `name`. Blocks must not be nested."""
        start = self._now()
        try:
            yield
        finally:
            spent = self._now() - start
            for clock in (self._total, self._window):
                clock[name] = clock.get(name, 0.0) + spent
            self._compiled |= name == "compile"

    def step(self) -> None:
        """Counts a finished step, unless it was the one that compiled."""
        if self._compiled:
            self._compiled = False
            return
        self._steps += 1
        self._window_steps += 1

    def read(self) -> dict[str, float]:
        """Returns the numbers of the time since the last read and starts anew.

        compile_seconds, evaluation_seconds, checkpoint_seconds: where there was any. And, if a step was finished:
        images_per_second, also per chip; seconds_per_step; data_wait_share: part of the training time spent waiting for
        the host; mfu: model FLOPs per second as a share of what the chips can do in bfloat16 (where that is known).
        """
        now = self._now()
        training = now - self._window_start - sum(self._window.get(name, 0.0) for name in _ASIDE)
        steps, waited = self._window_steps, self._window.get("data_wait", 0.0)
        aside = {f"{name}_seconds": self._window[name] for name in _ASIDE if name in self._window}
        self._window_start, self._window, self._window_steps = now, {}, 0
        if not steps or training <= 0:
            return aside
        speed = steps * self._images / training
        utilisation = {} if self._at_peak is None else {"mfu": self._at_peak * steps / training}
        return {
            "images_per_second": speed,
            "images_per_second_per_chip": speed / self._chips,
            "seconds_per_step": training / steps,
            "data_wait_share": waited / training,
            **utilisation,
            **aside,
        }

    def seconds_left(self, steps_left: int) -> float | None:
        """Estimates the training time of the steps left from all steps so far; None before the first one."""
        training = self._now() - self._started - sum(self._total.get(name, 0.0) for name in _ASIDE)
        return steps_left * training / self._steps if self._steps else None
