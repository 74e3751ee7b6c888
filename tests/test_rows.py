"""Unit rows and cosines against float64 numpy, and gradients of rows without a direction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xsample_jax.models.heads import cosines, products, unit_rows

RNG = np.random.default_rng(9)
X, Y = 10 * RNG.normal(size=(5, 64)), RNG.normal(size=(3, 64)) / 50


def test_cosines_and_products_against_numpy():
    expected = X @ Y.T
    np.testing.assert_allclose(products(jnp.asarray(X), jnp.asarray(Y)), expected, rtol=1e-4, atol=1e-5)
    expected /= np.linalg.norm(X, axis=1)[:, None] * np.linalg.norm(Y, axis=1)[None]
    np.testing.assert_allclose(cosines(jnp.asarray(X), jnp.asarray(Y)), expected, atol=3e-7)


@pytest.mark.parametrize(("given", "found"), [("float16", "float32"), ("bfloat16", "float32"), ("float32", "float32")])
def test_the_type_of_unit_rows(given, found):
    rows = unit_rows(jnp.asarray(X, given))
    assert rows.dtype == found
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-6)  # although the input is rounded


def test_float64_stays():
    with jax.enable_x64(True):
        rows = unit_rows(jnp.asarray(X))
        assert rows.dtype == jnp.float64
        np.testing.assert_allclose(rows, X / np.linalg.norm(X, axis=1, keepdims=True), rtol=1e-14)


def test_gradient_is_the_projection_on_the_tangent():
    x, along = X[0], RNG.normal(size=64)
    unit = x / np.linalg.norm(x)
    expected = (along - unit * (unit @ along)) / np.linalg.norm(x)
    gradient = jax.grad(lambda x: unit_rows(x[None])[0] @ jnp.asarray(along, jnp.float32))(jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [0.0, 1e-7])
def test_a_row_without_direction_is_zero_and_passes_no_gradient(size):
    rows = jnp.asarray([[size, 0.0, 0.0], [3.0, 0.0, 4.0]])
    np.testing.assert_allclose(unit_rows(rows), [[0, 0, 0], [0.6, 0, 0.8]], rtol=1e-6)
    gradient = jax.grad(lambda x: unit_rows(x).sum())(rows)
    np.testing.assert_array_equal(gradient[0], 0)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient[1]).max() > 0
