"""A few records of a split, to learn what a set has that its manifest does not say."""

import itertools
from collections.abc import Iterator

import numpy as np

from xsample_jax.errors import DataError

FIRST = 64


def first_records(source, count: int = FIRST) -> Iterator[dict]:
    """The first `count` records that can be read, which lie side by side: from a bucket one shard is fetched for them.

    Raises the error of the very first one where none can be read.
    """
    return itertools.islice(readable(source, range(len(source))), count)


def readable(source, places) -> Iterator[dict]:
    """The records at `places` that can be read; raises the error of the first one where none can."""
    refused = None
    found = False
    for place in places:
        try:
            record = source[int(place)]
        except DataError as error:
            refused = refused or error
            continue
        found = True
        yield record
    if refused is not None and not found:
        raise refused


def spread_places(count: int, most: int) -> np.ndarray:
    """At most `most` of the places 0 to `count` (without it), spread evenly, each once; int [n]."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int))
