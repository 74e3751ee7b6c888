"""Calibration and ranking of a probe's scores: expected calibration error, area under the ROC curve.

Both come as one number per example whose mean is the metric: its bootstrap over examples gives the interval.
"""

import numpy as np

from xsample_jax.evals.geometry import ranks

BINS = 15


def softmax(logits: np.ndarray) -> np.ndarray:
    """Rows of probabilities, float64 [n, K]."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True), dtype=np.float64)
    return shifted / shifted.sum(axis=1, keepdims=True)


def calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> np.ndarray:
    """Expected calibration error (Guo et al. 2017, arXiv 1706.04599, eq. 3) as contributions, float64 [n].

    ECE = sum over bins of n_b / n |accuracy_b - confidence_b|, bins of equal width, closed on the right. The part of
    an example is (correct - confidence) with the sign of its bin, held fixed when examples are resampled.

    Args:
      confidence: [n], probability of the predicted class; correct: [n], 0 or 1.
    """
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    difference = correct.astype(np.float64) - confidence
    sign = np.sign(np.bincount(place, weights=difference, minlength=bins))
    return sign[place] * difference


def auc_contributions(scores: np.ndarray, labels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Area under the ROC curve, one class against the rest, mean over classes, as contributions, float64 [n].

    The mean of the contributions is the metric; they are its jackknife pseudo-values to first order (the structural
    components of DeLong et al. 1988). A class without examples, or that all examples have, is left out.

    Args:
      scores: [n, K], column j for classes[j]; labels: int [n]. Equal scores count one half.
    """
    count, found, total = len(labels), 0, np.zeros(len(labels))
    for column, label in enumerate(classes):
        positive = labels == label
        if not positive.any() or positive.all():
            continue
        found += 1
        everyone, score = ranks(scores[:, column]), scores[:, column]
        # Share of the other side that an example is ranked above (or, for a negative, below).
        above = (everyone[positive] - ranks(score[positive])) / (~positive).sum()
        below = 1 - (everyone[~positive] - ranks(score[~positive])) / positive.sum()
        area = above.mean()
        total += area
        total[positive] += count / positive.sum() * (above - area)
        total[~positive] += count / (~positive).sum() * (below - area)
    return total / found if found else np.full(count, np.nan)
