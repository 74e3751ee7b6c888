"""Weighted k-nearest-neighbour classification by cosine (Wu et al. 2018, arXiv 1805.01978, section 3.4)."""

import jax
import jax.numpy as jnp
import numpy as np

from xsample_jax.data.embedding_rows import unit_rows
from xsample_jax.evals.device_rows import everywhere, on_devices

# One similarity tile holds at most this many numbers (128 MiB in float32), whatever the sizes of the two sets.
_TILE = 2**25


def _nearest(gallery: jax.Array, queries: jax.Array, count: int, k: int) -> tuple[jax.Array, jax.Array]:
    cosine = jnp.matmul(queries, gallery.T, precision=jax.lax.Precision.HIGHEST)
    return jax.lax.top_k(jnp.where(jnp.arange(len(gallery)) < count, cosine, -2.0), k)


def neighbours(gallery: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Finds the k rows of the gallery with the largest cosine to every query, best first.

    Args:
      gallery: float [n, F]; queries: float [m, F]; rows need not be normalised.
      k: at most n neighbours are returned.

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


def vote(labels: np.ndarray, index: np.ndarray, cosine: np.ndarray, temperature: float) -> np.ndarray:
    """Predicts by a vote of the neighbours, each weighing exp(cosine / temperature); a tie goes to the smaller label.

    Args:
      labels: int [n], labels of the gallery.
      index, cosine: [m, k], the neighbours of every query.

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
    return vote(labels, *neighbours(train, queries, k), temperature)
