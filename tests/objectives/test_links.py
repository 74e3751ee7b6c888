"""Every link against loops over pairs, and what each does with a constant added to a row."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import rankdata

from tests.quick import quick_jit
from xsample_jax.objectives.links import LINKS

RNG = np.random.default_rng(1)
ROWS, KEYS = 5, 7
LOGITS = 2 * RNG.normal(size=(ROWS, KEYS))
POSITIVE = RNG.uniform(size=(ROWS, KEYS)) < 0.3
POSITIVE[:, 0], POSITIVE[:, 1] = True, False
VALID = RNG.uniform(size=(ROWS, KEYS)) < 0.8
VALID[:, :2] = True
TARGET = np.where(POSITIVE & VALID, RNG.uniform(0.1, 1, (ROWS, KEYS)), 0)
TARGET /= TARGET.sum(axis=1, keepdims=True)
SOFT = np.where(VALID, np.exp(RNG.normal(size=(ROWS, KEYS))), 0)
SOFT /= SOFT.sum(axis=1, keepdims=True)


def softplus(x):
    return np.log1p(np.exp(x))


def of_row(i, target):
    valid = [k for k in range(KEYS) if VALID[i, k]]
    return valid, [k for k in valid if target[i, k] > 0], [k for k in valid if target[i, k] <= 0]


def sigmoid(s, t):
    return [
        sum(t[i, k] * softplus(-s[i, k]) + (1 - t[i, k]) * softplus(s[i, k]) for k in of_row(i, t)[0])
        for i in range(ROWS)
    ]


def robust(q, lam):
    def value(s, t):
        rows = []
        for i in range(ROWS):
            valid, positive, _ = of_row(i, t)
            near = sum(t[i, k] * np.exp(s[i, k]) for k in positive)
            rows.append(-(near**q) / q + (lam * sum(np.exp(s[i, k]) for k in valid)) ** q / q)
        return rows

    return value


def symmetric(s, t):
    rows = []
    for i in range(ROWS):
        valid = of_row(i, t)[0]
        p = {k: np.exp(s[i, k]) / sum(np.exp(s[i, j]) for j in valid) for k in valid}
        rows.append(sum(-0.5 * t[i, k] * np.log(p[k]) - 0.5 * p[k] * np.log(t[i, k]) for k in valid))
    return rows


def pairwise(s, t):
    return [sum(softplus(s[i, n] - s[i, p]) for p in of_row(i, t)[1] for n in of_row(i, t)[2]) for i in range(ROWS)]


def pairwise_global(s, t):
    negatives = [s[j, n] for j in range(ROWS) for n in of_row(j, t)[2]]
    return [sum(softplus(n - s[i, p]) for p in of_row(i, t)[1] for n in negatives) for i in range(ROWS)]


def joint(s, t):
    return [
        np.log(1 + sum(np.exp(s[i, n] - s[i, p]) for p in of_row(i, t)[1] for n in of_row(i, t)[2]))
        for i in range(ROWS)
    ]


def square(s, t):
    return [np.mean([(s[i, k] - t[i, k]) ** 2 for k in of_row(i, t)[0]]) for i in range(ROWS)]


def z(a, b):
    def value(s, t):
        rows = []
        for i in range(ROWS):
            valid, positive, _ = of_row(i, t)
            scores = (s[i] - np.mean(s[i, valid])) / np.std(s[i, valid])
            total = sum(t[i, p] for p in positive)
            rows.append(sum(t[i, p] * softplus(a * (b - scores[p])) / a for p in positive) / total)
        return rows

    return value


def soft_top_k(s, t):
    rows = []
    for i in range(ROWS):
        valid, positive, _ = of_row(i, t)
        excess = lambda b, i=i, valid=valid: np.sum(1 / (1 + np.exp(-1.5 * (s[i, valid] + b)))) - 2  # noqa: E731
        threshold = brentq(excess, -50, 50, xtol=1e-14)
        total = sum(t[i, p] * softplus(-1.5 * (s[i, p] + threshold)) for p in positive)
        rows.append(total / sum(t[i, p] for p in positive))
    return rows


def pearson(s, t):
    return [1 - np.corrcoef(s[i, VALID[i]], t[i, VALID[i]])[0, 1] for i in range(ROWS)]


def rank_kl(s, t):
    rows = []
    for i in range(ROWS):
        valid = of_row(i, t)[0]
        n = len(valid)
        score = (n - rankdata(-t[i, valid])) / (n - 1) / 0.2
        want, have = (np.exp(x) / np.exp(x).sum() for x in (score, s[i, valid]))
        rows.append(np.sum(want * np.log(want / have)) / n)
    return rows


def pro(s, t):
    rows = []
    for i in range(ROWS):
        valid, parts = of_row(i, t)[0], []
        for k in valid:
            below = [j for j in valid if t[i, j] < t[i, k]]
            if below:
                top = max(t[i, k] - t[i, j] for j in below) * s[i, k]
                parts.append(np.log(np.exp(top) + sum(np.exp((t[i, k] - t[i, j]) * s[i, j]) for j in below)) - top)
        rows.append(np.mean(parts))
    return rows


def group_order(k, most, steepness):
    def value(s, t):
        rows = []
        for i in range(ROWS):
            _, positive, negative = of_row(i, t)
            near, far = sorted(s[i, negative])[-k:], sorted(s[i, positive])[:most]
            values, n = [*near, *far], len(near) + len(far)
            share = np.eye(n)  # [input, place]
            for layer in range(n):
                for a in range(layer % 2, n - 1, 2):
                    alpha = 0.5 + np.arctan(steepness * (values[a + 1] - values[a])) / np.pi
                    exchange = np.array([[alpha, 1 - alpha], [1 - alpha, alpha]])
                    values[a : a + 2] = exchange @ values[a : a + 2]
                    share[:, a : a + 2] = share[:, a : a + 2] @ exchange
            kind = np.arange(n) >= len(near)
            rows.append(-np.mean([np.log(share[place][kind == kind[place]].sum()) for place in range(n)]))
        return rows

    return value


def conditional(far, near):
    def value(s, t):
        rows = []
        for i in range(ROWS):
            _, positive, negative = of_row(i, t)
            pull, push = np.exp(-far * s[i, positive]), np.exp(near * s[i, negative])
            rows.append(push @ s[i, negative] / push.sum() - pull @ s[i, positive] / pull.sum())
        return rows

    return value


def contrastive(near, far):
    def value(s, t):
        parts = []
        for amount in (lambda s, t: t * max(-s - near, 0), lambda s, t: (1 - t) * max(far + s, 0)):
            pairs = [[amount(s[i, k], t[i, k]) for k in of_row(i, t)[0]] for i in range(ROWS)]
            number = sum(pair > 0 for row in pairs for pair in row)
            parts.append([ROWS * sum(row) / number for row in pairs])
        return np.sum(parts, axis=0)

    return value


def multi_similarity(attraction, repulsion, at):
    def value(s, t):
        rows = []
        for i in range(ROWS):
            valid = of_row(i, t)[0]
            pull = sum(t[i, k] * np.exp(-attraction * (s[i, k] - at)) for k in valid)
            push = sum((1 - t[i, k]) * np.exp(repulsion * (s[i, k] - at)) for k in valid)
            rows.append(np.log(1 + pull) / attraction + np.log(1 + push) / repulsion)
        return rows

    return value


CASES = {
    "contrastive": ({"near": 0.1, "far": 0.7}, contrastive(0.1, 0.7), TARGET),
    "multi_similarity": (
        {"attraction": 2.0, "repulsion": 5.0, "at": 0.4},
        multi_similarity(2.0, 5.0, 0.4),
        TARGET,
    ),
    "sigmoid": ({}, sigmoid, TARGET),
    "sigmoid_mean": ({}, lambda s, t: sigmoid(s, t) / VALID.sum(axis=1), TARGET),
    "robust": ({"q": 0.3, "lam": 0.2}, robust(0.3, 0.2), TARGET),
    "symmetric": ({}, symmetric, SOFT),
    "pairwise": ({}, pairwise, TARGET),
    "pairwise_global": ({}, pairwise_global, TARGET),
    "joint": ({}, joint, TARGET),
    "square": ({}, square, SOFT),
    "soft_top_k": ({"k": 2, "alpha": 1.5}, soft_top_k, TARGET),
    "pearson": ({}, pearson, SOFT),
    "rank_kl": ({"rank_temperature": 0.2}, rank_kl, TARGET),
    "pro": ({}, pro, 3 * SOFT),
    "group_order": ({"k": 3, "positives": 2, "steepness": 1.5}, group_order(3, 2, 1.5), TARGET),
    "conditional": ({"far": 0.7, "near": 0.4}, conditional(0.7, 0.4), TARGET),
    "z": ({"sharpness": 3.0, "location": 0.5}, z(3.0, 0.5), TARGET),
}


@pytest.mark.parametrize("name", LINKS)
def test_link_against_loops_in_float64(name):
    options, loops, target = CASES[name]

    def value(s):
        return LINKS[name](s, jnp.asarray(target), jnp.asarray(VALID), **options)

    with jax.enable_x64(True):
        got = quick_jit(value)(jnp.asarray(LOGITS))
        gradient = quick_jit(jax.grad(lambda s: value(s).sum()))(jnp.asarray(LOGITS))
    np.testing.assert_allclose(got, loops(LOGITS, target), rtol=1e-10)
    for i, k in ((0, 0), (1, 1), (2, 5), (4, 3)):
        step = np.zeros((ROWS, KEYS))
        step[i, k] = 1e-5
        ahead, behind = (np.sum(loops(LOGITS + sign * step, target)) for sign in (1, -1))
        assert gradient[i, k] == pytest.approx((ahead - behind) / 2e-5, abs=1e-6)


@pytest.mark.parametrize("name", LINKS)
def test_a_constant_on_a_row(name):
    options, _, target = CASES[name]
    by = np.array([1.0, -2, 0, 3, 0.5])
    value, moved = (np.asarray(LINKS[name](jnp.asarray(s), jnp.asarray(target), jnp.asarray(VALID), **options))
                    for s in (LOGITS, LOGITS + by[:, None]))  # fmt: skip
    if name in (
        "symmetric", "pairwise", "joint", "z", "soft_top_k", "pearson", "rank_kl", "group_order", "conditional",
    ):  # fmt: skip
        np.testing.assert_allclose(moved, value, rtol=1e-5)
    elif name == "robust":
        np.testing.assert_allclose(moved, np.exp(0.3 * by) * value, rtol=1e-4)
    else:
        assert np.abs(moved - value).max() > 0.1


def test_robust_for_small_q_is_info_nce():
    one = np.eye(KEYS)[:ROWS]
    everything = np.ones((ROWS, KEYS), bool)
    info_nce = np.log(np.exp(LOGITS).sum(axis=1)) - LOGITS[np.arange(ROWS), np.arange(ROWS)]
    got = LINKS["robust"](jnp.asarray(LOGITS), jnp.asarray(one), everything, q=1e-6, lam=1.0)
    np.testing.assert_allclose(got, info_nce, rtol=1e-4)


def test_links_are_finite_at_the_lowest_temperature():
    extreme = jnp.asarray(np.sign(LOGITS) * 100, jnp.float32)
    for name in LINKS:
        options, _, target = CASES[name]
        value, gradient = quick_jit(
            jax.value_and_grad(lambda s: LINKS[name](s, jnp.asarray(target), jnp.asarray(VALID), **options).sum())  # noqa: B023
        )(extreme)
        assert np.isfinite(value), name
        assert np.isfinite(gradient).all(), name


@pytest.mark.parametrize("name", LINKS)
def test_the_memory_of_a_link_grows_with_its_pairs(name):
    """faults A5: the gradient of `pairwise_global` kept K^4 numbers, 275 GB for a batch of 256 images of two views."""
    options, pairs = CASES[name][0], 256

    def value(s, target, valid):
        return LINKS[name](s, target, valid, **options).sum()

    shapes = [jax.ShapeDtypeStruct((pairs, pairs), dtype) for dtype in (jnp.float32, jnp.float32, bool)]
    used = jax.jit(jax.grad(value)).lower(*shapes).compile().memory_analysis().temp_size_in_bytes
    assert used < 150 * 4 * pairs**2, f"{used / 2**20:.0f} MiB"  # K^3 numbers are 256 times as many


@pytest.mark.parametrize("name", LINKS)
def test_links_take_logits_and_targets_of_any_two_dtypes(name):
    options, _, wanted = CASES[name]
    for dtype in (jnp.bfloat16, jnp.float32):
        value = LINKS[name](jnp.asarray(LOGITS, dtype), jnp.asarray(wanted, jnp.float32), jnp.asarray(VALID), **options)
        assert np.isfinite(value).all()
