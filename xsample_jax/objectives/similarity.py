"""How alike two embeddings are: the similarity of the student, before it is divided by the temperature.

Every similarity is `f(x, y, u, v, **options) -> [A, K]`: x [A, D], y [K, D] unit rows with gradient; u, v their side
information. Row-specific keys (synthetic negatives) have y [A, K, D].
"""

import jax
import jax.numpy as jnp

from xsample_jax.rows import products, squared_distances, unit_rows

HIGHEST = jax.lax.Precision.HIGHEST


def dot(x: jax.Array, y: jax.Array, u: dict, v: dict) -> jax.Array:
    """x_i . y_k: the cosine, for unit rows."""
    if y.ndim == 3:
        return jnp.einsum("ad,akd->ak", x, y, precision=HIGHEST)
    return products(x, y)


def negative_distance(x: jax.Array, y: jax.Array, u: dict, v: dict, *, power: float = 2.0) -> jax.Array:
    """-|x_i - y_k|^power."""
    square = squared_distances(x, y)
    if power == 2.0:
        return -square
    near = square < 1e-12  # the root has no finite slope at 0
    return -jnp.where(near, 0.0, jnp.where(near, 1.0, square) ** (power / 2))


def margin(x: jax.Array, y: jax.Array, u: dict, v: dict, *, of_positive: float = 0.0) -> jax.Array:
    """x_i . y_k, less `of_positive` on the pairs of one image (InterCLR: -0.5)."""
    same = (u["id"][:, None] == v["id"][None, :]) & (u["id"][:, None] >= 0)
    return products(x, y) - of_positive * same


def gated(x: jax.Array, y: jax.Array, u: dict, v: dict) -> jax.Array:
    """Cosine in the features that the anchor's gate lets through (SimLAP, arXiv 2410.08799); side: gate [A, D].

    The gate belongs to the pair of classes that the anchor is compared in; both ends pass it and are scaled again.
    """
    gate = u["gate"]
    left = unit_rows(x * gate)
    dots = jnp.matmul(left * gate, y.T, precision=HIGHEST)
    norms = jnp.matmul(gate**2, (y**2).T, precision=HIGHEST)
    return dots * jax.lax.rsqrt(jnp.maximum(norms, 1e-12))


def volume(x: jax.Array, y: jax.Array, u: dict, v: dict) -> jax.Array:
    """-volume of the parallelepiped of the anchor and its key's several modalities (GRAM, arXiv 2412.11959, eq. 4).

    y [K, M * D]: M unit rows of one sample side by side (or x has them). Its square is the Gram determinant.
    """
    if x.shape[-1] > y.shape[-1]:
        return volume(y, x, v, u).T
    width = x.shape[-1]
    others = y.reshape(len(y), -1, width)
    modes = others.shape[1]
    with_anchor = jnp.einsum("ad,kmd->akm", x, others, precision=HIGHEST)
    among = jnp.einsum("kmd,knd->kmn", others, others, precision=HIGHEST)
    # Schur complement: det [[1, b'], [b, C]] = det C * (1 - b' C^-1 b).
    ridge = 1e-6 * jnp.eye(modes, dtype=among.dtype)
    solved = jnp.einsum("kmn,akn->akm", jnp.linalg.inv(among + ridge), with_anchor, precision=HIGHEST)
    square = jnp.linalg.det(among)[None] * (1 - jnp.sum(with_anchor * solved, axis=-1))
    return -jnp.sqrt(jnp.maximum(jnp.abs(square), 1e-12))


SIMILARITIES = {
    "dot": dot,
    "negative_distance": negative_distance,
    "margin": margin,
    "gated": gated,
    "volume": volume,
}


def all_products(first: jax.Array, second: jax.Array) -> jax.Array:
    """first_i * second_j for all pairs, [B, D] x [B, D] -> [B * B, D]: the keys of Symile (arXiv 2411.01053)."""
    return (first[:, None] * second[None, :]).reshape(-1, first.shape[-1])
