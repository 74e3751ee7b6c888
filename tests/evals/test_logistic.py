"""Logistic probes against scikit-learn, the SGD probe against a plain loop."""

import dataclasses

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from tests.evals.test_classifiers import clusters
from xsample_jax.evals import features as device_rows
from xsample_jax.evals.linear_probes import (
    SgdProtocol,
    fit_logistic,
    fit_sgd,
    hold_out,
    logistic_path,
    order_of,
    sgd_path,
)
from xsample_jax.evals.metrics import softmax


@pytest.fixture(scope="module")
def data():
    return (*clusters(300, 5, width=12), *clusters(150, 5, width=12, seed=1))


def sklearn_probabilities(x, y, queries, l2):
    scaler = StandardScaler().fit(x)
    peer = LogisticRegression(C=1 / (l2 * len(x)), tol=1e-8, max_iter=5000).fit(scaler.transform(x), y)
    return peer.predict_proba(scaler.transform(queries)), peer.classes_


def test_logistic_is_sklearns_logistic_regression_for_every_l2(data):
    x, y, queries, _ = data
    values = (0.1, 1e-3)
    for probe, l2 in zip(logistic_path(x, y, values), values, strict=True):
        expected, classes = sklearn_probabilities(x, y, queries, l2)
        np.testing.assert_array_equal(probe.classes, classes)
        np.testing.assert_allclose(softmax(probe.scores(queries)), expected, atol=2e-3)


@pytest.mark.parametrize(("classes", "factor"), [(2, 2), (3, 1), (5, 1)])
def test_the_c_of_scikit_learn_for_two_classes_and_for_more(classes, factor):
    """faults D9: with two classes scikit-learn has one weight vector, whose penalty is twice that of a pair."""
    x, y = clusters(200, classes, width=6)
    x, l2 = StandardScaler().fit_transform(x + np.random.default_rng(0).normal(size=x.shape)).astype(np.float32), 0.03
    (probe,) = logistic_path(x, y, [l2])
    peer = LogisticRegression(C=factor / (l2 * len(x)), tol=1e-9, max_iter=5000).fit(x, y)
    ours = probe.weights[:, 1] - probe.weights[:, 0] if classes == 2 else probe.weights
    theirs = peer.coef_[0] if classes == 2 else peer.coef_.T
    np.testing.assert_allclose(ours, theirs, atol=1e-3)
    other = LogisticRegression(C=1.5 / (l2 * len(x)), tol=1e-9, max_iter=5000).fit(x, y)
    assert np.abs(ours - (other.coef_[0] if classes == 2 else other.coef_.T)).max() > 5e-3


def test_rows_spread_over_devices_give_the_same_probe(data, monkeypatch):
    x, y, queries, _ = data
    x, y = x[:299], y[:299]  # not a multiple of the eight devices: five rows of padding
    one = logistic_path(x, y, [0.01])[0].scores(queries)
    sizes = []
    spread = device_rows.on_devices

    def on_devices(rows, blocks):
        sizes.append(spread(rows, small=0, blocks=blocks))
        return sizes[-1]

    monkeypatch.setattr("xsample_jax.evals.linear_probes.on_devices", on_devices)
    monkeypatch.setattr("xsample_jax.evals.linear_probes.LOGITS", 500)  # three blocks of 299 * 5 logits
    eight = logistic_path(x, y, [0.01])[0].scores(queries)
    assert len(sizes[0].sharding.device_set) == 8
    assert sizes[0].shape == (312, 12)
    np.testing.assert_allclose(eight, one, atol=2e-3)


def test_l2_is_the_most_accurate_on_held_out_training_groups(data):
    x, y, _, _ = data
    groups = np.arange(len(x)) // 3
    kept, held = hold_out(groups, 0.2, seed=0)
    values = (10.0, 0.1, 1e-4)
    accuracy = []
    for l2 in values:
        probabilities, classes = sklearn_probabilities(x[kept], y[kept], x[held], l2)
        accuracy.append((np.mean(classes[probabilities.argmax(axis=1)] == y[held]), l2))
    assert len({score for score, _ in accuracy}) > 1  # the choice matters here
    assert fit_logistic(x, y, groups, values).l2 == max(accuracy)[1]


def test_sgd_is_a_plain_loop_of_momentum_and_cosine(data):
    x, y, queries, _ = data
    protocol = SgdProtocol(learning_rates=(0.05, 0.4), epochs=3, batch_size=64, weight_decay=1e-2)
    probes = sgd_path(x, y, protocol, seed=5)
    scaler = StandardScaler().fit(x)
    features, classes = scaler.transform(x), np.unique(y)
    targets = (y[:, None] == classes).astype(float)
    for probe, rate in zip(probes, protocol.learning_rates, strict=True):
        w, b = np.zeros((12, 5)), np.zeros(5)
        speed_w, speed_b, step, steps = np.zeros_like(w), np.zeros_like(b), 0, 3 * (300 // 64)
        for epoch in range(3):
            order = np.asarray(order_of(5, epoch, 300))
            assert sorted(order) == list(range(300))
            for start in range(0, 300 - 63, 64):
                rows = order[start : start + 64]
                error = (softmax(features[rows] @ w + b) - targets[rows]) / 64
                speed_w = 0.9 * speed_w + features[rows].T @ error + 1e-2 * w
                speed_b = 0.9 * speed_b + error.sum(axis=0)
                scale = rate * 64 / 256 * 0.5 * (1 + np.cos(np.pi * step / steps))
                w, b, step = w - scale * speed_w, b - scale * speed_b, step + 1
        assert step == steps
        np.testing.assert_allclose(probe.scores(queries), scaler.transform(queries) @ w + b, atol=1e-4)


def test_sgd_takes_the_rate_that_is_best_on_held_out_rows(data):
    x, y, queries, truth = data
    protocol = SgdProtocol(learning_rates=(1e-5, 0.5), epochs=10, batch_size=64)
    chosen = fit_sgd(x, y, protocol=protocol)
    alone = sgd_path(x, y, dataclasses.replace(protocol, learning_rates=(0.5,)))[0]
    np.testing.assert_allclose(chosen.weights, alone.weights, atol=1e-6)  # 1e-5 has hardly moved after ten epochs
    expected, classes = sklearn_probabilities(x, y, queries, 1e-2)
    assert np.mean(chosen.predict(queries) == truth) == pytest.approx(
        np.mean(classes[expected.argmax(axis=1)] == truth), abs=0.08
    )


def test_small_rows_stay_on_one_device():
    rows = np.arange(30.0).reshape(10, 3)
    assert len(device_rows.on_devices(rows).sharding.device_set) == 1
    spread = device_rows.on_devices(rows, small=29)
    assert len(spread.sharding.device_set) == len(jax.devices())
    np.testing.assert_array_equal(np.asarray(spread)[:10], rows)
    assert not np.asarray(spread)[10:].any()
