"""Full batches read by threads, and the order of the records in them, drawn without keeping a list of it."""

import bisect
import dataclasses
import functools
import itertools
import math
import threading
from collections.abc import Callable, Sequence

import grain
import numpy as np

# Examples that a thread reads at a time, at most.
PIECE = 32
Example = dict[str, np.ndarray]


def threaded_batches(
    read: Callable[[int, np.ndarray], Example],
    count: int,
    batch_size: int,
    image_shape: tuple[int, int, int],
    threads: int,
    ahead: int,
) -> grain.DatasetIterator:
    """Batches of the examples 0 to `count` in order, read by threads, up to `ahead` batches before they are asked for.

    A thread reads a piece of a batch at a time: handing over single examples costs a small image more than its
    decoding does (docs/notes/performance.md). Stacking images and joining pieces would copy each image twice.

    Args:
      read: (number of the example, uint8 `image_shape` to write its image to) -> its other entries.
      count: examples; those of a last batch that would not be full are left out.
      batch_size: examples of a batch.
      image_shape: (height, width, channels) of every image.
      threads: threads that call `read`.
      ahead: batches.

    Returns:
      An iterator over dicts of entries [batch_size, ...], `image` among them. What `read` raises comes out of it, and
      ends it.
    """
    piece = min(PIECE, max(1, ahead * batch_size // threads))  # some for every thread
    pieces = math.ceil(batch_size / piece)  # the last of a batch may be shorter
    begun: dict[int, np.ndarray] = {}  # number of a batch -> its images, while threads write to them

    def read_piece(number: int) -> Example:
        batch, start = number // pieces, number % pieces * piece
        images = begun.setdefault(batch, np.empty((batch_size, *image_shape), np.uint8))
        rows = range(start, min(start + piece, batch_size))
        examples = [read(batch * batch_size + row, images[row]) for row in rows]
        return {"batch": batch} | {name: np.stack([example[name] for example in examples]) for name in examples[0]}

    def joined(parts: Sequence[Example]) -> Example:
        (batch,) = {part["batch"] for part in parts}  # after an error that a caller ignored they would be of two
        names = [name for name in parts[0] if name != "batch"]
        return {"image": begun.pop(batch)} | {name: np.concatenate([part[name] for part in parts]) for name in names}

    options = grain.ReadOptions(num_threads=min(threads, ahead * pieces), prefetch_buffer_size=ahead * pieces)
    read_pieces = grain.MapDataset.range(count // batch_size * pieces).map(read_piece).to_iter_dataset(options)
    return iter(read_pieces.batch(pieces, drop_remainder=True, batch_fn=joined))


# How often each training record is drawn: shares of mixed sets (data.mix) and rare classes (data.balance).


@dataclasses.dataclass(frozen=True)
class Rates:
    """How often records are drawn, compared with each other.

    Attributes:
      each: float64 [records].
      group: int64 [records], the set and class of each, sets first: the draws of a group are what its rates add up to.
    """

    each: np.ndarray
    group: np.ndarray


def record_rates(
    sizes: list[int], shares: list[float], labels: np.ndarray | None, balance: float
) -> "Rates | Shares | None":
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
    if not balance and sum(sizes) > KEPT:
        return Shares(tuple(sizes), tuple(shares))
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


# Which record is at each place of the endless order in which a run draws them: a function of seed and place.


# Up to here the order is grain's, in which old runs go on. It cuts places off at 32 bits: larger sets have one of ours.
GRAIN = 2**31
# Up to here a number of each record is kept where records have rates; 2**29 of them take 40 GB.
KEPT = 2**29


@dataclasses.dataclass(frozen=True)
class Shares:
    """Part of the draws that comes from each set of a mixture that is too large for rates by record.

    Attributes:
      sizes: records of each set.
      shares: they add up to 1.
    """

    sizes: tuple[int, ...]
    shares: tuple[float, ...]


def draw_order(count: int, seed: int, rates: Rates | Shares | None = None) -> Callable[[int], int]:
    """Returns place 0, 1, 2, ... -> index of a record; `count` places are an epoch, and each has its own order.

    Args:
      rates: how often each record is drawn compared with the others; None: all alike, each once in every epoch. A
        record is drawn `rate / mean rate` times in an epoch: the whole part surely, the rest with the chance that it
        says. The draws of a group, and of groups that lie together (the classes of a set), differ by less than one
        from what their rates add up to.
    """
    order = _each_once(count, seed)
    if rates is None:
        return order
    if isinstance(rates, Shares):
        return _by_share(order, rates, seed)
    drawn = functools.lru_cache(maxsize=3)(lambda epoch: _epoch(rates, seed, epoch))  # one ends while the next begins
    lock = threading.Lock()  # else every thread would make it

    def index(place: int) -> int:
        with lock:
            draws = drawn(place // count)
        return int(draws[order(place)])

    return index


def _each_once(count: int, seed: int) -> Callable[[int], int]:
    """Place -> index: every record once in an epoch. Takes the same time and memory for any number of records."""
    if count <= GRAIN:
        order = grain.MapDataset.range(count).seed(seed).shuffle().repeat(None)
        return lambda place: int(order[place])

    def index(place: int) -> int:
        epoch, here = divmod(place, count)
        return permuted(here, count, scrambled(seed ^ 0x3C6EF372FE94F82B, epoch))

    return index


def _by_share(order: Callable[[int], int], rates: Shares, seed: int) -> Callable[[int], int]:
    """Place -> index, with nothing kept for each record.

    An epoch gives every set its share of the draws, up to one. Within a set they are whole passes and a part of one,
    so that the draws of two records of a set differ by one at most; every pass has its own order.
    """
    count, first = sum(rates.sizes), [0, *itertools.accumulate(rates.sizes)]
    until = [0.0, *itertools.accumulate(rates.shares)]

    def index(place: int) -> int:
        key = scrambled(seed ^ 0x5DEECE66D, place // count)
        # The same random offset at every border: a set with a share of 1.5 draws has two in half of the epochs.
        borders = [0, *(min(count, int(share * count + key / 2**64)) for share in until[1:-1]), count]
        drawn = order(place)
        which = bisect.bisect_right(borders, drawn, hi=len(borders) - 1) - 1
        size = rates.sizes[which]
        number, here = divmod(drawn - borders[which], size)
        return first[which] + permuted(here, size, scrambled(key + which, number))

    return index


def _epoch(rates: Rates, seed: int, epoch: int) -> np.ndarray:
    """The records that are drawn in an epoch, int64 [count], with repeats: systematic sampling.

    Records stand side by side by group, and within a group at random: in the order of a set, in which classes or styles
    take turns, steps of equal width would meet some of them always and others never.
    """
    key = scrambled(seed ^ 0x5DEECE66D, epoch)
    line = np.argsort(rates.group + uniform(key, len(rates.group)), kind="stable")
    ends = np.cumsum(rates.each[line])
    places = (np.arange(len(line)) + key / 2**64) * (ends[-1] / len(line))
    return line[np.minimum(np.searchsorted(ends, places, side="right"), len(line) - 1)]


def one_group_order(groups: np.ndarray, batch_size: int, seed: int) -> Callable[[int], int]:
    """As `draw_order`, for batches of one group each: places n * batch_size to (n + 1) * batch_size are of one group.

    Every pass shuffles the records of each group, cuts them into batches, leaves out those of a last batch that would
    not be full, and shuffles the batches of all groups (feature-aware negatives of MCL, arXiv 2402.11816).

    Args:
      groups: int [records], -1 for a record of no group, which is never drawn; every other group fills a batch.
    """
    line = np.argsort(groups, kind="stable")[np.sum(groups < 0) :]
    parts = np.split(line, np.flatnonzero(np.diff(groups[line])) + 1)

    def one_pass(number: int) -> np.ndarray:
        key = scrambled(seed ^ 0x2545F4914F6CDD1D, number)
        drawn, batches = uniform(key, len(groups)), []
        for members in parts:
            whole = len(members) // batch_size * batch_size
            batches.append(members[np.argsort(drawn[members], kind="stable")][:whole].reshape(-1, batch_size))
        every = np.concatenate(batches)
        return every[np.argsort(uniform(scrambled(key, 0), len(every)), kind="stable")]

    passes, lock = functools.lru_cache(maxsize=3)(one_pass), threading.Lock()
    count = sum(len(members) // batch_size for members in parts)

    def index(place: int) -> int:
        batch, row = divmod(place, batch_size)
        with lock:
            batches = passes(batch // count)
        return int(batches[batch % count, row])

    return index


# Numbers that look random without being kept: of 64 bits for a place, and an order of any number of records.


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
