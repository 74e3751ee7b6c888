"""Numbers that look random without being kept: of 64 bits for a place, and an order of any number of records."""

from collections.abc import Sequence

import numpy as np

GOLDEN, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
ROUNDS = 8


def scrambled(seed: int, place: int) -> int:
    """A number of 64 bits that looks random, of a place in the endless order of a run (splitmix64)."""
    z = (seed * 0xD1342543DE82EF95 + (place + 1) * GOLDEN) % 2**64
    z = (z ^ z >> 30) * FIRST % 2**64
    z = (z ^ z >> 27) * SECOND % 2**64
    return z ^ z >> 31


def many_scrambled(seed: int, count: int) -> np.ndarray:
    """`scrambled` of the places 0, 1, ..., count - 1; uint64 [count], the same with every version of numpy."""
    return _many(seed * 0xD1342543DE82EF95 % 2**64, count)


def uniform(key: int, count: int) -> np.ndarray:
    """float64 [count] in [0, 1): random numbers of the places 0, 1, 2, ..., the same with every version of numpy."""
    return (_many(key, count) >> np.uint64(11)) / 2.0**53


def _many(start: int, count: int) -> np.ndarray:
    """splitmix64 from `start`: uint64 [count]."""
    z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(GOLDEN) + np.uint64(start)
    z = (z ^ z >> np.uint64(30)) * np.uint64(FIRST)
    z = (z ^ z >> np.uint64(27)) * np.uint64(SECOND)
    return z ^ z >> np.uint64(31)


def permuted(place: int, count: int, key: int) -> int:
    """Where the random order `key` of 0, 1, ..., count - 1 has `place`: a bijection, in time and memory of its own.

    A Feistel network on the bits of count - 1 (Luby and Rackoff 1988): each round adds to one part of the bits what
    `scrambled` makes of the other. What falls beyond `count` goes through it again (cycle walking, Black and Rogaway
    2002): at most twice on average, as the bits hold less than two times `count` numbers.
    """
    bits = max(2, (count - 1).bit_length())
    low = bits // 2
    low_mask, high_mask = (1 << low) - 1, (1 << bits - low) - 1
    while True:
        left, right = place >> low, place & low_mask
        for number in range(0, ROUNDS, 2):
            left ^= scrambled(key + number, right) & high_mask
            right ^= scrambled(key + number + 1, left) & low_mask
        place = left << low | right
        if place < count:
            return place


class Permuted(Sequence):
    """The first `length` numbers of the random order `key` of 0, 1, ..., count - 1; none of them is kept."""

    def __init__(self, length: int, count: int, key: int):
        self._length, self._count, self._key = length, count, key

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, place: int) -> int:
        if not 0 <= place < self._length:
            raise IndexError(f"place {place} of {self._length}")
        return permuted(int(place), self._count, self._key)
