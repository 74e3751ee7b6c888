"""A line that shows how far a long loop is: features of a split, a scan over the records."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from xsample_jax.metrics.writers import clock

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
