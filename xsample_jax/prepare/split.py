"""Which split a picture belongs to: a hash of its key, so that order, machine and number of pictures do not matter."""

import hashlib
import math

from xsample_jax.data.record_writer import check_split
from xsample_jax.errors import DataError


def parse_splits(text: str) -> dict[str, float]:
    """Reads "train=0.98,val=0.02": split -> share; the shares sum to 1."""
    shares = {}
    for part in text.split(","):
        name, _, share = part.partition("=")
        try:
            shares[name.strip()] = float(share or 1)
        except ValueError:
            raise DataError("--splits", text, "NAME=SHARE,NAME=SHARE", "As in train=0.98,val=0.02.") from None
    for name in shares:
        check_split(name, "--splits", "As in train=0.98,val=0.02.")
    if min(shares.values()) < 0 or not math.isclose(sum(shares.values()), 1, abs_tol=1e-6):
        raise DataError("--splits", text, "shares that sum to 1", "As in train=0.98,val=0.02.")
    return shares


def split_of(key: str, shares: dict[str, float]) -> str:
    """Returns the split of a key: its hash as a number in [0, 1), looked up in the running sum of the shares."""
    place = key_hash(key) / 2**64
    for name, share in shares.items():
        place -= share
        if place < 0:
            return name
    return name  # the shares sum to 1 up to rounding


def key_hash(key: str) -> int:
    """64-bit hash of a text, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
