"""Links that look at a row as a whole: where its scores stand, and in which order. Looked up in links.LINKS.

Every link is `f(logits [A, K], target [A, K], valid [A, K], **options) -> [A]`.
"""

import jax
import jax.numpy as jnp

from xsample_jax.graphs.targets import MASKED

# Losses of the order of a row: T may be anything that orders the keys, and rows of equal T ask for nothing.
OF_ORDER = ("pearson", "rank_kl", "pro")


def z(
    logits: jax.Array, target: jax.Array, valid: jax.Array, *, sharpness: float = 1.0, location: float = 0.0
) -> jax.Array:
    """Z-loss (arXiv 1604.08859): softplus(a (b - z)) / a of a positive's z-score; a sharpness, b location.

    The z-score is over all valid keys of the row, so neither a factor (the temperature) nor a constant of a row
    matters. Of several positives their mean, weighted by T. With K keys no z exceeds sqrt(K - 1): b must lie below.
    """
    losses = jax.nn.softplus(sharpness * (location - z_scores(logits, valid))) / sharpness
    return jnp.sum(jnp.where(target > 0, target * losses, 0.0), axis=-1) / _at_least(target.sum(axis=-1))


def z_scores(logits: jax.Array, valid: jax.Array) -> jax.Array:
    """(S - mean) / standard deviation of every row over its valid keys, [A, K]; 0 in a row of equal logits."""
    count = jnp.maximum(valid.sum(axis=-1, keepdims=True), 1)
    mean = jnp.sum(jnp.where(valid, logits, 0.0), axis=-1, keepdims=True) / count
    centered = jnp.where(valid, logits - mean, 0.0)
    return centered * inverse_spread(jnp.sum(centered**2, axis=-1, keepdims=True) / count, mean)


def inverse_spread(variance: jax.Array, mean: jax.Array) -> jax.Array:
    """1 / standard deviation; 0 where the variance is what the rounding of equal float32 logits leaves."""
    spread = variance > 1e-10 * (variance + mean**2)
    return jnp.where(spread, jax.lax.rsqrt(jnp.where(spread, variance, 1.0)), 0.0)


def _at_least(total: jax.Array) -> jax.Array:
    """A sum of weights to divide by; 1 where it is 0, as the numerator is then."""
    return jnp.where(total > 0, total, 1.0)


def soft_top_k(logits: jax.Array, target: jax.Array, valid: jax.Array, *, k: int = 5, alpha: float = 1.0) -> jax.Array:
    """Soft top-k loss of DEXML (arXiv 2310.10636): mean over positives of -log sigmoid(alpha (S + t)).

    t is the threshold of the row, sum over valid keys of sigmoid(alpha (S + t)) = k: the positives shall be among the k
    best, in which order does not matter. k = 0: as many as the row has positives. A row of n keys has k <= n - 1.
    """
    count = jnp.sum(valid, axis=-1, keepdims=True)
    wanted = jnp.sum(target > 0, axis=-1, keepdims=True) if k == 0 else k
    wanted = jnp.clip(wanted, 0.5, jnp.maximum(count - 1.0, 0.5)).astype(logits.dtype)
    shifted = alpha * (logits + _threshold(logits, valid, wanted, alpha))
    positive = jnp.sum(jnp.where(target > 0, target * jax.nn.softplus(-shifted), 0.0), axis=-1)
    return positive / _at_least(target.sum(axis=-1))


def _threshold(logits: jax.Array, valid: jax.Array, wanted: jax.Array, alpha: float) -> jax.Array:
    """t [A, 1] with sum sigmoid(alpha (S + t)) = wanted, by bisection; its gradient is the implicit function's."""
    still = jax.lax.stop_gradient(logits)
    # At the ends of this range the sum is below e^-10, or above the number of keys less e^-10.
    margin = (10.0 + jnp.log(logits.shape[-1])) / alpha
    low = -jnp.max(still, axis=-1, keepdims=True, where=valid, initial=MASKED) - margin
    high = -jnp.min(still, axis=-1, keepdims=True, where=valid, initial=-MASKED) + margin

    def halve(_, ends):
        low, high = ends
        middle = 0.5 * (low + high)
        above = jnp.sum(jnp.where(valid, jax.nn.sigmoid(alpha * (still + middle)), 0.0), axis=-1, keepdims=True)
        return jnp.where(above < wanted, middle, low), jnp.where(above < wanted, high, middle)

    low, high = jax.lax.fori_loop(0, 60, halve, (low, high))
    t = 0.5 * (low + high)
    slope = jax.nn.sigmoid(alpha * (still + t)) * jax.nn.sigmoid(-alpha * (still + t))
    slope = jnp.where(valid, slope, 0.0)
    share = slope / _at_least(slope.sum(axis=-1, keepdims=True))
    return t - jnp.sum(share * (logits - still), axis=-1, keepdims=True)


def pearson(logits: jax.Array, target: jax.Array, valid: jax.Array) -> jax.Array:
    """1 - Pearson's correlation of S and T over the valid keys (CoDiEmb, arXiv 2508.11442); 1 where one is constant."""
    scores, wanted = z_scores(logits, valid), z_scores(target, valid)
    return 1 - jnp.sum(scores * wanted, axis=-1) / jnp.maximum(valid.sum(axis=-1), 1)


def rank_kl(logits: jax.Array, target: jax.Array, valid: jax.Array, *, rank_temperature: float = 0.05) -> jax.Array:
    """KL(softmax of the ranks of T || softmax of S) / n over the n valid keys (CoDiEmb, arXiv 2508.11442).

    The best key has the rank score 1, the worst 0, ties their mean; scores are divided by `rank_temperature`.
    """
    count = jnp.sum(valid, axis=-1, keepdims=True)
    score = (count - 1 - _ranks(target, valid)) / jnp.maximum(count - 1, 1)
    log_t = jax.nn.log_softmax(jnp.where(valid, score / rank_temperature, MASKED), axis=-1)
    log_p = jax.nn.log_softmax(jnp.where(valid, logits, MASKED), axis=-1)
    pairs = jnp.where(valid, jnp.exp(log_t) * (log_t - log_p), 0.0)
    return jnp.sum(pairs, axis=-1) / jnp.maximum(count[:, 0], 1)


def _ranks(target: jax.Array, valid: jax.Array) -> jax.Array:
    """Rank of every key of a row by T, from 0 for the largest; ties have the mean of their ranks. [A, K]."""
    among = jnp.where(valid, target, -jnp.inf)

    def of_row(row):
        ordered = jnp.sort(row)
        first, last = (jnp.searchsorted(ordered, row, side=side) for side in ("left", "right"))
        return len(row) - last + 0.5 * (last - first - 1)

    return jax.vmap(of_row)(among)


def pro(logits: jax.Array, target: jax.Array, valid: jax.Array) -> jax.Array:
    """Preference rank optimization (CoDiEmb, arXiv 2508.11442), mean over the keys k that some key is below in T.

    -log softmax at k of w_k S_k and w_j S_j over the keys j with T_j < T_k: w_j = T_k - T_j, w_k the largest of them.
    """
    lowest = jnp.min(target, axis=-1, where=valid, initial=-MASKED)

    @jax.checkpoint
    def of_key(number):
        own, score = target[:, number], logits[:, number]
        below = valid & (target < own[:, None])
        top = (own - lowest) * score
        against = jnp.where(below, (own[:, None] - target) * logits, MASKED)
        counts = valid[:, number] & jnp.any(below, axis=-1)
        # One column more for the key itself: the sum is never empty.
        total = jax.nn.logsumexp(jnp.concatenate([top[:, None], against], axis=1), axis=1)
        return jnp.where(counts, total - top, 0.0), counts

    # One key at a time: all pairs of keys of every row would be A K^2 numbers.
    values, counts = jax.lax.map(of_key, jnp.arange(logits.shape[-1]))
    return jnp.sum(values, axis=0) / jnp.maximum(jnp.sum(counts, axis=0), 1)
