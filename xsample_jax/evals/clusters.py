"""Clusters of the records of a split by the features of a run: k-means, pseudo-labels of stages, classes in parts.

The result is written as a side file (data/side.py), which objectives and batches read as `cluster` and
`class_temperature`.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from xsample_jax.errors import ConfigError
from xsample_jax.evals.features import Features

ROUNDS = 100  # of k-means, at most
ALIKE = 1e-12  # squared distance, as a share of the points' variance, at which they are one
ROUNDING = 2.0**-44  # the same, as a share of their squared lengths: what float32 cannot tell apart
BLOCK = 2**24  # numbers of the points that are looked at together, and of their distances


def k_means(points: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """k-means of points [n, D] from k-means++ centers: the cluster of each, int [n]; fewer where points are alike.

    Clusters are numbered by size, the largest first, so that the same points give the same numbers. They do not depend
    on the scale of the points.
    """
    middle = points.mean(axis=0, dtype=np.float64)
    centers = _first_centers(points, middle, count, np.random.default_rng(seed))
    nearest = np.full(len(points), -1)
    for _ in range(ROUNDS):
        found = np.concatenate(
            [_square_distances(block, centers).argmin(axis=1) for _, block in _blocks(points, middle, count)]
        )
        if (found == nearest).all():
            break
        nearest, sums = found, np.zeros_like(centers)
        sizes = np.bincount(nearest, minlength=len(centers))
        for start, block in _blocks(points, middle, count):
            np.add.at(sums, nearest[start : start + len(block)], block)
        centers = np.where(sizes[:, None] > 0, sums / np.maximum(sizes, 1)[:, None], centers)
    sizes = np.bincount(nearest, minlength=len(centers))
    return np.argsort(np.argsort(-sizes, kind="stable"))[nearest]


def _first_centers(points: np.ndarray, middle: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """k-means++ (Arthur and Vassilvitskii 2007): each center is drawn by its squared distance to the nearest before.

    They are relative to `middle` [D], the mean of the points, as the blocks are."""
    spread = sum(np.sum(block**2) for _, block in _blocks(points, middle, 1))
    least = ALIKE * spread + ROUNDING * len(points) * np.sum(middle**2)
    centers = [points[rng.integers(len(points))] - middle]
    far = np.full(len(points), np.inf)
    while len(centers) < count:
        newest = centers[-1][None]
        apart = np.concatenate([_square_distances(block, newest)[:, 0] for _, block in _blocks(points, middle, 1)])
        far = np.minimum(far, apart)
        if not far.sum() > least:
            break  # no other point is left
        centers.append(points[rng.choice(len(points), p=far / far.sum())] - middle)
    return np.stack(centers)


def _blocks(points: np.ndarray, middle: np.ndarray, count: int) -> Iterator[tuple[int, np.ndarray]]:
    """(number of its first point, points - middle) in float64: for all and `count` centers memory may not do."""
    rows = max(1, BLOCK // max(count, points.shape[1]))
    for start in range(0, len(points), rows):
        yield start, points[start : start + rows] - middle


def _square_distances(points: np.ndarray, centers: np.ndarray) -> np.ndarray:
    square = (points**2).sum(axis=1)[:, None] - 2 * points @ centers.T + (centers**2).sum(axis=1)
    return np.maximum(square, 0.0)


def clusterings(points: np.ndarray, counts: Sequence[int], seed: int = 0) -> np.ndarray:
    """One clustering for each number of clusters, int32 [n, M]: several grains, as MEOW has (arXiv 2212.13847)."""
    return np.stack([k_means(points, count, seed) for count in counts], axis=1).astype(np.int32)


def with_digit(previous: np.ndarray, clusters: np.ndarray, count: int) -> np.ndarray:
    """Pseudo-labels of one stage more, int32 [n]: previous * count + cluster (MCL, arXiv 2402.11816).

    After stages 0, 1, ... they are the clusters c_0, c_1, ... as the digits of a number to the base `count`. -1 where
    either of the two is unknown.

    Raises ConfigError where the numbers become larger than int32 holds.
    """
    numbers = previous.astype(np.int64) * count + clusters
    if numbers.max(initial=0) >= 2**31:
        raise ConfigError("--digits", int(numbers.max()), "pseudo-labels below 2^31", "Fewer stages, or a smaller --k.")
    return np.where((previous >= 0) & (clusters >= 0), numbers, -1).astype(np.int32)


def without_small(clusters: np.ndarray, smallest: int) -> np.ndarray:
    """Clusters int [n, M] or [n] with -1 for those of fewer than `smallest` records, which fill no batch."""
    columns = clusters.reshape(len(clusters), -1).copy()
    for column in columns.T:
        _, number, sizes = np.unique(column, return_inverse=True, return_counts=True)
        column[sizes[number] < smallest] = -1
    return columns.reshape(clusters.shape)


# Subclass-balancing contrastive learning (SBCL, arXiv 2306.15925): large classes fall into subclasses as large as the
# smallest classes, and the temperature of a class says how spread out it is.


SMALLEST_SUBCLASS = 10
WITHIN = (20, 80)  # percentiles between which the spread of a class may be


def subclass_counts(sizes: np.ndarray) -> np.ndarray:
    """Subclasses of classes of these sizes: max(n // max(smallest size, 10), 1), int [C]."""
    return np.maximum(sizes // max(int(sizes.min()), SMALLEST_SUBCLASS), 1)


def subclasses(points: np.ndarray, labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """Subclasses, int32 [n]: k-means within every class, numbered through all classes; -1 without a label."""
    found, first = np.full(len(points), -1, np.int32), 0
    classes, sizes = np.unique(labels[labels >= 0], return_counts=True)
    for label, count in zip(classes, subclass_counts(sizes), strict=True):
        members = labels == label
        found[members] = first + k_means(points[members], int(count), seed)
        first += count
    return found


def class_temperatures(points: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """What tau is multiplied by for every class: its spread d over the mean of all, float [C]; 1 without subclasses.

    d = mean |x - center| / log(n + 10), clipped to the 20th and 80th percentile of the classes. labels: 0 to C without
    a gap; counts [C]: of subclasses.
    """
    spread = []
    for label in range(len(counts)):
        members = np.asarray(points[labels == label], np.float64)
        apart = np.linalg.norm(members - members.mean(axis=0), axis=1)
        spread.append(apart.mean() / np.log(len(members) + 10))
    clipped = np.clip(spread, *np.percentile(spread, WITHIN))
    # Classes of one image each have no spread.
    return np.where(counts > 1, clipped / clipped.mean(), 1.0) if clipped.mean() > 0 else np.ones(len(counts))


def temperatures_of(points: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """`class_temperature` of every record, float32 [n]: that of its class; 1 without a label."""
    factors, known = np.ones(len(points), np.float32), labels >= 0
    _, number, sizes = np.unique(labels[known], return_inverse=True, return_counts=True)
    factors[known] = class_temperatures(points[known], number, subclass_counts(sizes))[number]
    return factors


# From the features of a split to values for all of its records.


def by_record(values: np.ndarray, features: Features, records: int, unknown: float = -1) -> np.ndarray:
    """Values [n, ...] of rows of features as those of all records of the split; `unknown` for one that was skipped."""
    found = np.full((records, *values.shape[1:]), unknown, values.dtype)
    found[features.index] = values
    return found
