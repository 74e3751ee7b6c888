"""Which record stands at each place of the endless order in which a run draws them: a function of seed and place."""

import functools
import threading
from collections.abc import Callable

import grain
import numpy as np

from xsample_jax.data.rates import Rates

GOLDEN, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def scrambled(seed: int, place: int) -> int:
    """A number of 64 bits that looks random, of a place in the endless order of a run (splitmix64)."""
    z = (seed * 0xD1342543DE82EF95 + (place + 1) * GOLDEN) % 2**64
    z = (z ^ z >> 30) * FIRST % 2**64
    z = (z ^ z >> 27) * SECOND % 2**64
    return z ^ z >> 31


def draw_order(count: int, seed: int, rates: Rates | None = None) -> Callable[[int], int]:
    """Returns place 0, 1, 2, ... -> index of a record; `count` places are an epoch, and each has its own order.

    Args:
      rates: how often each record is drawn compared with the others; None: all alike, each once in every epoch. A
        record is drawn `rate / mean rate` times in an epoch: the whole part surely, the rest with the chance that it
        says. The draws of a group, and of groups that lie together (the classes of a set), differ by less than one
        from what their rates add up to.
    """
    order = grain.MapDataset.range(count).seed(seed).shuffle().repeat(None)
    if rates is None:
        return lambda place: int(order[place])
    drawn = functools.lru_cache(maxsize=3)(lambda epoch: _epoch(rates, seed, epoch))  # one ends while the next begins
    lock = threading.Lock()  # else every thread would make it

    def index(place: int) -> int:
        with lock:
            draws = drawn(place // count)
        return int(draws[order[place]])

    return index


def _epoch(rates: Rates, seed: int, epoch: int) -> np.ndarray:
    """The records that are drawn in an epoch, int64 [count], with repeats: systematic sampling.

    Records stand side by side by group, and within a group at random: in the order of a set, in which classes or styles
    take turns, steps of equal width would meet some of them always and others never.
    """
    key = scrambled(seed ^ 0x5DEECE66D, epoch)
    line = np.argsort(rates.group + _uniform(key, len(rates.group)), kind="stable")
    ends = np.cumsum(rates.each[line])
    places = (np.arange(len(line)) + key / 2**64) * (ends[-1] / len(line))
    return line[np.minimum(np.searchsorted(ends, places, side="right"), len(line) - 1)]


def _uniform(key: int, count: int) -> np.ndarray:
    """float64 [count] in [0, 1): `scrambled` of 0, 1, 2, ..., all at once, the same with every version of numpy."""
    z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(GOLDEN) + np.uint64(key)
    z = (z ^ z >> np.uint64(30)) * np.uint64(FIRST)
    z = (z ^ z >> np.uint64(27)) * np.uint64(SECOND)
    return ((z ^ z >> np.uint64(31)) >> np.uint64(11)) / 2.0**53
