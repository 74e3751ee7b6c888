"""A recorded run (tests/recorded_run.py) in which process 1 cannot write its part of the first checkpoint."""

import sys

import jax
from orbax.checkpoint._src.checkpointers import async_checkpointer

from tests.recorded_run import record
from xsample_jax import checkpoint, main


def fail_once() -> None:
    commit, calls = async_checkpointer._background_wait_for_commit_futures, []

    def failing(*arguments, **options):
        calls.append(None)
        if jax.process_index() == 1 and len(calls) == 1:
            raise OSError(28, "No space left on device")
        return commit(*arguments, **options)

    async_checkpointer._background_wait_for_commit_futures = failing
    checkpoint.WAIT_LIMIT = 5.0  # seconds; process 0 waits as long for the part that does not come


if __name__ == "__main__":
    record(sys.argv.pop(1))
    fail_once()
    main.run()
