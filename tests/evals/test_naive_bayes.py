"""Naive Bayes against a published implementation and scikit-learn, and its race with logistic regression."""

import json
import pathlib

import numpy as np
import pytest
from sklearn.naive_bayes import GaussianNB

from xsample_jax.evals import labels, linear_probes
from xsample_jax.evals.labels import add_crossing, crossing, curves, sizes_of
from xsample_jax.evals.linear_probes import SMOOTHING, fit_naive_bayes
from xsample_jax.evals.metrics import Collector, softmax

HERE = pathlib.Path(__file__).parent
CASES = {case["name"]: case for case in json.loads((HERE / "goldens.json").read_text())["cases"]}
COMMON = json.loads((HERE.parent / "objectives" / "goldens.json").read_text())["common"]
Z1, Z2, Z3, LABELS = (np.asarray(COMMON[name]) for name in ("z1", "z2", "z3", "labels"))


def test_naive_bayes_is_the_published_one():
    case = CASES["naive Bayes probe with shared diagonal variances"]
    x, y = np.concatenate([Z1, Z2]), np.tile(LABELS, 2)
    probe = fit_naive_bayes(x, y)
    posterior = softmax(probe.scores(Z3))
    assert np.log(posterior[np.arange(12), LABELS]).mean() == pytest.approx(case["expected"], rel=1e-5)
    assert probe.predict(Z3).tolist() == case["also"]["predictions"]
    # Written on the features themselves: weights mu / var, and the square of x dropped.
    variance, center = np.asarray(case["also"]["pooled_variance"]), probe.standardize.mean
    weights = probe.weights / probe.standardize.scale[:, None] + (center / variance)[:, None]
    bias = probe.bias - center @ weights + np.sum(center**2 / (2 * variance))
    assert np.linalg.norm(weights) == pytest.approx(case["also"]["linear_weight_norm"], rel=1e-5)
    np.testing.assert_allclose(bias, case["also"]["linear_bias"], rtol=1e-5)


def test_equal_variances_of_the_classes_are_sklearns(monkeypatch):
    """Of classes that have the same variances, sklearn's own variance for each class is the pooled one."""
    monkeypatch.setattr(linear_probes, "_CHUNK", 7)  # sums of parts add up
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(30, 5)) * [1, 2, 0.1, 30, 5]
    x = np.concatenate([noise + shift for shift in 2 * rng.normal(size=(3, 5))]) + 100
    y = np.repeat([7, 3, 9], 30)
    x, y = x[5:], y[5:]  # classes of different sizes; the first class keeps nearly its variance
    ours = softmax(fit_naive_bayes(x, y).scores(x))
    means, share = np.stack([x[y == c].mean(axis=0) for c in (3, 7, 9)]), np.array([30, 25, 30]) / 85
    variance = sum(s * x[y == c].var(axis=0) for s, c in zip(share, (3, 7, 9), strict=True)) + SMOOTHING
    logits = np.log(share) - ((x[:, None] - means) ** 2 / (2 * variance)).sum(axis=2)
    np.testing.assert_allclose(ours, softmax(logits), atol=2e-5)
    peer = GaussianNB(var_smoothing=0).fit(x[25:], y[25:])
    np.testing.assert_allclose(
        softmax(fit_naive_bayes(x[25:], y[25:]).scores(x)), peer.predict_proba(x)[:, :], atol=2e-5
    )


def test_a_constant_feature_and_single_rows_stay_finite():
    x = np.array([[5.0, 1.0], [5.0, 2.0], [5.0, 4.0]], np.float32)
    probe = fit_naive_bayes(x, np.array([0, 1, 2]))  # no variance within any class
    assert probe.predict(x).tolist() == [0, 1, 2]
    assert np.isfinite(probe.scores(np.array([[6.0, 3.9]]))).all()


def gaussians(seed, rows, width=60, shared=0.0):
    """Two classes of diagonal Gaussians a little apart; `shared`: size of a noise that all features have in common."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, rows)
    shift = np.linspace(0, 0.8, width)
    x = rng.normal(size=(rows, width)) + np.outer(2 * y - 1, shift / 2) + shared * rng.normal(size=(rows, 1))
    return x.astype(np.float32), y


def test_naive_bayes_leads_with_few_labels_and_is_overtaken_where_features_hang_together():
    """Ng and Jordan 2001; arXiv 2302.02334: fewer labels where the assumption holds, a worse limit where not."""
    gap = {}
    for shared in (0.0, 2.0):
        hits = curves(*gaussians(1, 1000, shared=shared), *gaussians(99, 1500, shared=shared), (120, 1000))
        gap[shared] = np.mean(hits["naive_bayes"] - hits["logistic"], axis=(1, 2))
    assert gap[0.0][0] > 0.01
    assert gap[0.0][0] > gap[0.0][1] + 0.004  # with more labels logistic regression catches up
    assert gap[2.0][1] < -0.2


def test_the_crossing_is_the_last_one_on_the_log_scale():
    sizes = (10, 100, 1000)
    assert crossing(sizes, np.array([-0.1, 0.1, 0.3])) == pytest.approx(10**1.5)
    assert crossing(sizes, np.array([0.2, -0.1, 0.3])) == pytest.approx(10**2.25)
    ends = crossing(sizes, np.array([[0.2, -0.1], [0.1, 0.2], [0.3, -0.3]]))
    np.testing.assert_allclose(ends, [10, 1000])


@pytest.mark.parametrize(
    ("means", "found", "words"),
    [((-0.3, 0.3, 0.6), True, None), ((0.1, 0.2, 0.3), False, "ahead at 10 already"),
     ((-0.3, 0.2, -0.2), False, "not behind at 1,000"), ((-0.01, 0.02, 0.6), True, "interval ends at the smallest")],
)  # fmt: skip
def test_a_crossing_has_an_interval_or_a_note(means, found, words):
    rng, out = np.random.default_rng(0), Collector()
    ahead = np.clip(np.round(rng.normal(size=(3, 5, 200)) * 0.7), -1, 1)
    ahead += np.array(means)[:, None, None] - ahead.mean(axis=(1, 2), keepdims=True)
    add_crossing(out, "label", (10, 100, 1000), ahead.astype(np.float32), np.arange(200))
    assert ("curve/crossing/label" in out.metrics) == found
    assert words is None or words in " ".join(out.notes)
    if found:
        interval = out.intervals["curve/crossing/label"]
        assert 10 <= interval.low <= out.metrics["curve/crossing/label"] <= interval.high < 1000


def test_sizes_are_even_on_a_log_scale_up_to_the_rows_there_are():
    assert sizes_of(2560, 10) == (20, 40, 80, 160, 320, 640, 1280, 2560)
    assert sizes_of(7, 10) == (7,)
    assert sizes_of(10**6, 10)[-1] == labels.MOST_ROWS
