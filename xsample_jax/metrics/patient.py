"""A full disk must not end a run for want of a log line."""

import collections
import sys
from collections.abc import Mapping


class PatientWriter:
    """A writer whose lines wait, in order, while it raises OSError. The first failure of a series is said aloud."""

    def __init__(self, writer):
        self._writer = writer
        self._waiting: collections.deque[tuple[int, Mapping[str, float]]] = collections.deque()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        if self._waiting:
            self._waiting.append((step, values))
            self.flush()
            return
        try:
            self._writer.write(step, values)
        except OSError as error:
            name = type(self._writer).__name__
            print(f"\nerror: {name}: {error}. Lines from step {step} on wait in memory.", file=sys.stderr, flush=True)
            self._waiting.append((step, values))

    def flush(self) -> bool:
        """Writes what waits. Returns whether nothing waits any more."""
        try:
            while self._waiting:
                self._writer.write(*self._waiting[0])
                self._waiting.popleft()
        except OSError:
            return False
        return True

    def close(self) -> None:
        self.flush()
        self._writer.close()
