"""kNN, ridge probe and few-shot against scikit-learn and plain loops."""

import functools
import types

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.preprocessing import StandardScaler

from xsample_jax.evals import knn
from xsample_jax.evals.context import PROBES, EvalContext, Options
from xsample_jax.evals.features import Features
from xsample_jax.evals.knn import draw_shots, few_shot, few_shot_ridge, ridge_scores
from xsample_jax.evals.linear_probes import fit_probes, hold_out, ridge_path, spectrum


def clusters(rows, classes, width=24, spread=1.6, seed=0):
    """Gaussian classes with unequal sizes and labels that are not 0..K-1."""
    rng = np.random.default_rng(seed)
    means = np.random.default_rng(99).normal(size=(classes, width))
    position = rng.choice(classes, rows, p=np.arange(1, classes + 1) / (classes * (classes + 1) / 2))
    x = means[position] + spread * rng.normal(size=(rows, width))
    return (x * np.linspace(0.1, 10, width) + 3).astype(np.float32), 10 + 3 * position


@pytest.fixture(scope="module")
def data():
    return (*clusters(500, 7), *clusters(211, 7, seed=1))


def test_knn_is_sklearns_knn_with_softmax_weights(data):
    x, y, queries, truth = data
    unit = lambda a: a / np.linalg.norm(a, axis=1, keepdims=True)  # noqa: E731
    # On unit rows |a - b|^2 = 2 - 2 cos.
    weights = lambda distance: np.exp((1 - distance**2 / 2) / 0.07)  # noqa: E731
    peer = KNeighborsClassifier(20, weights=weights, algorithm="brute").fit(unit(x), y)
    ours = knn.knn_predict(x, y, queries, k=20, temperature=0.07)
    assert np.mean(ours == peer.predict(unit(queries))) > 0.995  # float32 ties at rank 20
    assert np.mean(ours == truth) > 0.4


def test_neighbors_do_not_depend_on_the_chunk(data, monkeypatch):
    x, _, queries, _ = data
    whole = knn.neighbors(x, queries, 5)
    monkeypatch.setattr(knn, "_TILE", 64 * len(x))  # 211 queries = 3 chunks of 64 and a rest of 19
    index, cosine = knn.neighbors(x, queries, 5)
    np.testing.assert_array_equal(index, whole[0])
    np.testing.assert_allclose(cosine, whole[1], atol=1e-6)
    for row in (0, 100, 210):
        every = x @ queries[row] / np.linalg.norm(x, axis=1) / np.linalg.norm(queries[row])
        np.testing.assert_array_equal(index[row], np.argsort(-every)[:5])


def test_neighbors_do_not_depend_on_the_devices(data, monkeypatch):
    x, _, queries, _ = data
    x = -np.abs(x[:-1])  # cosines below zero, where rows of padding would win; 499 rows on eight devices
    one = knn.neighbors(x, np.abs(queries), 500)
    monkeypatch.setattr(knn, "on_devices", functools.partial(knn.on_devices, small=0))
    eight = knn.neighbors(x, np.abs(queries), 500)
    assert one[0].shape == eight[0].shape == (211, 499)
    np.testing.assert_array_equal(np.sort(eight[0], axis=1), np.sort(one[0], axis=1))
    np.testing.assert_allclose(eight[1], one[1], atol=1e-6)


def test_vote_weighs_near_neighbors_more_and_survives_a_tiny_temperature():
    index, cosine = np.array([[0, 1, 2]]), np.array([[0.9, 0.5, 0.5]], np.float32)
    labels = np.array([7, 3, 3])
    assert knn.vote(labels, index, cosine, 0.1) == [7]  # e^4 against 2
    assert knn.vote(labels, index, cosine, 1.0) == [3]  # e^0.4 = 1.49 against 2
    assert knn.vote(labels, index, cosine, 1e-4) == [7]  # exp(0.9 / 1e-4) overflows float64


@pytest.mark.parametrize("l2", [1e-3, 0.1, 3.0])
def test_ridge_is_sklearns_ridge_classifier(data, l2):
    x, y, queries, _ = data
    scaler = StandardScaler().fit(x)
    peer = RidgeClassifier(alpha=l2 * len(x)).fit(scaler.transform(x), y)
    ours = ridge_path(spectrum(x), x, y, [l2])[0]
    # Its targets are -1 and 1, ours 0 and 1.
    np.testing.assert_allclose(
        2 * ours.scores(queries) - 1, peer.decision_function(scaler.transform(queries)), atol=2e-5
    )
    np.testing.assert_array_equal(ours.predict(queries), peer.predict(scaler.transform(queries)))


def test_ridge_ignores_a_constant_feature(data):
    x, y, queries, _ = data
    widened = [np.concatenate([a, np.full((len(a), 1), 5, np.float32)], axis=1) for a in (x, queries)]
    narrow = ridge_path(spectrum(x), x, y, [0.1])[0].scores(queries)
    np.testing.assert_allclose(
        ridge_path(spectrum(widened[0]), widened[0], y, [0.1])[0].scores(widened[1]), narrow, atol=1e-5
    )


def test_probe_is_near_logistic_regression(data):
    x, y, queries, truth = data
    probe = fit_probes(x, {"label": y}, groups=np.arange(len(x)))["label"]
    scaler = StandardScaler().fit(x)
    peer = LogisticRegression(max_iter=500).fit(scaler.transform(x), y)
    difference = np.mean(probe.predict(queries) == truth) - peer.score(scaler.transform(queries), truth)
    assert abs(difference) < 0.06


def test_l2_is_the_best_on_held_out_groups(data):
    x, y, _, _ = data
    groups = np.arange(len(x)) // 4
    kept, held = hold_out(groups, 0.2, seed=0)
    assert not set(groups[held]) & set(groups[kept])
    assert len(set(groups[held])) == 25
    values = (1e-3, 0.1, 1.0, 30.0)
    best, accuracy = None, -1.0
    for l2 in values:
        scaler = StandardScaler().fit(x[kept])
        peer = RidgeClassifier(alpha=l2 * np.sum(~held)).fit(scaler.transform(x[kept]), y[kept])
        score = peer.score(scaler.transform(x[held]), y[held])
        if score >= accuracy:
            best, accuracy = l2, score
    assert fit_probes(x, {"a": y}, groups, values)["a"].l2 == best


@pytest.mark.parametrize("kind", ["ridge", "logistic", "sgd"])
def test_a_single_training_row_makes_a_probe_that_always_says_its_class(kind):
    """faults D: the only row was held out, and nothing was left to fit to."""
    row, queries = np.float32([[1.0, 2.0]]), np.float32([[0.0, 0.0], [3.0, 1.0]])
    probe = PROBES[kind](row, np.array([4]), np.array([0]), Options())
    assert probe.predict(queries).tolist() == [4, 4]


def test_shots_are_exact_and_differ_between_draws():
    labels = np.repeat([4, 9, 2], [10, 3, 6])
    first = draw_shots(labels, 5, np.random.default_rng(0))
    assert sorted(labels[first].tolist()) == [2] * 5 + [4] * 5 + [9] * 3
    assert len(set(first.tolist())) == len(first)
    assert set(first.tolist()) != set(draw_shots(labels, 5, np.random.default_rng(1)).tolist())


def test_few_shot_is_nearest_centroid_on_centered_unit_features(data):
    x, y, queries, truth = data
    result = few_shot((x, y), (queries, truth), shots=5, draws=4, seed=3)
    unit = lambda a: (a - x.mean(0)) / np.linalg.norm(a - x.mean(0), axis=1, keepdims=True)  # noqa: E731
    rng = np.random.default_rng(3)
    for draw in range(4):
        rows = draw_shots(y, 5, rng)
        peer = NearestCentroid().fit(unit(x)[rows], y[rows])
        assert result.draws[draw] == pytest.approx(peer.score(unit(queries), truth), abs=1.5 / len(truth))
    assert result.draws.std() > 0
    assert result.correct.mean() == pytest.approx(result.draws.mean(), abs=1e-6)


@pytest.mark.parametrize("rows", [15, 400])  # fewer and more rows than the 24 features
def test_ridge_scores_are_sklearns_ridge_for_every_l2(data, rows):
    x, y, queries, _ = data
    x, y = x[:rows], y[:rows]
    values = (1e-3, 0.1, 10.0)
    scores, classes = ridge_scores(x, y, queries, values)
    targets = (y[:, None] == classes).astype(float)
    for of, l2 in zip(scores, values, strict=True):
        np.testing.assert_allclose(of, Ridge(alpha=l2 * rows).fit(x, targets).predict(queries), atol=1e-3)


def test_few_shot_ridge_takes_its_l2_from_training_rows_that_are_no_shots(data):
    x, y, queries, truth = data
    values = (1e-4, 1.0, 1e4)
    result, l2 = few_shot_ridge((x, y), (queries, truth), shots=3, draws=5, seed=2, l2_values=values)
    scaler = StandardScaler().fit(x)
    rng = np.random.default_rng(2)
    drawn = [draw_shots(y, 3, rng) for _ in range(5)]
    accuracy = dict.fromkeys(values, 0.0)
    for rows in drawn:
        rest = np.setdiff1d(np.arange(len(x)), rows)  # fewer than 2,000: all of them
        for value in values:
            peer = RidgeClassifier(alpha=value * len(rows)).fit(scaler.transform(x)[rows], y[rows])
            accuracy[value] += peer.score(scaler.transform(x)[rest], y[rest])
    assert l2 == max(values, key=lambda value: (accuracy[value], value))
    for draw, rows in enumerate(drawn):
        peer = RidgeClassifier(alpha=l2 * len(rows)).fit(scaler.transform(x)[rows], y[rows])
        assert result.draws[draw] == pytest.approx(peer.score(scaler.transform(queries), truth), abs=1.5 / len(truth))


@pytest.mark.parametrize("alone", ["all", "but one", "none"])
def test_an_attribute_that_says_what_the_label_says_holds_out_images(data, alone):
    """faults D2: whole classes were held out, so that every L2 was as bad as another and the largest one was taken."""
    x, y, queries, truth = data
    first, second = np.unique(y)[:2]
    kind_of = {
        "all": lambda y: y - first,
        "but one": lambda y: np.where(y == second, first, y),
        "none": lambda y: y % 2,
    }
    splits = {
        name: Features(rows, None, np.arange(len(rows)), labels, {"kind": kind_of[alone](labels)})
        for name, rows, labels in (("train", x, y), ("test", queries, truth))
    }
    config = types.SimpleNamespace(
        eval=types.SimpleNamespace(split="test", train_split="train"), data=types.SimpleNamespace(source="records")
    )
    rows = EvalContext(splits.get, config, Options(target="kind")).labeled
    whole = {"all": [], "but one": [first, second], "none": np.unique(y)}[alone]
    together = np.isin(y, whole)
    np.testing.assert_array_equal(rows.groups[together], y[together])
    assert len(np.unique(rows.groups)) == len(whole) + np.sum(~together)
