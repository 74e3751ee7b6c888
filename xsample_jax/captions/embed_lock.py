"""One process at a time embeds the captions of a set, or each of its parts."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from xsample_jax.errors import CheckpointError, DataError
from xsample_jax.faults.lock import locked
from xsample_jax.storage.lease import leased
from xsample_jax.storage.paths import in_bucket, remove_tree

LOCKS = ".embedding"  # in the set; work has other names, .embed-TAG


@contextlib.contextmanager
def alone(folder: Path, part: tuple[int, int] | None) -> Iterator[None]:
    """Holds the set, or one part of it, for the time of the block.

    Whoever comes takes a lock of its own and then looks at those of others: of two at once, one sees the other.

    Raises DataError, which says who is at work on the same shards.
    """
    locks = folder / LOCKS
    mine = "whole" if part is None else f"{part[0]}-of-{part[1]}"
    welcome = "whole" if part is None else f"-of-{part[1]}"  # parts of one n have no shard in common
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(_hold(locks / mine))
            for other in locks.glob("*"):
                if not other.name.endswith(welcome):
                    with _hold(other):
                        pass
        except CheckpointError as error:
            raise DataError("--set", str(folder), error.expected, error.fix) from None
        try:
            yield
        finally:
            if part is None and not in_bucket(folder):  # in a bucket they are gone with their holders
                remove_tree(locks)


def _hold(place: Path):
    return leased(place, "--set") if in_bucket(place) else locked(place, "--set")
