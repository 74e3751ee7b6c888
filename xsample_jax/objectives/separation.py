"""SepCLR: what a set of interest has in common with a background, and what is its own, in two heads.

Feature terms (feature_losses.py) on rows of any length, which read is_target [A]: 1 in the set of interest, 0 in the
background, -1 for neither.
"""

import jax
import jax.numpy as jnp

from xsample_jax.ops import squared_distances


def align_targets(x: jax.Array, y: jax.Array, side: dict) -> jax.Array:
    """mean over the images of interest of |x_i - y_i|^2; 0 where there are none."""
    return _mean(jnp.sum((x - y) ** 2, axis=-1), side["is_target"] == 1)


def vanish(x: jax.Array, y: jax.Array, side: dict) -> jax.Array:
    """mean over the images of the background of |x_i|^2: nothing of theirs is salient. y is not read."""
    del y
    return _mean(jnp.sum(x * x, axis=-1), side["is_target"] == 0)


def uniform_targets(x: jax.Array, y: jax.Array, side: dict, *, t: float = 1.0) -> jax.Array:
    """log of the mean over pairs i != k of exp(-t |x_i - x_k|^2), rows outside the set of interest at 0.

    y is not read.
    """
    del y
    x = _of_interest(x, side)
    off = ~jnp.eye(len(x), dtype=bool)
    return jax.nn.logsumexp(-t * squared_distances(x, x), b=off) - jnp.log(len(x) * (len(x) - 1))


def joint_entropy(x: jax.Array, y: jax.Array, side: dict, *, t: float = 1.0) -> jax.Array:
    """mean_i log mean_k exp(-t (|x_i - x_k|^2 + |y_i - y_k|^2)), k = i among them: the k-JEM of SepCLR.

    x: rows of the head of what is common; y: of the salient head, at 0 outside the set of interest. It is low where
    rows of the two heads together are spread.
    """
    y = _of_interest(y, side)
    both = squared_distances(x, x) + squared_distances(y, y)
    return jnp.mean(jax.nn.logsumexp(-t * both, axis=1)) - jnp.log(len(x))


def _of_interest(x: jax.Array, side: dict) -> jax.Array:
    return jnp.where((side["is_target"] == 1)[:, None], x, 0.0)


def _mean(values: jax.Array, among: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(among, values, 0.0)) / jnp.maximum(jnp.sum(among), 1)
