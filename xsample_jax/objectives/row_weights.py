"""Row weights: how much an anchor counts (w), is attracted (a), is repelled (r).

Every rule is `f(rows: WeightInputs, **options) -> [A]`. No gradient flows through them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from xsample_jax.graphs.targets import MASKED
from xsample_jax.objectives.cross_entropy import cross_entropy, log_sum
from xsample_jax.registry import Slot


class WeightInputs(NamedTuple):
    """What a row weight may depend on.

    logits S, target T and weight N of the negatives, [A, K]; log_denominator R, [A, 1] or [A, K]; u: side information
    of the anchors; temperature: what the logits are divided by; progress: share of the run that is over.
    """

    logits: jax.Array
    target: jax.Array
    weight: jax.Array
    log_denominator: jax.Array
    u: dict
    temperature: jax.Array
    progress: jax.Array | float


def focal(rows: WeightInputs, *, gamma: float = 0.5) -> jax.Array:
    """(1 - p)^gamma with p the probability of the positives (KaLM-Embedding-V2, arXiv 2506.20923)."""
    return _probability_of_negatives(rows.logits, rows.target, rows.weight) ** gamma


def inverse_one_minus_p(rows: WeightInputs) -> jax.Array:
    """1 / (1 - p) of the positive: undoes the shrinking gradient of easy rows (MACL, arXiv 2207.07874).

    At most 1e6: nearer to 1, float32 cannot tell how far p is from it. At tau = 0.02 rows of cosine 0.3 more than all
    negatives reach that.
    """
    negatives = _probability_of_negatives(rows.logits, rows.target, rows.weight)
    return jnp.where(negatives > 0, 1 / jnp.maximum(negatives, 1e-6), 1.0)


def dual_temperature(rows: WeightInputs, *, cold: float = 0.1, warm: float = 1.0) -> jax.Array:
    """(1 - p at tau = warm) / (1 - p at tau = cold), p the positive's probability (SimCo, arXiv 2203.17248, eq. 8)."""
    similarity = rows.logits * rows.temperature
    at_warm, at_cold = (
        _log_probability_of_negatives(similarity / tau, rows.target, rows.weight) for tau in (warm, cold)
    )
    negative = jnp.any(rows.weight * (rows.target <= 0) > 0, axis=-1)
    return jnp.where(negative, jnp.exp(jnp.clip(at_warm - at_cold, -60.0, 60.0)), 1.0)


def near_positive(rows: WeightInputs, *, sigma: float = 0.5) -> jax.Array:
    """2 - A softmax over the anchors of <z, z+> / sigma (DCLW, arXiv 2110.06848, eq. 7): far positives pull harder."""
    best = jnp.sum(jnp.where(rows.target > 0, rows.target * rows.logits * rows.temperature, 0.0), axis=-1)
    counted = jnp.any(rows.target > 0, axis=-1)
    return 2 - jnp.sum(counted) * jax.nn.softmax(best / sigma, where=counted)


def by_loss(rows: WeightInputs, *, strategy: str = "linupper", r: float = 0.4, warm_up: float = 0.0) -> jax.Array:
    """A softmax(f(h_i) / r) over the anchors that count, h_i their loss scaled to [-1, 1] (arXiv 2502.06733).

    Args:
      strategy: linupper, f = min(h + 1, 1): the upper half of the losses counts alike, the lower less and less;
        quadratic, f = 1 - h^2: the middle; extremes, f = abs(h): both ends.
      r: how flat the weights are; they are uniform until the share `warm_up` of the run is over.
    """
    counted = jnp.any(rows.target > 0, axis=-1)
    losses = cross_entropy(rows.logits, rows.target, rows.log_denominator)
    low, high = jnp.min(losses, where=counted, initial=jnp.inf), jnp.max(losses, where=counted, initial=-jnp.inf)
    h = jnp.where(counted, 2 * (losses - low) / jnp.maximum(high - low, 1e-6) - 1, 0.0)
    f = {"linupper": jnp.minimum(h + 1, 1.0), "quadratic": 1 - h**2, "extremes": jnp.abs(h)}[strategy]
    share = jax.nn.softmax(jnp.where(rows.progress < warm_up, 0.0, f / r), where=counted)
    return jnp.sum(counted) * jnp.where(counted, share, 0.0)


def recorded(rows: WeightInputs) -> jax.Array:
    """1 / w_i of images that are drawn with the rates w of mean 1 (data.side): the mean over anchors drawn alike.

    Side information weight [A]. Over the anchors the loss has the expectation of uniform draws; the keys that they are
    compared with remain those of the batch, which are drawn with the rates.
    """
    return 1 / rows.u["weight"]


def far_views(rows: WeightInputs) -> jax.Array:
    """Views of an image that are far from their positive count more: n softmax of |x - y|^2 / tau over its n anchors.

    CACR at the scale of ImageNet (arXiv 2105.03746), for cosines of unit rows.
    """
    target, tau, id = rows.target, rows.temperature, rows.u["id"]
    cosine = tau * jnp.sum(target * rows.logits, axis=-1) / jnp.maximum(jnp.sum(target, axis=-1), 1e-12)
    same = id[:, None] == id[None, :]
    score = jnp.where(same, ((2 - 2 * cosine) / jnp.reshape(tau, -1))[None, :], MASKED)
    return jnp.sum(same, axis=1) * jnp.diagonal(jax.nn.softmax(score, axis=1))


def moving_average(rows: WeightInputs) -> jax.Array:
    """Z_i / u_i: Z_i the mean of e^S over the negatives, u_i its moving average (SogCLR, arXiv 2202.12387, eq. 5).

    Side information log_average [A]: log u_i. The gradient is that of a batch as large as the dataset's average.
    """
    return jnp.where(jnp.any(rows.weight > 0, axis=-1), _over_average(_log_mean(rows.logits, rows.weight), rows.u), 1.0)


def moving_average_gap(rows: WeightInputs) -> jax.Array:
    """tau_i g_i / u_i with g_i the mean of e^{S - S+} over the negatives (iSogCLR, arXiv 2305.11965, eq. 6)."""
    gap = _log_mean(rows.logits, rows.weight) - jnp.sum(rows.target * rows.logits, axis=-1)
    ratio = jnp.where(jnp.any(rows.weight > 0, axis=-1), _over_average(gap, rows.u), 0.0)
    return rows.u["anchor_temperature"] * ratio


def _log_probability_of_negatives(logits: jax.Array, target: jax.Array, weight: jax.Array) -> jax.Array:
    """log(1 - p) of every row, [A], p the share of its positives among them and its negatives.

    Summed over the negatives: 1 - p has no digits left in float32 where p is near 1. A positive that is not in the
    denominator weighs one.
    """
    positive = jnp.where(target > 0, jnp.where(weight > 0, weight, 1.0), 0.0)
    return jax.nn.log_sigmoid(log_sum(logits, weight * (target <= 0)) - log_sum(logits, positive))


def _probability_of_negatives(logits: jax.Array, target: jax.Array, weight: jax.Array) -> jax.Array:
    """1 - p of every row, [A]; 0 for a row without a negative."""
    return jnp.exp(_log_probability_of_negatives(logits, target, weight))


def _log_mean(logits: jax.Array, weight: jax.Array) -> jax.Array:
    """log of the mean of e^S over the weights of every row, [A]."""
    return log_sum(logits, weight) - jnp.log(jnp.maximum(weight.sum(axis=-1), 1))


def _over_average(log_mean: jax.Array, u: dict) -> jax.Array:
    """e^log_mean over the moving average of an image, at most e^20."""
    return jnp.exp(jnp.minimum(log_mean - u["log_average"], 20.0))


WEIGHTS = {
    "focal": Slot(focal, limits={"gamma": (0, None)}),
    "inverse_one_minus_p": Slot(inverse_one_minus_p),
    "dual_temperature": Slot(dual_temperature, limits={"cold": (1e-2, None), "warm": (1e-2, None)}),
    "near_positive": Slot(near_positive, limits={"sigma": (1e-2, None)}),
    "by_loss": Slot(
        by_loss,
        limits={"strategy": ("linupper", "quadratic", "extremes"), "r": (1e-3, None), "warm_up": (0, 1)},
    ),
    "far_views": Slot(far_views, of_anchors=("id",)),
    "recorded": Slot(recorded, of_anchors=("weight",)),
    "moving_average": Slot(moving_average, of_anchors=("log_average",), learns=("average",)),
    "moving_average_gap": Slot(
        moving_average_gap, of_anchors=("log_average", "anchor_temperature"), learns=("anchor_temperature",)
    ),
}
