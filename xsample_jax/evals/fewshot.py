"""Few-shot classification by the nearest class mean of centred unit features (SimpleShot, arXiv 1911.04623)."""

import dataclasses

import numpy as np

from xsample_jax.evals.knn import unit_rows


@dataclasses.dataclass(frozen=True)
class FewShot:
    """Result over several draws of the shots.

    Attributes:
      correct: float32 [m], share of the draws in which a test row was classified correctly.
      draws: float64 [draws], accuracy of each draw.
      mean: mean accuracy; low, high: central 95% of the draws (how much the choice of the shots matters).
    """

    correct: np.ndarray
    draws: np.ndarray
    mean: float
    low: float
    high: float


def draw_shots(labels: np.ndarray, shots: int, rng: np.random.Generator) -> np.ndarray:
    """Returns row numbers: `shots` random rows of every class, all rows of a class that has fewer."""
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    _, start, count = np.unique(labels[order], return_index=True, return_counts=True)
    return order[np.arange(len(order)) - np.repeat(start, count) < shots]


def few_shot(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    shots: int,
    draws: int = 20,
    seed: int = 0,
) -> FewShot:
    """Accuracy on test [m, F] from `shots` labelled rows per class of train [n, F]; labels are int arrays.

    Features are centred with the mean of train and scaled to unit length; a class is the mean of its shots.
    """
    centre = train.mean(axis=0, dtype=np.float64).astype(np.float32)
    train, test = unit_rows(train - centre), unit_rows(test - centre)
    rng = np.random.default_rng(seed)
    correct = np.zeros((draws, len(test)), np.float32)
    for draw in range(draws):
        rows = draw_shots(train_labels, shots, rng)
        classes, position = np.unique(train_labels[rows], return_inverse=True)
        means = np.zeros((len(classes), train.shape[1]), np.float32)
        np.add.at(means, position, train[rows])
        means /= np.bincount(position)[:, None]
        # argmin |x - c|^2 = argmax x.c - |c|^2 / 2
        predicted = classes[(test @ means.T - 0.5 * np.sum(means**2, axis=1)).argmax(axis=1)]
        correct[draw] = predicted == test_labels
    accuracy = correct.mean(axis=1, dtype=np.float64)
    low, high = np.quantile(accuracy, [0.025, 0.975])
    return FewShot(correct.mean(axis=0), accuracy, float(accuracy.mean()), float(low), float(high))
