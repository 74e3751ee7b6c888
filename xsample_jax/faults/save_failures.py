"""A checkpoint that cannot be written (disk full, no permission) is said aloud; the training goes on."""

import contextlib
import pathlib
import sys
from collections.abc import Iterator

from xsample_jax.errors import SaveError
from xsample_jax.faults.history import note


@contextlib.contextmanager
def reported(folder: pathlib.Path, step: int) -> Iterator[None]:
    """Turns a SaveError in the block into a message and a line of the history. Earlier checkpoints stay as they are."""
    try:
        yield
    except SaveError as error:
        print(f"\nerror at step {step}, the run goes on: {error}", file=sys.stderr, flush=True)
        note(folder, "a checkpoint was not written", step=step, error=str(error))
