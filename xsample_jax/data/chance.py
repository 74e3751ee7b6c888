"""Random choices that belong to a record: the same for the same seed and key, in any order and on any machine."""

import zlib

from xsample_jax.data.draws import scrambled


def number(purpose: str, seed: int, key: int) -> int:
    """A number of 64 bits; those of two purposes have nothing to do with each other."""
    return scrambled(scrambled(seed, zlib.crc32(purpose.encode())), key)


def share(purpose: str, seed: int, key: int) -> float:
    """A number in [0, 1)."""
    return (number(purpose, seed, key) >> 11) / 2**53
