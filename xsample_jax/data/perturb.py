"""Fewer images, wrong labels, wrong captions: the training split as an experiment needs it."""

import collections
import zlib
from collections.abc import Callable, Sequence

import numpy as np

from xsample_jax.data.loader import KEPT, Permuted, many_scrambled, scrambled
from xsample_jax.data.records import DataSource, Record
from xsample_jax.data.sources import check_kept, read_labels, sampled_records
from xsample_jax.errors import DataError

# Random choices that belong to a record: the same for the same seed and key, in any order and on any machine.


def number(purpose: str, seed: int, key: int) -> int:
    """A number of 64 bits; those of two purposes have nothing to do with each other."""
    return scrambled(scrambled(seed, zlib.crc32(purpose.encode())), key)


def share(purpose: str, seed: int, key: int) -> float:
    """A number in [0, 1)."""
    return (number(purpose, seed, key) >> 11) / 2**53


# Wrong captions for a share of the training images (data.caption_noise): those of another image, with embeddings.


MOST_TRIES = 100  # records drawn at random to find one with a caption


def wrong_captions(source: DataSource, noise: float, seed: int) -> Callable[[Record], Record]:
    """Returns the function that gives a record the captions of another record of `source`, or does not.

    Records without a caption stay as they are, and give none. More noise changes more records beside those that less
    noise changes. Raises DataError for a set without captions, or with a single record.
    """
    if len(source) < 2 or not any(record["captions"] for record in sampled_records(source)):
        raise DataError("data.caption_noise", noise, "0 for a set without captions")

    def other_than(id: int) -> Record:
        key = id
        for attempt in range(MOST_TRIES):
            place = number("noisy caption", seed, key) % len(source)
            other = source[place]
            if other["id"] == id:
                other = source[(place + 1) % len(source)]
            if other["captions"] and other["id"] != id:
                return other
            key = scrambled(id, attempt)
        expected = f"0 for a set of so few captions: of {MOST_TRIES} records drawn for record {id} none had one"
        raise DataError("data.caption_noise", noise, expected)

    def change(record: Record) -> Record:
        if not record["captions"] or share("caption noise", seed, record["id"]) >= noise:
            return record
        other = other_than(record["id"])
        return record | {name: other[name] for name in ("captions", "caption_embeddings")}

    return change


# Wrong labels for a share of the training images (data.label_noise): any other class, each with the same chance.


def wrong_labels(labels: np.ndarray, noise: float, seed: int, kept: np.ndarray) -> Callable[[Record], Record]:
    """Returns the function that changes the label of a record, or does not.

    Records without a label (-1) stay as they are. More noise changes more records beside those that less noise changes.
    Classes without a training image are never a wrong label: nothing is known of them, their text neither. A wrong
    label that is a class of the images that are left is the same whichever are left.

    Args:
      labels: int [records] of the training split; kept: int [m], those of the records of it that are left.

    Raises DataError for a split with fewer than two classes.
    """
    classes, left = (np.unique(some[some >= 0]).tolist() for some in (labels, kept))
    if len(left) < 2:
        raise DataError("data.label_noise", noise, "0 for a set without labels of at least two classes")
    place, place_left = ({label: number for number, label in enumerate(names)} for names in (classes, left))

    def change(record: Record) -> Record:
        if record["label"] < 0 or share("label noise", seed, record["id"]) >= noise:
            return record
        step = 1 + number("noisy label", seed, record["id"]) % (len(classes) - 1)
        label = classes[(place[record["label"]] + step) % len(classes)]
        if label not in place_left:
            step = 1 + number("noisy label among those left", seed, record["id"]) % (len(left) - 1)
            label = left[(place_left[record["label"]] + step) % len(left)]
        return record | {"label": label}

    return change


# A few training images of every class (data.samples_per_class).


def choose_samples(source: DataSource, count: int, seed: int) -> np.ndarray:
    """Indices of `count` records of every class (all, where a class has fewer), ascending, without a label none.

    Those of a smaller count are among those of a larger one. Raises DataError for a set without labels.
    """
    check_kept("data.samples_per_class", count, len(source), 120, "None")
    of_class: dict[int, list[int]] = collections.defaultdict(list)
    for index, label in enumerate(read_labels(source).tolist()):
        if label >= 0:
            of_class[label].append(index)
    if not of_class:
        raise DataError("data.samples_per_class", count, "None for a set without labels")
    drawn = (sorted(members, key=lambda i: number("samples per class", seed, i)) for members in of_class.values())
    return np.sort(np.concatenate([members[:count] for members in drawn]))


# A share of the training images (data.fraction).


def choose_fraction(source: DataSource, fraction: float, seed: int) -> Sequence[int]:
    """Indices of `fraction` of the records, rounded, at least one. Those of a smaller share are among those of a
    larger one.

    Ascending up to KEPT records; of a larger set nothing is kept, and they come in a random order.
    """
    count = max(1, round(fraction * len(source)))
    if len(source) > KEPT:
        return Permuted(count, len(source), number("fraction", seed, 0))
    drawn = many_scrambled(scrambled(seed, zlib.crc32(b"fraction")), len(source))
    if count == len(drawn):
        return np.arange(count)
    return np.sort(np.argpartition(drawn, count - 1)[:count])


class Perturbed:
    """A source of records (data/records.py), some of them left out or changed.

    Args:
      source: what it is made of.
      change: record -> record.
      indices: which records of `source`, in this order; None: all.

    The other attributes are those of `source`.
    """

    altered = True

    def __init__(
        self, source: DataSource, change: Callable[[Record], Record] | None = None, indices: Sequence[int] | None = None
    ):
        self._source, self._change, self._indices = source, change, indices
        self.folder, self.split = source.folder, source.split
        self.manifest, self.channels = source.manifest, source.channels
        self.wide_ids = getattr(source, "wide_ids", False)

    def __len__(self) -> int:
        return len(self._source) if self._indices is None else len(self._indices)

    def __getitem__(self, i: int) -> Record:
        record = self._source[self._index(i)]
        return record if self._change is None else self._change(record)

    def locate(self, i: int) -> str:
        return self._source.locate(self._index(i))

    def place(self, i: int) -> int:
        """Which record of the split it is, as data.side counts them."""
        return self._source.place(self._index(i))

    def _index(self, i: int) -> int:
        return i if self._indices is None else int(self._indices[i])


def apply_perturbations(source: DataSource, data, seed: int):
    """`source` with data.fraction or samples_per_class, caption_noise and label_noise of the config; itself without.

    The same for the same seed, whatever else changes: noise depends on the seed and the id of a record alone, the
    choice of samples on the seed and the place in the split.
    Raises DataError where the set has no labels or captions to change.
    """
    whole, indices = source, None
    if data.samples_per_class is not None:
        indices = choose_samples(source, data.samples_per_class, seed)
    elif data.fraction < 1:  # a config has one of the two
        indices = choose_fraction(source, data.fraction, seed)
    if indices is not None:
        source = Perturbed(source, indices=indices)
    if data.caption_noise:
        source = Perturbed(source, wrong_captions(whole, data.caption_noise, seed))
    if data.label_noise:
        check_kept("data.label_noise", data.label_noise, len(whole), 4, "0")
        labels = read_labels(whole)
        some = indices is not None and len(indices) <= KEPT  # of more than that no class is missing
        kept = labels[np.fromiter(indices, np.int64, len(indices))] if some else labels
        source = Perturbed(source, wrong_labels(labels, data.label_noise, seed, kept))
    return source
