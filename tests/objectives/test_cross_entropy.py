"""The equation in every form against float64 loops, its gradients against finite differences, and its identities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.quick import quick_jit
from xsample_jax.objectives.cross_entropy import (
    AGGREGATES,
    Pairing,
    cross_entropy,
    entropy,
    log_sum,
    mean_over_rows,
    own,
    rank,
    rank_log_denominators,
    shared,
    views,
)

RNG = np.random.default_rng(0)
ROWS, KEYS, VIEWS = 6, 8, 2
LOGITS = 3 * RNG.normal(size=(ROWS, KEYS))
TARGET = RNG.uniform(size=(ROWS, KEYS)) * (RNG.uniform(size=(ROWS, KEYS)) < 0.6)
TARGET[0] = np.eye(KEYS)[3]  # one positive
TARGET /= TARGET.sum(axis=1, keepdims=True)
WEIGHT = RNG.uniform(0.2, 2, (ROWS, KEYS)) * (RNG.uniform(size=(ROWS, KEYS)) < 0.8)
ATTRACTION, REPULSION = RNG.uniform(0.5, 2, ROWS), RNG.uniform(0.5, 2, ROWS)
ORDER = np.round(RNG.uniform(size=(ROWS, KEYS)), 1)  # with ties
PAIR_VIEW = RNG.integers(-1, VIEWS, (ROWS, KEYS))


def weight_of(kind):
    """A key of weight 0 that is the least similar one has an empty rank denominator: there all weights are positive."""
    return np.maximum(WEIGHT, 0.1) if kind == "rank" else WEIGHT


def log_denominator(kind, logits, i, k):
    """R_ik in loops."""
    with np.errstate(divide="ignore"):
        terms = [weight_of(kind)[i, j] * np.exp(logits[i, j]) for j in range(KEYS)]
        if kind == "shared":
            return np.log(sum(terms))
        if kind == "own":
            return np.log(np.exp(logits[i, k]) + sum(terms))
        if kind == "views":
            groups = [sum(terms[j] for j in range(KEYS) if PAIR_VIEW[i, j] == view) for view in range(VIEWS)]
            return sum(np.log(group) for group in groups if group > 0)
        return np.log(sum(terms[j] for j in range(KEYS) if ORDER[i, j] <= ORDER[i, k]))


def in_loops(kind, aggregate, logits):
    rows = []
    for i in range(ROWS):
        positives = [k for k in range(KEYS) if TARGET[i, k] > 0]
        if aggregate == "in":
            attracted = np.log(sum(TARGET[i, k] * np.exp(logits[i, k]) for k in positives))
            rows.append(REPULSION[i] * log_denominator(kind, logits, i, 0) - ATTRACTION[i] * attracted)
        else:
            pairs = [
                TARGET[i, k] * (REPULSION[i] * log_denominator(kind, logits, i, k) - ATTRACTION[i] * logits[i, k])
                for k in positives
            ]
            rows.append(sum(pairs))
    return np.array(rows)


def ours(kind, aggregate, logits, repulsion=REPULSION, attraction=ATTRACTION):
    pairing = Pairing({}, {}, jnp.asarray(PAIR_VIEW), VIEWS)
    weight = jnp.asarray(weight_of(kind))
    if kind == "rank":
        denominator = rank_log_denominators(logits, weight, jnp.asarray(ORDER))
    else:
        denominator = {"shared": shared, "own": own, "views": views}[kind](logits, weight, pairing)
    return AGGREGATES[aggregate](logits, jnp.asarray(TARGET), denominator, attraction, repulsion)


CASES = [("shared", "out"), ("own", "out"), ("views", "out"), ("rank", "out"), ("shared", "in"), ("views", "in")]


@pytest.mark.parametrize(("kind", "aggregate"), CASES)
def test_value_and_gradient_in_float64(kind, aggregate):
    mix = RNG.uniform(size=ROWS)
    with jax.enable_x64(True):
        values = quick_jit(lambda s: ours(kind, aggregate, s))(jnp.asarray(LOGITS))
        gradient = quick_jit(jax.grad(lambda s: jnp.sum(mix * ours(kind, aggregate, s))))(jnp.asarray(LOGITS))
    np.testing.assert_allclose(values, in_loops(kind, aggregate, LOGITS), rtol=1e-12)
    for i, k in np.ndindex(ROWS, KEYS):
        step = np.zeros((ROWS, KEYS))
        step[i, k] = 1e-5
        ahead, behind = (mix @ in_loops(kind, aggregate, LOGITS + sign * step) for sign in (1, -1))
        assert gradient[i, k] == pytest.approx((ahead - behind) / 2e-5, abs=1e-6)


@pytest.mark.parametrize(("kind", "aggregate"), CASES)
def test_float32_values_and_gradients_are_finite_far_from_zero(kind, aggregate):
    # Cosines of 1 at the lowest temperature, and rows whose keys are all alike.
    extreme = jnp.asarray(np.sign(LOGITS) * 100).at[2].set(100.0).astype(jnp.float32)
    value, gradient = quick_jit(jax.value_and_grad(lambda s: ours(kind, aggregate, s).sum()))(extreme)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_scalar_weights_and_default():
    logits = jnp.asarray(LOGITS)
    scaled = ours("shared", "out", logits, 2.0, 3.0)
    plain = ours("shared", "out", logits, 1.0, 1.0)
    attracted = np.sum(TARGET * LOGITS, axis=1)
    repelled = np.asarray(plain) + attracted
    np.testing.assert_allclose(scaled, 2 * repelled - 3 * attracted, rtol=1e-5)


def test_shared_is_entropy_plus_divergence():
    logits = jnp.asarray(LOGITS)
    rows = cross_entropy(logits, jnp.asarray(TARGET), log_sum(logits, jnp.ones(LOGITS.shape))[:, None])
    p = np.exp(LOGITS) / np.exp(LOGITS).sum(axis=1, keepdims=True)
    kl = [sum(t * np.log(t / q) for t, q in zip(ts, qs) if t > 0) for ts, qs in zip(TARGET, p)]
    np.testing.assert_allclose(rows - entropy(jnp.asarray(TARGET)), kl, rtol=1e-4)
    assert entropy(jnp.asarray(TARGET))[0] == 0


def test_own_equals_shared_with_one_positive():
    one = jnp.eye(KEYS)[jnp.asarray([3, 0, 1, 7, 7, 2])]
    logits, pairing = jnp.asarray(LOGITS), Pairing({}, {}, None, 1)
    apart = cross_entropy(logits, one, own(logits, 1 - one, pairing))
    together = cross_entropy(logits, one, shared(logits, jnp.ones(LOGITS.shape), pairing))
    np.testing.assert_allclose(apart, together, rtol=1e-5)


def test_own_differs_from_shared_with_two_positives():
    logits = jnp.zeros((1, 3))
    target, negative = jnp.asarray([[0.5, 0.5, 0.0]]), jnp.asarray([[0.0, 0.0, 1.0]])
    assert cross_entropy(logits, target, own(logits, negative, None))[0] == pytest.approx(np.log(2))
    assert cross_entropy(logits, target, shared(logits, jnp.ones((1, 3)), None))[0] == pytest.approx(np.log(3))


def test_list_mle_is_the_rank_denominator():
    """ListMLE: the sum over ranks of -log of the best's share among it and all below it."""
    logits, order = LOGITS[:1], RNG.permutation(KEYS)[None].astype(float)
    left, loss = list(np.argsort(-order[0])), 0.0
    while left:
        loss += np.log(sum(np.exp(logits[0, k]) for k in left)) - logits[0, left[0]]
        left.pop(0)
    everything = jnp.ones((1, KEYS))
    denominator = rank_log_denominators(jnp.asarray(logits), everything, jnp.asarray(order))
    assert cross_entropy(jnp.asarray(logits), everything, denominator)[0] == pytest.approx(loss, rel=1e-6)


def test_rank_looks_its_order_up_among_the_graph_sources():
    u, v = {"target": jnp.asarray([[0.0], [1.0]])}, {"target": jnp.asarray([[0.2], [0.9], [2.0]])}
    logits = jnp.asarray([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    got = rank(logits, jnp.ones((2, 3)), Pairing(u, v, None, 1), by="kernel")
    e = np.exp([1, 2, 3])
    # Anchor 0: keys 0, 1, 2 from near to far; anchor 1: 1, 0, 2.
    expected = np.log([[e.sum(), e[1] + e[2], e[2]], [e[0] + e[2], e.sum(), e[2]]])
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize(("kind", "aggregate"), CASES)
def test_a_constant_on_a_row_changes_nothing_and_rows_may_be_permuted(kind, aggregate):
    even = {"repulsion": 1.0, "attraction": 1.0}
    logits = jnp.asarray(LOGITS)
    moved = logits + jnp.arange(ROWS)[:, None]
    value, shifted = (ours(kind, aggregate, s, **even) for s in (logits, moved))
    extra = 0.0
    if kind == "views":  # a product of several denominators is not a softmax: each of them moves
        groups = [
            [any(PAIR_VIEW[i] == v) and WEIGHT[i][PAIR_VIEW[i] == v].sum() > 0 for v in range(VIEWS)]
            for i in range(ROWS)
        ]
        extra = np.arange(ROWS) * (np.sum(groups, axis=1) - 1)
    np.testing.assert_allclose(shifted - extra, value, rtol=1e-5, atol=1e-5)


def test_rows_are_treated_alike():
    turned = slice(None, None, -1)
    logits, target, weight = (jnp.asarray(x) for x in (LOGITS, TARGET, WEIGHT))
    for denominator in (shared, own):
        forward = cross_entropy(logits, target, denominator(logits, weight, None))
        backward = cross_entropy(logits[turned], target[turned], denominator(logits[turned], weight[turned], None))
        np.testing.assert_array_equal(forward[turned], backward)


def test_rows_without_weights_or_positives():
    empty = jnp.zeros((1, 3))
    logits = jnp.asarray([[1.0, 2.0, 3.0]])
    assert log_sum(logits, empty)[0] < -9e8
    assert cross_entropy(logits, empty, log_sum(logits, jnp.ones((1, 3)))[:, None])[0] == 0
    # Nothing to be pushed away from: with its own denominator a positive is certain.
    assert cross_entropy(logits, jnp.eye(3)[:1], own(logits, empty, None))[0] == 0
    gradient = jax.grad(lambda s: cross_entropy(s, jnp.eye(3)[:1], own(s, empty, None)).sum())(logits)
    np.testing.assert_array_equal(gradient, empty)
    assert mean_over_rows(jnp.asarray([2.0, 5.0, jnp.nan]), jnp.asarray([True, True, False])) == 3.5
    assert mean_over_rows(jnp.asarray([2.0]), jnp.asarray([False])) == 0
