"""Row weights: how much an anchor counts (w), is attracted (a), is repelled (r). No gradient flows through them.

Every rule is `f(logits [A, K], target [A, K], weight N [A, K], log_denominator R [A, 1] or [A, K], u, temperature,
**options) -> [A]`.
"""

import jax
import jax.numpy as jnp

from xsample_jax.objectives.cross_entropy import log_sum


def focal(logits, target, weight, log_denominator, u, temperature, *, gamma: float = 0.5) -> jax.Array:
    """(1 - p)^gamma with p the probability of the positives (KaLM-Embedding-V2, arXiv 2506.20923)."""
    return (1 - _probability(logits, target, log_denominator)) ** gamma


def unsure(logits, target, weight, log_denominator, u, temperature) -> jax.Array:
    """1 / (1 - p) of the positive: undoes the shrinking gradient of easy rows (MACL, arXiv 2212.10888)."""
    return 1 / jnp.maximum(1 - _probability(logits, target, log_denominator), 1e-6)


def dual_temperature(
    logits, target, weight, log_denominator, u, temperature, *, cold: float = 0.1, warm: float = 1.0
) -> jax.Array:
    """(1 - p at tau = warm) / (1 - p at tau = cold), p the positive's probability (SimCo, arXiv 2203.17248, eq. 8)."""
    similarity = logits * temperature
    negative = weight * (target <= 0)

    def repelled(tau):
        everything = log_sum(similarity / tau, weight)
        return jnp.exp(log_sum(similarity / tau, negative) - everything)

    return repelled(warm) / jnp.maximum(repelled(cold), 1e-30)


def near_positive(logits, target, weight, log_denominator, u, temperature, *, sigma: float = 0.5) -> jax.Array:
    """2 - A softmax over the anchors of <z, z+> / sigma (DCLW, arXiv 2110.06848, eq. 7): far positives pull harder."""
    best = jnp.sum(jnp.where(target > 0, target * logits * temperature, 0.0), axis=-1)
    return 2 - len(best) * jax.nn.softmax(best / sigma)


def moving_average(logits, target, weight, log_denominator, u, temperature) -> jax.Array:
    """Z_i / u_i: Z_i the mean of e^S over the negatives, u_i its moving average (SogCLR, arXiv 2202.12387, eq. 5).

    Side information log_average [A]: log u_i. The gradient is that of a batch as large as the data set's average.
    """
    return jnp.exp(jnp.minimum(_log_mean(log_denominator, weight) - u["log_average"], 20.0))


def moving_average_gap(logits, target, weight, log_denominator, u, temperature) -> jax.Array:
    """tau_i g_i / u_i with g_i the mean of e^{S - S+} over the negatives (iSogCLR, arXiv 2305.11965, eq. 6)."""
    gap = _log_mean(log_denominator, weight) - jnp.sum(target * logits, axis=-1)
    return u["anchor_temperature"] * jnp.exp(jnp.minimum(gap - u["log_average"], 20.0))


def _probability(logits: jax.Array, target: jax.Array, log_denominator: jax.Array) -> jax.Array:
    """Probability of the positives of every row, [A]."""
    log_p = log_sum(logits, (target > 0).astype(logits.dtype)) - log_denominator[:, 0]
    return jnp.exp(jnp.minimum(log_p, 0.0))


def _log_mean(log_denominator: jax.Array, weight: jax.Array) -> jax.Array:
    """log of the mean of e^S over the weights of every row, [A]."""
    return log_denominator[:, 0] - jnp.log(jnp.maximum(weight.sum(axis=-1), 1))


WEIGHTS = {
    "focal": focal,
    "unsure": unsure,
    "dual_temperature": dual_temperature,
    "near_positive": near_positive,
    "moving_average": moving_average,
    "moving_average_gap": moving_average_gap,
}
