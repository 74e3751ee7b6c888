"""Synthetic negatives: unit rows without gradient, each a mixture of its allowed sources."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.quick import quick_jit
from xsample_jax.objectives.mixers import MixerInputs, hard_mixtures

RNG = np.random.default_rng(7)
ANCHORS, KEYS, HARDEST, MIXED, WITH_ANCHOR = 4, 12, 4, 40, 30


def unit(*shape):
    x = RNG.normal(size=shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


X, Y = unit(ANCHORS, 8), unit(KEYS, 8)
NEGATIVE = np.ones((ANCHORS, KEYS), bool)
NEGATIVE[np.arange(ANCHORS), np.arange(ANCHORS)] = False  # key i is the positive of anchor i
NEGATIVE[3] = False
NEGATIVE[3, [5, 8]] = True  # an anchor with two negatives only

PAIRS = (jnp.zeros(NEGATIVE.shape), jnp.asarray(NEGATIVE), {}, {})


def hard_ones(i):
    negative = np.flatnonzero(NEGATIVE[i])
    return negative[np.argsort(-(Y[negative] @ X[i]))][:HARDEST]


def coefficients(row, first, second):
    """Of a row as a mixture of two; None where it is none."""
    found = np.linalg.lstsq(np.stack([first, second], axis=1), row, rcond=None)[0]
    error = np.linalg.norm(found[0] * first + found[1] * second - row)
    return found if error < 1e-4 and found.min() > -1e-4 else None


@pytest.fixture(scope="module")
def mixtures():
    options = {"hardest": HARDEST, "mixed": MIXED, "with_anchor": WITH_ANCHOR}
    mixed = quick_jit(lambda x, y, key: hard_mixtures(MixerInputs(x, y, *PAIRS, key), **options).rows)
    keys = [jax.random.split(jax.random.key(seed), ANCHORS) for seed in (0, 1)]
    return np.asarray(mixed(X, Y, keys[0])), np.asarray(mixed(X, Y, keys[1]))


def test_unit_rows_of_the_asked_number(mixtures):
    rows, others = mixtures
    assert rows.shape == (ANCHORS, MIXED + WITH_ANCHOR, 8)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=-1), 1, rtol=1e-5)
    assert not np.allclose(rows, others)


@pytest.mark.parametrize("i", range(ANCHORS))
def test_mixtures_of_two_of_the_hardest_negatives(mixtures, i):
    pairs = list(itertools.combinations_with_replacement(hard_ones(i), 2))
    used, shares = set(), []
    for row in mixtures[0][i, :MIXED]:
        fits = [(pair, c) for pair in pairs if (c := coefficients(row, Y[pair[0]], Y[pair[1]])) is not None]
        assert fits
        if len(set(fits[0][0])) == 2:
            used |= set(fits[0][0])
            shares.append(fits[0][1][0] / fits[0][1].sum())
    assert used == set(hard_ones(i))  # all of them take part
    assert min(shares) < 0.25  # alpha is spread over (0, 1)
    assert max(shares) > 0.75


@pytest.mark.parametrize("i", range(ANCHORS))
def test_mixtures_with_the_anchor_are_more_negative_than_anchor(mixtures, i):
    shares = []
    for row in mixtures[0][i, MIXED:]:
        fits = [c for k in hard_ones(i) if (c := coefficients(row, X[i], Y[k])) is not None]
        assert fits
        shares.append(fits[0][0] / fits[0].sum())
    assert max(shares) <= 0.5 + 1e-4
    assert max(shares) > 0.35
    assert min(shares) < 0.15


def test_no_gradient():
    def total(x, y):
        return hard_mixtures(MixerInputs(x, y, *PAIRS, jax.random.key(0)), hardest=3, mixed=2, with_anchor=2).rows.sum()

    for gradient in quick_jit(jax.grad(total, (0, 1)))(X, Y):
        np.testing.assert_array_equal(gradient, 0)
