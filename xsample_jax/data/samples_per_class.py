"""A few training images of every class (data.samples_per_class)."""

import collections

import numpy as np

from xsample_jax.data.chance import number
from xsample_jax.data.labels import read_labels
from xsample_jax.errors import DataError


def choose_samples(source, count: int, seed: int) -> np.ndarray:
    """Indices of `count` records of every class (all, where a class has fewer), ascending, without a label none.

    Those of a smaller count are among those of a larger one. Raises DataError for a set without labels.
    """
    of_class: dict[int, list[int]] = collections.defaultdict(list)
    for index, label in enumerate(read_labels(source).tolist()):
        if label >= 0:
            of_class[label].append(index)
    if not of_class:
        raise DataError("data.samples_per_class", count, "None for a set without labels")
    drawn = (sorted(members, key=lambda i: number("samples per class", seed, i)) for members in of_class.values())
    return np.sort(np.concatenate([members[:count] for members in drawn]))
