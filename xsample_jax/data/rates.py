"""How often each training record is drawn: shares of mixed sets (data.mix) and rare classes (data.balance)."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Rates:
    """How often records are drawn, compared with each other.

    Attributes:
      each: float64 [records].
      group: int64 [records], the set and class of each, sets first: the draws of a group are what its rates add up to.
    """

    each: np.ndarray
    group: np.ndarray


def record_rates(sizes: list[int], shares: list[float], labels: np.ndarray | None, balance: float) -> Rates | None:
    """Returns the rates for `draw_order`, or None where every record is drawn alike.

    Args:
      sizes: records of each set, in the order of their records.
      shares: part of the draws that comes from each set; they add up to 1. [] for a single set.
      labels: int [records], -1 for none; read where `balance` is not 0.
      balance: 0: images alike; 1: classes alike; between: a class of n images is drawn n ** (1 - balance) times. 0.5 is
        the square-root sampling of Mahajan et al. 2018 (arXiv 1805.00932). Within a set; images without a class count
        as classes of one image each.
    """
    if not shares and not balance:
        return None
    rates, groups = np.ones(sum(sizes)), np.zeros(sum(sizes), np.int64)
    start = first = 0
    for size, share in zip(sizes, shares or [None], strict=True):
        here = slice(start, start + size)
        part = rates[here]
        group, members = np.zeros(size, np.int64), np.array([size])
        if balance:
            _, group, members = np.unique(labels[here], return_inverse=True, return_counts=True)
            part[:] = np.where(labels[here] >= 0, members[group].astype(np.float64), 1.0) ** -balance
        if share is not None and size:  # an empty set is refused by name later
            part *= share / part.sum()
        groups[here] = first + group
        start, first = start + size, first + len(members)
    return Rates(rates, groups)
