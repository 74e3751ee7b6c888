"""The equation: a target graph T and student logits S over the same keys must be the same distribution.

    p_ik = exp(S_ik) / sum over valid k' of exp(S_ik')        l_i = - sum_k T_ik log p_ik = H(T_i) + KL(T_i || p_i)

X-CLR, SimCLR, SupCon and CLIP differ in T only. A self pair is invalid in T and in p alike: with it in T alone the loss
asks for log 0, with it in p alone every row carries mass that nothing can remove.
"""

import jax
import jax.numpy as jnp

from xsample_jax.graphs.normalise import MASKED


def cross_entropy(logits: jax.Array, target: jax.Array, valid: jax.Array) -> jax.Array:
    """Cross-entropy of every row. logits, target [A, K]; valid bool [A, K]; returns [A], float32 (float64 stays)."""
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    log_p = jax.nn.log_softmax(jnp.where(valid, logits, MASKED), axis=-1)
    return -jnp.sum(jnp.where(valid, target * log_p, 0.0), axis=-1)


def entropy(target: jax.Array) -> jax.Array:
    """H(T_i) of every row, in nats: the floor of the cross-entropy. [A, K] -> [A]."""
    return -jnp.sum(jnp.where(target > 0, target * jnp.log(jnp.where(target > 0, target, 1.0)), 0.0), axis=-1)


def mean_over_rows(values: jax.Array, counted: jax.Array) -> jax.Array:
    """Mean of `values` [A] over the rows where `counted` [A] is true; 0 when there is none."""
    return jnp.sum(jnp.where(counted, values, 0.0)) / jnp.maximum(jnp.sum(counted), 1)
