"""XProf traces of a few steps: a window by step numbers, or on demand by a signal while the run is running.

    --config.log.profile=100,5      steps 100 to 104, as metrics.jsonl counts them
    kill -USR1 PID                  the next 5 steps (or as many as log.profile says)

The trace lies in <run folder>/profile; `pip install xprof` and `xprof --port 8791 <run folder>/profile` show it.
"""

import contextlib
import pathlib
import signal
import threading
from collections.abc import Iterator, Sequence

import jax

STEPS_ON_SIGNAL = 5


class Profiler:
    """Traces what runs inside `with profiler.step(number)`; `profiler.end_of_step(result)` follows each.

    Args:
      folder: where traces are written.
      window: (first step, number of steps), or () for none. A run that resumes inside the window traces the rest.
    """

    def __init__(self, folder: str | pathlib.Path, window: Sequence[int] = ()):
        self._folder = pathlib.Path(folder)
        self._first, self._count = tuple(window) or (None, STEPS_ON_SIGNAL)
        self._last: int | None = None  # of the window that is open
        self._now = 0
        self._asked = threading.Event()
        self._before = None
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            self._before = signal.signal(signal.SIGUSR1, lambda *_: self._asked.set())

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """The step called `number` (from 1), with a mark in the trace; opens the window where one is due."""
        self._now = number
        if self._last is None:
            if self._asked.is_set():
                self._open(number + self._count - 1)
            elif self._first is not None and self._first <= number < self._first + self._count:
                self._open(self._first + self._count - 1)
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            yield

    def end_of_step(self, result) -> None:
        """Closes the window after its last step, once the devices have finished it."""
        if self._last is not None and self._now >= self._last:
            jax.block_until_ready(result)
            self._close()

    def close(self) -> None:
        """Writes what an open window has seen and gives the signal back."""
        if self._last is not None:
            self._close()
        if self._before is not None:
            signal.signal(signal.SIGUSR1, self._before)
            self._before = None

    def _open(self, last: int) -> None:
        self._asked.clear()
        self._last = last
        self._folder.mkdir(parents=True, exist_ok=True)
        jax.profiler.start_trace(self._folder)

    def _close(self) -> None:
        jax.profiler.stop_trace()
        self._last = None
        if jax.process_index() == 0:
            print(f"profile up to step {self._now}: {self._folder}")
