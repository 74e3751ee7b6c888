"""Progress lines of loops: the steps of a run, features of a split, a scan over the records."""

import contextlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

from xsample_jax.metrics.jsonl import plain_number

Item = TypeVar("Item")


def progress(
    items: Iterable[Item],
    title: str,
    total: int,
    *,
    enabled: bool = True,
    stream=None,
    now: Callable[[], float] = time.monotonic,
) -> Iterator[Item]:
    """Yields the items and shows "title  done/total  ETA m:ss" meanwhile.

    On a terminal the line rewrites itself five times a second and is gone at the end. Elsewhere a line follows every 30
    seconds, so that short loops say nothing.

    Args:
      total: number of items.
      enabled: False on all processes but the first.
      stream: default stderr.
    """
    if not enabled:
        yield from items
        return
    stream = sys.stderr if stream is None else stream
    rewrite = bool(getattr(stream, "isatty", lambda: False)())
    pause = 0.2 if rewrite else 30.0
    start = shown = now()
    written = False
    try:
        for done, item in enumerate(items):
            time_now = now()
            if done and time_now - shown >= pause:
                left = (time_now - start) * (total - done) / done
                text = f"{title}  {done}/{total}  ETA {clock(left)}"
                _write(stream, f"\r{text}\x1b[K" if rewrite else text + "\n")
                shown, written = time_now, True
            yield item
    finally:
        if written and rewrite:
            _write(stream, "\r\x1b[K")


def _write(stream, text: str) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, full, or none at all: the work continues
        stream.write(text)
        stream.flush()


class ProgressLine:
    """One line: step/total, loss, KL, images/s, time left. On a terminal it rewrites itself, elsewhere lines follow.

    Args:
      total_steps: of the whole run.
      seconds_left: called with the step, gives the estimate in seconds or None while there is none.
      stream: default stderr.
    """

    def __init__(self, total_steps: int, seconds_left: Callable[[int], float | None] | None = None, stream=None):
        self._total, self._seconds_left = total_steps, seconds_left or (lambda step: None)
        self._stream = sys.stderr if stream is None else stream
        self._rewrite = bool(getattr(self._stream, "isatty", lambda: False)())
        self._open_line = False

    def write(self, step: int, values: Mapping[str, float]) -> None:
        values = {name: plain_number(value) for name, value in values.items()}
        if "loss" not in values:
            self._evaluation(step, values)
            return
        parts = [f"step {step:>{len(str(self._total))}}/{self._total}"]
        for name, title in (("loss", "loss"), ("kl", "KL")):
            if name in values:
                value = values[name]
                parts.append(f"{title} {math.nan if value is None else value:.4f}")
        if values.get("images_per_second"):
            parts.append(f"{values['images_per_second']:,.0f} images/s")
        left = self._seconds_left(step)
        if left is not None:
            parts.append(f"ETA {clock(left)}")
        self._print("  ".join(parts))

    def close(self) -> None:
        if self._open_line:
            self._write("\n")
            self._open_line = False

    def _evaluation(self, step: int, values: Mapping[str, float]) -> None:
        """A short line of its own for an evaluation: it must not be overwritten by the next step."""
        shown = [f"{name.removeprefix('eval/')} {value:.3f}" for name, value in values.items() if value is not None][:4]
        self.close()
        self._write(f"step {step}: " + "  ".join(shown) + "\n")

    def _print(self, text: str) -> None:
        if self._rewrite:  # a line that the terminal breaks could not be rewritten
            text = text[: _columns(self._stream) - 1]
        # "\x1b[K" clears what a longer line before has left.
        self._write(f"\r{text}\x1b[K" if self._rewrite else text + "\n")
        self._open_line = self._rewrite

    def _write(self, text: str) -> None:
        _write(self._stream, text)


def _columns(stream) -> int:
    """Width of the terminal; 1000 where it does not say."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return os.get_terminal_size(stream.fileno()).columns or 1000
    return 1000


def clock(seconds: float) -> str:
    """Formats seconds as m:ss or h:mm:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
