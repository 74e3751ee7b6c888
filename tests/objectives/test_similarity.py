"""Every similarity against loops, its gradient where rows coincide, and products of modalities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.quick import quick_jit
from xsample_jax.objectives.logits import SIMILARITIES, all_products

RNG = np.random.default_rng(5)


def unit(*shape):
    x = RNG.normal(size=shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


X, Y, GATE = unit(4, 6), unit(5, 6), RNG.uniform(0, 1, (4, 6))
U, V = {"id": np.array([0, 1, -1, 2]), "gate": GATE}, {"id": np.array([1, 0, -1, 7, 2])}
V["sharpness"] = RNG.uniform(0.5, 2, 5)
U["row"], V["row"] = np.array([3, 4, -1, 9]), np.array([4, 3, -1, 5, 9])
U["prompt"] = RNG.normal(size=(4, 6))


def gated(i, k):
    a, b = X[i] * GATE[i], Y[k] * GATE[i]
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def prompted(i, k):
    text = Y[k] + U["prompt"][i]
    return X[i] @ text / np.linalg.norm(text)


CASES = [
    ("dot", {}, lambda i, k: X[i] @ Y[k]),
    ("negative_distance", {}, lambda i, k: -np.sum((X[i] - Y[k]) ** 2)),
    ("negative_distance", {"power": 1.0}, lambda i, k: -np.linalg.norm(X[i] - Y[k])),
    ("margin", {"of_positive": -0.5}, lambda i, k: X[i] @ Y[k] + 0.5 * (U["id"][i] == V["id"][k] != -1)),
    ("by_density", {}, lambda i, k: V["sharpness"][k] * (X[i] @ Y[k])),
    ("gated", {}, gated),
    ("prompted", {}, prompted),
    ("without_self", {}, lambda i, k: 0.0 if U["row"][i] == V["row"][k] != -1 else X[i] @ Y[k]),
]


@pytest.mark.parametrize(("name", "options", "definition"), CASES)
def test_similarity_against_loops(name, options, definition):
    got = quick_jit(lambda x, y: SIMILARITIES[name](x, y, U, V, **options))(X, Y)
    expected = [[definition(i, k) for k in range(5)] for i in range(4)]
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-6)


def test_every_similarity_is_tested_here():
    assert {name for name, _, _ in CASES} | {"volume"} == set(SIMILARITIES)


def test_dot_with_keys_of_single_anchors():
    own = unit(4, 3, 6)
    got = SIMILARITIES["dot"](jnp.asarray(X), jnp.asarray(own), U, V)
    np.testing.assert_allclose(got, [[X[i] @ own[i, m] for m in range(3)] for i in range(4)], rtol=1e-5, atol=1e-6)


def test_volume_is_the_root_of_the_gram_determinant_from_either_side():
    pairs = unit(5, 2, 6)
    side_by_side = jnp.asarray(pairs.reshape(5, 12))
    expected = np.empty((4, 5))
    for i in range(4):
        for k in range(5):
            modes = np.stack([X[i], *pairs[k]])
            expected[i, k] = -np.sqrt(np.linalg.det(modes @ modes.T))
    volume = quick_jit(lambda x, y: SIMILARITIES["volume"](x, y, U, V))
    np.testing.assert_allclose(volume(jnp.asarray(X), side_by_side), expected, atol=1e-5)
    np.testing.assert_allclose(volume(side_by_side, jnp.asarray(X)), expected.T, atol=1e-5)


def test_volume_of_two_vectors_is_the_sine_of_their_angle():
    got = SIMILARITIES["volume"](jnp.asarray(X), jnp.asarray(Y), U, V)
    np.testing.assert_allclose(got, -np.sqrt(1 - (X @ Y.T) ** 2), atol=1e-5)


@pytest.mark.parametrize("name", SIMILARITIES)
def test_gradients_are_finite_where_rows_coincide(name):
    options = {"power": 1.0} if name == "negative_distance" else {}
    same = jnp.full((4, 6), 6**-0.5)
    side = {"id": jnp.arange(4), "gate": jnp.asarray(GATE), "sharpness": jnp.asarray(V["sharpness"][:4])}
    side |= {"row": jnp.arange(4), "prompt": -same}  # a text and what is added to it can cancel

    def total(x):
        keys = jnp.concatenate([x, x], axis=1) if name == "volume" else x
        return jnp.sum(SIMILARITIES[name](x, keys, side, side, **options))

    assert np.isfinite(quick_jit(jax.grad(total))(same)).all()


def test_negative_distance_has_a_slope_of_one_close_by():
    x = jnp.asarray([[0.0, 0.0]])
    y = jnp.asarray([[3e-3, 4e-3]])
    gradient = jax.grad(lambda x: SIMILARITIES["negative_distance"](x, y, {}, {}, power=1.0).sum())(x)
    np.testing.assert_allclose(gradient, [[0.6, 0.8]], rtol=1e-4)


def test_all_products_are_ordered_first_then_second():
    got = all_products(jnp.asarray(X), jnp.asarray(Y[:4]))
    expected = [X[i] * Y[k] for i in range(4) for k in range(4)]
    np.testing.assert_allclose(got, expected, rtol=1e-6)
