"""Rows of embeddings: unit length and cosines, in float32 at the highest matmul precision.

The precision matters: a softmax multiplies an error in the cosine by 1 / temperature.
"""

import jax
import jax.numpy as jnp


def unit_rows(x: jax.Array, floor: float = 1e-6) -> jax.Array:
    """Divides each row of `x` [..., D] by its Euclidean norm, in float32 (float64 stays).

    A row shorter than `floor` has no direction to speak of: it becomes the zero vector and passes no gradient, where
    the plain formula gives 0/0 and a NaN gradient, or a gradient of size 1/norm that would ruin the step.
    """
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    known = square > floor**2
    # The inner `where` keeps rsqrt away from 0: the outer one alone would multiply its infinite derivative by zero.
    return jnp.where(known, x * jax.lax.rsqrt(jnp.where(known, square, 1.0)), 0.0)


def products(x: jax.Array, y: jax.Array) -> jax.Array:
    """Dot products of all pairs of rows, [A, D] x [K, D] -> [A, K]."""
    return jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)


def squared_distances(x: jax.Array, y: jax.Array) -> jax.Array:
    """|x_i - y_k|^2 of all pairs of rows, at least 0. [A, D] x [K, D] -> [A, K]."""
    square = jnp.sum(x * x, axis=-1)[:, None] + jnp.sum(y * y, axis=-1)[None, :] - 2 * products(x, y)
    return jnp.maximum(square, 0.0)


def cosines(x: jax.Array, y: jax.Array) -> jax.Array:
    """Cosines of all pairs of rows, [A, D] x [K, D] -> [A, K]; rows of any length."""
    return products(unit_rows(x), unit_rows(y))
