"""From similarities to target distributions: the rows of a target graph T sum to one over the valid keys.

Every normaliser is `f(similarity [A, K], valid bool [A, K], target_temperature) -> T [A, K]`, zero where invalid.
"""

import jax
import jax.numpy as jnp

MASKED = -1e9  # finite, so that 0 * MASKED is 0 and never NaN


def softmax(similarity: jax.Array, valid: jax.Array, target_temperature: float) -> jax.Array:
    """T_ik = exp(G_ik / tau_s) / sum over valid k of the same (X-CLR)."""
    logits = jnp.where(valid, similarity / target_temperature, MASKED)
    return jnp.where(valid, jax.nn.softmax(logits, axis=-1), 0.0)


def row_sum(similarity: jax.Array, valid: jax.Array, target_temperature: float | None = None) -> jax.Array:
    """T_ik = G_ik / sum over valid k of G_ik (SupCon, CWCL), for G >= 0. A row without any positive stays all zero."""
    del target_temperature
    weight = jnp.where(valid, similarity, 0.0)
    return weight / jnp.maximum(weight.sum(axis=-1, keepdims=True), 1e-12)


def sinkhorn(similarity: jax.Array, valid: jax.Array, target_temperature: float, *, iterations: int = 3) -> jax.Array:
    """Balanced assignment (Cuturi 2013; SwAV, arXiv 2006.09882): exp(G / tau_s), then columns and rows in turn.

    Columns are scaled to sum to A / K, rows to 1, `iterations` times; rows last, so that every row is a distribution.
    """
    rows, columns = similarity.shape
    largest = jax.lax.stop_gradient(jnp.max(jnp.where(valid, similarity, MASKED)))
    plan = jnp.where(valid, jnp.exp((similarity - largest) / target_temperature), 0.0)
    for _ in range(iterations):
        plan = plan * (rows / columns) / jnp.maximum(plan.sum(axis=0, keepdims=True), 1e-30)
        plan = plan / jnp.maximum(plan.sum(axis=1, keepdims=True), 1e-30)
    return plan


def none(similarity: jax.Array, valid: jax.Array, target_temperature: float | None = None) -> jax.Array:
    """T_ik = G_ik: for the links that look at single pairs, and for sums over positives instead of means."""
    del target_temperature
    return jnp.where(valid, similarity, 0.0)


NORMALISERS = {"softmax": softmax, "row_sum": row_sum, "sinkhorn": sinkhorn, "none": none}
WITH_TEMPERATURE = ("softmax", "sinkhorn")
NON_NEGATIVE = ("row_sum", "none")  # normalisers that need similarities >= 0: cosines are not
