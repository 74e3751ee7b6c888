"""Weighted k-nearest-neighbor classification by cosine (Wu et al. 2018, arXiv 1805.01978, section 3.4)."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from xsample_jax.data.records import unit_rows
from xsample_jax.evals.features import everywhere, on_devices
from xsample_jax.evals.linear_probes import fit_standardizer

# One similarity tile holds at most this many numbers (128 MiB in float32), whatever the sizes of the two sets.
_TILE = 2**25


def _nearest(gallery: jax.Array, queries: jax.Array, count: int, k: int) -> tuple[jax.Array, jax.Array]:
    cosine = jnp.matmul(queries, gallery.T, precision=jax.lax.Precision.HIGHEST)
    return jax.lax.top_k(jnp.where(jnp.arange(len(gallery)) < count, cosine, -2.0), k)


def neighbors(gallery: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Finds the k rows of the gallery with the largest cosine to every query, best first.

    Args:
      gallery: float [n, F]; queries: float [m, F]; rows need not be normalized.
      k: at most n neighbors are returned.

    Returns:
      (index int [m, k], cosine float32 [m, k]).
    """
    gallery, queries = unit_rows(gallery), unit_rows(queries)
    k = min(k, len(gallery))
    chunk = max(1, min(len(queries), _TILE // max(1, len(gallery))))
    on_device = on_devices(gallery)  # a large one is spread over all of them
    nearest = jax.jit(_nearest, static_argnames="k", out_shardings=everywhere(on_device))
    index, cosine = [], []
    for start in range(0, len(queries), chunk):
        part = queries[start : start + chunk]
        # The last chunk is padded so that the whole split needs one compiled shape.
        padded = np.pad(part, ((0, chunk - len(part)), (0, 0)))
        values, rows = nearest(on_device, padded, len(gallery), k)
        index.append(np.asarray(rows)[: len(part)])
        cosine.append(np.asarray(values)[: len(part)])
    if not index:
        return np.zeros((0, k), np.int32), np.zeros((0, k), np.float32)
    return np.concatenate(index), np.concatenate(cosine)


def diverse(score: np.ndarray, alike: np.ndarray, count: int, weight: float = 0.5) -> np.ndarray:
    """Chooses candidates one by one, each with the largest score less what the most alike of those before it has of it.

    (1 - weight) score - weight max over those already chosen of their likeness: the rule of contrastive search (arXiv
    2202.06417) and, with cosines for both, maximal marginal relevance. The first is the one with the largest score.

    Args:
      score: [n]; alike: [n, n]; weight: 0 chooses by the score alone, 1 by the likeness alone. A tie goes to the first.

    Returns:
      int [min(count, n)], places in the order in which they were chosen.
    """
    chosen, largest = [], np.full(len(score), -np.inf)
    left = np.ones(len(score), bool)
    while len(chosen) < min(count, len(score)):
        value = score if not chosen else (1 - weight) * score - weight * largest
        place = int(np.argmax(np.where(left, value, -np.inf)))
        chosen.append(place)
        left[place], largest = False, np.maximum(largest, alike[place])
    return np.array(chosen, int)


def vote(labels: np.ndarray, index: np.ndarray, cosine: np.ndarray, temperature: float) -> np.ndarray:
    """Predicts by a vote of the neighbors, each weighing exp(cosine / temperature); a tie goes to the smaller label.

    Args:
      labels: int [n], labels of the gallery.
      index, cosine: [m, k], the neighbors of every query.

    Returns:
      int [m], predicted labels.
    """
    classes, position = np.unique(labels, return_inverse=True)
    predicted = np.empty(len(index), classes.dtype)
    step = max(1, _TILE // len(classes))
    for start in range(0, len(index), step):
        rows = slice(start, start + step)
        # A constant factor per row changes no vote and keeps exp() in range at small temperatures.
        weights = np.exp((cosine[rows] - cosine[rows].max(axis=1, keepdims=True)) / temperature)
        scores = np.zeros((len(weights), len(classes)), np.float64)
        np.add.at(scores, (np.arange(len(weights))[:, None], position[index[rows]]), weights)
        predicted[rows] = classes[scores.argmax(axis=1)]
    return predicted


def knn_predict(
    train: np.ndarray, labels: np.ndarray, queries: np.ndarray, k: int = 20, temperature: float = 0.07
) -> np.ndarray:
    """Returns the weighted kNN prediction int [m] for queries [m, F] from train [n, F] with labels [n]."""
    return vote(labels, *neighbors(train, queries, k), temperature)


# Few-shot classification: nearest class mean (SimpleShot, arXiv 1911.04623), and ridge regression in closed form.


FEW_SHOT_L2_VALUES = tuple(10.0**power for power in (-3, -2, -1, 0, 1, 2))
HELD_OUT = 2000  # rows that choose the L2


@dataclasses.dataclass(frozen=True)
class FewShot:
    """Result over several draws of the shots. hits: float32 [draws, m], 1 where a test row was classified correctly."""

    hits: np.ndarray

    @property
    def correct(self) -> np.ndarray:
        """float32 [m], share of the draws in which a test row was classified correctly."""
        return self.hits.mean(axis=0)

    @property
    def draws(self) -> np.ndarray:
        """float64 [draws], accuracy of each draw: how much the choice of the shots matters."""
        return self.hits.mean(axis=1, dtype=np.float64)


def draw_shots(labels: np.ndarray, shots: int, rng: np.random.Generator) -> np.ndarray:
    """Returns row numbers: `shots` random rows of every class, all rows of a class that has fewer."""
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    _, start, count = np.unique(labels[order], return_index=True, return_counts=True)
    return order[np.arange(len(order)) - np.repeat(start, count) < shots]


LabeledRows = tuple[np.ndarray, np.ndarray]  # features [n, F] and their labels, int [n]


def few_shot(train: LabeledRows, test: LabeledRows, shots: int, draws: int = 20, seed: int = 0) -> FewShot:
    """Accuracy on test from `shots` labeled rows per class of train.

    Features are centered with the mean of train and scaled to unit length; a class is the mean of its shots.
    """
    (train, train_labels), (test, test_labels) = train, test
    center = train.mean(axis=0, dtype=np.float64).astype(np.float32)
    train, test = unit_rows(train - center), unit_rows(test - center)
    rng = np.random.default_rng(seed)
    hits = np.zeros((draws, len(test)), np.float32)
    for draw in range(draws):
        rows = draw_shots(train_labels, shots, rng)
        classes, position = np.unique(train_labels[rows], return_inverse=True)
        means = np.zeros((len(classes), train.shape[1]), np.float32)
        np.add.at(means, position, train[rows])
        means /= np.bincount(position)[:, None]
        # argmin |x - c|^2 = argmax x.c - |c|^2 / 2
        predicted = classes[(test @ means.T - 0.5 * np.sum(means**2, axis=1)).argmax(axis=1)]
        hits[draw] = predicted == test_labels
    return FewShot(hits)


def ridge_scores(
    x: np.ndarray, labels: np.ndarray, queries: np.ndarray, l2_values: Sequence[float]
) -> tuple[list[np.ndarray], np.ndarray]:
    """Scores of a ridge regression to one-hot targets for every L2 value, all from one eigendecomposition.

    minimize  |Y - X W - b|^2 / s + l2 |W|^2  over the s rows of x; on the smaller of X'X [F, F] and X X' [s, s].

    Args:
      x: float [s, F]; labels: int [s]; queries: float [m, F].

    Returns:
      (scores [m, K] for each value, classes int [K] of their columns).
    """
    classes, position = np.unique(labels, return_inverse=True)
    targets = np.eye(len(classes))[position]
    center, bias = x.mean(axis=0, dtype=np.float64), targets.mean(axis=0)
    rows, targets, queries = x - center, targets - bias, queries - center
    if len(rows) <= rows.shape[1]:
        values, vectors = np.linalg.eigh(rows @ rows.T)
        left, right = queries @ (rows.T @ vectors), vectors.T @ targets
    else:
        values, vectors = np.linalg.eigh(rows.T @ rows)
        left, right = queries @ vectors, vectors.T @ (rows.T @ targets)
    values = np.maximum(values, 0)
    return [left @ (right / (values + len(x) * l2)[:, None]) + bias for l2 in l2_values], classes


def few_shot_ridge(
    train: LabeledRows,
    test: LabeledRows,
    shots: int,
    draws: int = 20,
    seed: int = 0,
    l2_values: Sequence[float] = FEW_SHOT_L2_VALUES,
) -> tuple[FewShot, float]:
    """Accuracy on test of ridge regression on `shots` labeled rows per class of train.

    Features are standardized over train. One L2 serves all draws: the most accurate on up to HELD_OUT training rows
    outside the shots of the draw (a tie goes to the larger); test rows choose nothing.

    Returns:
      (result, the L2).
    """
    (train, train_labels), (test, test_labels) = train, test
    standardize = fit_standardizer(train)
    train, test = standardize(train), standardize(test)
    rng = np.random.default_rng(seed)
    drawn = [draw_shots(train_labels, shots, rng) for _ in range(draws)]
    accuracy = np.zeros(len(l2_values))
    for rows in drawn:
        rest = np.setdiff1d(np.arange(len(train)), rows)
        rest = rng.choice(rest, min(HELD_OUT, len(rest)), replace=False)
        if len(rest):
            scores, classes = ridge_scores(train[rows], train_labels[rows], train[rest], l2_values)
            accuracy += [np.mean(classes[of.argmax(axis=1)] == train_labels[rest]) for of in scores]
    best = max(zip(accuracy, l2_values, strict=True))[1]
    hits = np.zeros((draws, len(test)), np.float32)
    for draw, rows in enumerate(drawn):
        (scores,), classes = ridge_scores(train[rows], train_labels[rows], test, [best])
        hits[draw] = classes[scores.argmax(axis=1)] == test_labels
    return FewShot(hits), best
