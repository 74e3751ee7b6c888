"""Linear probe in closed form: ridge regression to one-hot targets, every L2 value from one eigendecomposition.

minimise over W, b:  1/n sum_i |onehot(y_i) - W' x_i - b|^2 + l2 |W|^2      x standardised with the training statistics
W(l2) = Q (diag(lambda) + l2)^-1 Q' X'Y / n,   X'X / n = Q diag(lambda) Q',   b = mean of the one-hot targets.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

L2_VALUES = tuple(10.0**power for power in (-4, -3, -2.5, -2, -1.5, -1, -0.5, 0, 1))
_CHUNK = 16384
_matmul = jax.jit(functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST))


@dataclasses.dataclass(frozen=True)
class Standardiser:
    """Per-feature shift and scale: x -> (x - mean) / scale; a constant feature becomes zero."""

    mean: np.ndarray
    scale: np.ndarray

    def __call__(self, features: np.ndarray) -> np.ndarray:
        result = np.empty(features.shape, np.float32)
        for start in range(0, len(features), _CHUNK):  # a copy of all rows in float64 would be too much
            rows = slice(start, start + _CHUNK)
            result[rows] = (features[rows] - self.mean) / self.scale
        return result


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """Eigendecomposition of the second moments [F, F] of standardised training features."""

    standardise: Standardiser
    values: np.ndarray
    vectors: np.ndarray


@dataclasses.dataclass(frozen=True)
class LinearProbe:
    """A fitted probe: scores = standardise(x) @ weights [F, K] + bias [K]; column j stands for classes[j].

    Ridge scores estimate probabilities; those of `logistic.py` and `sgd_probe.py` are logits.
    """

    standardise: Standardiser
    weights: np.ndarray
    bias: np.ndarray
    classes: np.ndarray
    l2: float

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Returns float32 [m, K]."""
        parts = [
            np.asarray(_matmul(self.standardise(features[start : start + _CHUNK]), self.weights))
            for start in range(0, len(features), _CHUNK)
        ]
        return np.concatenate(parts) + self.bias

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Returns int [m], the class with the largest score."""
        return self.classes[self.scores(features).argmax(axis=1)]


def fit_standardiser(features: np.ndarray) -> Standardiser:
    """Mean and deviation of every feature over the rows [n, F]."""
    mean, squares = features.mean(axis=0, dtype=np.float64), 0.0
    for start in range(0, len(features), _CHUNK):
        squares += np.sum((features[start : start + _CHUNK] - mean) ** 2, axis=0)
    deviation = np.sqrt(squares / len(features))
    return Standardiser(mean, np.where(deviation > 1e-7 * max(deviation.max(), 1e-30), deviation, 1.0))


def spectrum(features: np.ndarray) -> Spectrum:
    """Standardises features [n, F] and decomposes their second moments; products on the device, sums in float64."""
    standardise = fit_standardiser(features)
    moments = np.zeros((features.shape[1],) * 2)
    for start in range(0, len(features), _CHUNK):
        part = standardise(features[start : start + _CHUNK])
        moments += np.asarray(_matmul(part.T, part), np.float64)
    values, vectors = np.linalg.eigh(moments / len(features))
    return Spectrum(standardise, np.maximum(values, 0.0), vectors)


def ridge_path(
    of: Spectrum, features: np.ndarray, labels: np.ndarray, l2_values: Sequence[float] = L2_VALUES
) -> list[LinearProbe]:
    """Fits one probe per L2 value on the features [n, F] that `of` was computed from; labels int [n]."""
    classes, position = np.unique(labels, return_inverse=True)
    one_hot = lambda rows: np.eye(len(classes), dtype=np.float32)[position[rows]]  # noqa: E731
    bias = (np.bincount(position, minlength=len(classes)) / len(features)).astype(np.float32)
    weights = ridge_weights(of, features, one_hot, l2_values)
    return [LinearProbe(of.standardise, w, bias, classes, l2) for w, l2 in zip(weights, l2_values, strict=True)]


def ridge_weights(
    of: Spectrum, features: np.ndarray, targets: Callable[[slice], np.ndarray], l2_values: Sequence[float]
) -> list[np.ndarray]:
    """W(l2) float32 [F, K] for every L2 value. `targets` gives the rows [., K] of the targets for a slice of rows."""
    cross = 0.0
    for start in range(0, len(features), _CHUNK):
        rows = slice(start, start + _CHUNK)
        cross += np.asarray(_matmul(of.standardise(features[rows]).T, targets(rows)), np.float64)
    rotated = of.vectors.T @ (cross / len(features))
    return [(of.vectors @ (rotated / (of.values + l2)[:, None])).astype(np.float32) for l2 in l2_values]


def hold_out(groups: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Returns bool [n]: True on all rows of a random `share` of the groups. No group stands on both sides.

    A single group is split by rows all the same.
    """
    names, position = np.unique(groups, return_inverse=True)
    if len(names) == 1:
        return np.arange(len(groups)) % max(round(1 / share), 2) == 0
    count = max(1, round(share * len(names)))
    chosen = np.zeros(len(names), bool)
    chosen[np.random.default_rng(seed).permutation(len(names))[:count]] = True
    return chosen[position]


def fit_probes(
    features: np.ndarray,
    targets: Mapping[str, np.ndarray],
    groups: np.ndarray,
    l2_values: Sequence[float] = L2_VALUES,
    share: float = 0.2,
    seed: int = 0,
) -> dict[str, LinearProbe]:
    """Fits one probe per target; its L2 is the best on held-out groups of the training rows, then all rows are used.

    Args:
      features: float [n, F]; targets: name -> int labels [n]; groups: int [n], e.g. the concept of every row, so that
        the choice of L2 rewards what carries over to unseen concepts.
      share: part of the groups held out for that choice; a tie goes to the larger L2.

    Two eigendecompositions in all, whatever the number of targets and of L2 values.
    """
    held = hold_out(groups, share, seed)
    inner, full = spectrum(features[~held]), spectrum(features)
    probes = {}
    for name, labels in targets.items():
        path = ridge_path(inner, features[~held], labels[~held], l2_values)
        accuracy = [(np.mean(probe.predict(features[held]) == labels[held]), probe.l2) for probe in path]
        probes[name] = ridge_path(full, features, labels, [max(accuracy)[1]])[0]
    return probes
