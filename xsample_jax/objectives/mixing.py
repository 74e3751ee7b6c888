"""Synthetic keys made of real ones: extra negatives of one anchor each (MoCHi, arXiv 2010.01028).

Every mixer is `f(x [A, D], y [K, D], negative bool [A, K], key, **options) -> [A, M, D]` unit rows without gradient.
"""

import jax
import jax.numpy as jnp

from xsample_jax.rows import products, unit_rows


def hard_mixtures(
    x: jax.Array,
    y: jax.Array,
    negative: jax.Array,
    key: jax.Array,
    *,
    hardest: int = 64,
    mixed: int = 16,
    with_anchor: int = 8,
) -> jax.Array:
    """Mixtures of the `hardest` negatives of every anchor: `mixed` of two of them, `with_anchor` of one and the anchor.

    alpha n_i + (1 - alpha) n_j with alpha ~ U(0, 1), and beta x + (1 - beta) n_j with beta ~ U(0, 0.5), scaled to
    unit length (eqs. 4, 5): harder than what is there, yet never more anchor than negative. An anchor with fewer
    negatives mixes those that it has.
    """
    x, y = jax.lax.stop_gradient(x), jax.lax.stop_gradient(y)
    among = jnp.where(negative, products(x, y), -jnp.inf)
    _, hard = jax.lax.top_k(among, min(hardest, y.shape[0]))
    draw = iter(jax.random.split(key, 5))
    anchors = len(hard)
    count = jnp.clip(jnp.sum(negative, axis=1, keepdims=True), 1, hard.shape[1])

    def some(number):
        chosen = jax.random.randint(next(draw), (anchors, number), 0, count)
        return y[jnp.take_along_axis(hard, chosen, axis=1)]

    first, second, third = some(mixed), some(mixed), some(with_anchor)
    alpha = jax.random.uniform(next(draw), (anchors, mixed, 1))
    beta = 0.5 * jax.random.uniform(next(draw), (anchors, with_anchor, 1))
    return unit_rows(
        jnp.concatenate([alpha * first + (1 - alpha) * second, beta * x[:, None] + (1 - beta) * third], axis=1)
    )


MIXERS = {"hard_mixtures": hard_mixtures}
