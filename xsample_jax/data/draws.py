"""Which record stands at each place of the endless order in which a run draws them: a function of seed and place."""

from collections.abc import Callable

import grain
import numpy as np


def scrambled(seed: int, place: int) -> int:
    """A number of 64 bits that looks random, of a place in the endless order of a run (splitmix64)."""
    z = (seed * 0xD1342543DE82EF95 + (place + 1) * 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return z ^ z >> 31


def draw_order(count: int, seed: int, rates: np.ndarray | None = None) -> Callable[[int], int]:
    """Returns place 0, 1, 2, ... -> index of a record; `count` places are an epoch, and each has its own order.

    Args:
      rates: float [count], how often each record is drawn compared with the others; None: all alike, each once in every
        epoch. A record is drawn `rate / mean rate` times in an epoch: the whole part surely, the rest with the chance
        that it says (systematic sampling, so the number of draws of a group differs by at most one from its share).
    """
    order = grain.MapDataset.range(count).seed(seed).shuffle().repeat(None)
    if rates is None:
        return lambda place: int(order[place])
    ends = np.cumsum(np.asarray(rates, np.float64))
    ends *= count / ends[-1]

    def index(place: int) -> int:
        offset = scrambled(seed ^ 0x5DEECE66D, place // count) / 2**64  # one for all places of an epoch
        return min(int(np.searchsorted(ends, order[place] + offset, side="right")), count - 1)

    return index
