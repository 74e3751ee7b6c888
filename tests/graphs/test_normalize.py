"""Every normalizer against numpy loops: rows over the valid keys, and nothing anywhere else."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.quick import quick_jit
from xsample_jax.graphs.targets import NORMALIZERS, none, row_sum, sinkhorn, softmax

RNG = np.random.default_rng(0)
SIMILARITY = RNG.uniform(0, 1, (6, 9))
VALID = RNG.uniform(size=(6, 9)) > 0.3


@pytest.mark.parametrize("name", sorted(NORMALIZERS.keys() - {"none"}))
def test_rows_sum_to_one_over_valid_keys_only(name):
    target = NORMALIZERS[name](jnp.asarray(SIMILARITY), jnp.asarray(VALID), 0.1)
    np.testing.assert_allclose(target.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(target)[~VALID], 0)


def test_softmax_against_numpy_and_its_limits():
    similarity, valid = RNG.uniform(-1, 1, (4, 4)), ~np.eye(4, dtype=bool)
    for tau in (0.05, 1.0):
        e = np.where(valid, np.exp(similarity / tau), 0)
        np.testing.assert_allclose(softmax(similarity, valid, tau), e / e.sum(1, keepdims=True), rtol=1e-4)
    sharp = softmax(similarity, valid, 1e-4)
    np.testing.assert_array_equal(np.argmax(sharp, 1), np.argmax(np.where(valid, similarity, -9), 1))
    np.testing.assert_allclose(softmax(similarity, valid, 1e6)[valid], 1 / 3, rtol=1e-4)


def test_softmax_gives_nothing_to_a_key_that_a_source_has_ruled_out():
    similarity = jnp.asarray([[0.3, -1e9, 0.5]])
    target = softmax(similarity, jnp.ones((1, 3), bool), 0.05)
    np.testing.assert_allclose(target, [[1 / (1 + np.exp(4)), 0, 1 / (1 + np.exp(-4))]], rtol=1e-5)
    np.testing.assert_array_equal(softmax(similarity, jnp.zeros((1, 3), bool), 0.05), np.zeros((1, 3)))


def test_a_row_without_positives_stays_zero():
    target = row_sum(jnp.asarray([[0.0, 0.0], [0.0, 2.0]]), jnp.ones((2, 2), bool))
    np.testing.assert_array_equal(target, [[0, 0], [0, 1]])


def test_none_changes_nothing_but_invalid_pairs():
    np.testing.assert_array_equal(none(jnp.asarray(SIMILARITY), VALID), np.where(VALID, SIMILARITY, 0).astype("f4"))


def sinkhorn_loops(similarity, valid, eps, iterations):
    rows, columns = similarity.shape
    plan = [[np.exp(similarity[i, k] / eps) if valid[i, k] else 0.0 for k in range(columns)] for i in range(rows)]
    for _ in range(iterations):
        for k in range(columns):
            total = sum(plan[i][k] for i in range(rows))
            for i in range(rows):
                plan[i][k] *= rows / columns / total
        for i in range(rows):
            total = sum(plan[i])
            plan[i] = [value / total for value in plan[i]]
    return np.array(plan)


@pytest.mark.parametrize("iterations", [1, 3])
def test_sinkhorn_against_loops(iterations):
    got = quick_jit(lambda s: sinkhorn(s, VALID, 0.1, iterations=iterations))(SIMILARITY)
    expected = sinkhorn_loops(SIMILARITY, VALID, 0.1, iterations)
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-7)
    # Rows come last: after few iterations only they are exact.
    assert np.abs(expected.sum(axis=0) - 6 / 9).max() > 1e-3


def test_sinkhorn_balances_columns_after_many_iterations_and_survives_large_similarities():
    similarity, valid = RNG.normal(size=(12, 5)), np.ones((12, 5), bool)
    got = sinkhorn(jnp.asarray(similarity), valid, 0.5, iterations=100)
    np.testing.assert_allclose(got.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(got.sum(axis=0), 12 / 5, rtol=1e-4)
    moved = sinkhorn(jnp.asarray(similarity + 1e3), valid, 0.5, iterations=100)
    np.testing.assert_allclose(moved, got, rtol=1e-2)


def test_every_row_of_sinkhorn_is_a_distribution_however_far_rows_are_apart():
    """faults A2: two of three rows were zeros, and so in no loss."""
    similarity, valid = np.array([[0.95, 0.1, 0.2], [0.2, 0.15, 0.1], [0.3, 0.25, 0.2]]), np.ones((3, 3), bool)
    got = sinkhorn(jnp.asarray(similarity), valid, 0.005)
    np.testing.assert_allclose(got.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(got, sinkhorn_loops(similarity, valid, 0.005, 3), rtol=1e-3, atol=1e-6)
    valid[1] = False
    got = sinkhorn(jnp.asarray(similarity), valid, 0.005)
    np.testing.assert_array_equal(got[1], 0)
    assert np.isfinite(got).all()
