"""Calibration error against its definition bin by bin, AUC against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from xsample_jax.evals.metrics import Scores, auc_contributions, bootstrap, calibration_error, softmax


@pytest.fixture
def predictions():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 300)
    logits = rng.normal(size=(300, 4)) * 2
    logits[np.arange(300), labels] += 1.5
    return softmax(logits), labels


def test_calibration_error_is_its_definition(predictions):
    probabilities, labels = predictions
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    expected = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            expected += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    assert calibration_error(confidence, correct).mean() == pytest.approx(expected, abs=1e-9)
    assert expected > 0.02


def test_a_calibrated_prediction_has_no_error_and_a_sure_wrong_one_has_all():
    assert calibration_error(np.full(4, 0.75), np.array([1, 1, 1, 0])).mean() == pytest.approx(0)
    assert calibration_error(np.ones(3), np.zeros(3)).mean() == pytest.approx(1)
    assert calibration_error(np.full(2, 0.5), np.ones(2)).mean() == pytest.approx(0.5)


def test_auc_is_sklearns_one_against_the_rest(predictions):
    probabilities, labels = predictions
    area = auc_contributions(probabilities, labels, np.arange(4))
    assert area.mean() == pytest.approx(roc_auc_score(labels, probabilities, multi_class="ovr", average="macro"))
    coarse = np.round(probabilities, 1)  # many ties
    expected = np.mean([roc_auc_score(labels == c, coarse[:, c]) for c in range(4)])
    assert auc_contributions(coarse, labels, np.arange(4)).mean() == pytest.approx(expected)


def test_a_class_that_is_not_there_is_left_out(predictions):
    probabilities, labels = predictions
    keep = labels != 2
    expected = np.mean([roc_auc_score(labels[keep] == c, probabilities[keep, c]) for c in (0, 1, 3)])
    assert auc_contributions(probabilities[keep], labels[keep], np.arange(4)).mean() == pytest.approx(expected)


def test_contributions_give_the_interval_of_a_full_bootstrap(predictions):
    probabilities, labels = predictions
    interval = bootstrap([Scores(auc_contributions(probabilities, labels, np.arange(4)), np.arange(300))])
    rng = np.random.default_rng(1)
    draws = []
    for _ in range(200):
        rows = rng.integers(0, 300, 300)
        draws.append(roc_auc_score(labels[rows], probabilities[rows], multi_class="ovr"))
    low, high = np.quantile(draws, [0.025, 0.975])
    assert interval.high - interval.low == pytest.approx(high - low, rel=0.2)
    assert interval.low == pytest.approx(low, abs=0.01)
