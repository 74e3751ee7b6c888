"""A time limit on the next batch: if a decoder hangs, the run ends with the stacks of all threads."""

import contextlib
import faulthandler
import pathlib
import queue
import sys
import threading
from collections.abc import Iterator

import numpy as np

from xsample_jax.errors import SaveError, StalledError
from xsample_jax.io.console import say
from xsample_jax.io.run_dir import log_event

STACKS = "stalled.txt"


class TimedBatches:
    """`batches`, each of which must come within `seconds`.

    One thread fetches them, so that the wait has an end wherever the data hangs. It is one batch ahead; the position
    in the data counts what was taken, not what was fetched.

    Args:
      batches: has close().
      folder: where the stacks of all threads go (stalled.txt) when a batch does not come.
    """

    def __init__(self, batches: Iterator[dict[str, np.ndarray]], seconds: float, folder: pathlib.Path):
        self._batches, self._seconds, self._folder = batches, seconds, folder
        self._fetched: queue.Queue = queue.Queue(maxsize=1)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._fetch, daemon=True, name="batches")
        self._thread.start()

    def __iter__(self):
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        """The next batch; raises what fetching it raised, or StalledError."""
        try:
            batch, error = self._fetched.get(timeout=self._seconds)
        except queue.Empty:
            raise self._stalled() from None
        if error is not None:
            raise error
        return batch

    def close(self) -> None:
        """Ends the thread and closes the batches, unless they hang."""
        self._stop.set()
        while self._thread.is_alive():
            try:
                self._fetched.get_nowait()  # it may wait for room
            except queue.Empty:
                self._thread.join(timeout=0.01)
            if self._hangs:
                return
        self._batches.close()

    _hangs = False

    def _fetch(self) -> None:
        while not self._stop.is_set():
            try:
                self._fetched.put((next(self._batches), None))
            except BaseException as error:  # whatever it is, it belongs to the one who asks for the batch
                self._fetched.put((None, error))
                return

    def _stalled(self) -> StalledError:
        self._hangs = True
        path = self._folder / STACKS
        faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError), path.open("x") as file:
            faulthandler.dump_traceback(file=file, all_threads=True)
        return StalledError(
            "data",
            f"no batch for {self._seconds:g} s",
            "one within faults.data_timeout",
            f"Where every thread was: {path}. Is the storage of the records reachable? A slow one needs a larger "
            "--config.faults.data_timeout, or more data.threads and data.prefetch.",
        )


# A checkpoint that cannot be written (disk full, no permission) is logged as an error; training continues.


@contextlib.contextmanager
def log_save_errors(folder: pathlib.Path, step: int) -> Iterator[None]:
    """Turns a SaveError in the block into a message and a line of the history. Earlier checkpoints stay as they are."""
    try:
        yield
    except SaveError as error:
        say(f"\nerror at step {step}, the run continues: {error}", error=True)
        log_event(folder, "a checkpoint was not written", step=step, error=str(error))
