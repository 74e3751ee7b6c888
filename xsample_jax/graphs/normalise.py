"""From similarities to target distributions: the rows of a target graph T sum to one over the valid keys."""

import jax
import jax.numpy as jnp

MASKED = -1e9  # finite, so that 0 * MASKED is 0 and never NaN


def softmax(similarity: jax.Array, valid: jax.Array, target_temperature: float) -> jax.Array:
    """T_ik = exp(G_ik / tau_s) / sum over valid k of the same (X-CLR). [A, K] -> [A, K]; invalid entries are 0."""
    logits = jnp.where(valid, similarity / target_temperature, MASKED)
    return jnp.where(valid, jax.nn.softmax(logits, axis=-1), 0.0)


def row_sum(similarity: jax.Array, valid: jax.Array, target_temperature: float | None = None) -> jax.Array:
    """T_ik = G_ik / sum over valid k of G_ik (SupCon, CWCL), for G >= 0. A row without any positive stays all zero."""
    del target_temperature
    weight = jnp.where(valid, similarity, 0.0)
    return weight / jnp.maximum(weight.sum(axis=-1, keepdims=True), 1e-12)


NORMALISERS = {"softmax": softmax, "row_sum": row_sum}
