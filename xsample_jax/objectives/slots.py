"""How alike two embeddings are: the similarity of the student, before it is divided by the temperature.

Every similarity is `f(x, y, u, v, **options) -> [A, K]`: x [A, D], y [K, D] unit rows with gradient; u, v their side
information. Row-specific keys (synthetic negatives) have y [A, K, D].
"""

import jax
import jax.numpy as jnp

from xsample_jax.graphs.sources import identity
from xsample_jax.graphs.targets import MASKED
from xsample_jax.objectives.cross_entropy import log_sum
from xsample_jax.ops import products, squared_distances, unit_rows
from xsample_jax.registry import Slot

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
    """Cosine in the features that the anchor's gate lets through (SimLAP, arXiv 2410.18200); side: gate [A, D].

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
    "dot": Slot(dot),
    "negative_distance": Slot(negative_distance, limits={"power": (0.1, 8)}),
    "margin": Slot(margin, reads=("id",)),
    "gated": Slot(gated, of_anchors=("gate",), learns=("gate",)),
    "volume": Slot(volume),
}


def all_products(first: jax.Array, second: jax.Array) -> jax.Array:
    """first_i * second_j for all pairs, [B, D] x [B, D] -> [B * B, D]: the keys of Symile (arXiv 2411.01053)."""
    return (first[:, None] * second[None, :]).reshape(-1, first.shape[-1])


# Denominator weights N [A, K]: what an anchor is pushed away from, and how hard.
#
# Every rule is `f(logits [A, K], target [A, K], valid bool [A, K], u, v, **options) -> float [A, K]`, zero where
# invalid;
# u, v: side information of anchors and keys. No gradient flows into the weights.


def everything(logits: jax.Array, target: jax.Array, valid: jax.Array, u: dict, v: dict) -> jax.Array:
    """1 on every valid pair, positives included: InfoNCE."""
    return valid.astype(logits.dtype)


def not_positive(logits: jax.Array, target: jax.Array, valid: jax.Array, u: dict, v: dict) -> jax.Array:
    """1 on valid pairs whose target is 0: what the `own` denominator and decoupled objectives ask for."""
    return (valid & (target <= 0)).astype(logits.dtype)


def other_images(logits: jax.Array, target: jax.Array, valid: jax.Array, u: dict, v: dict) -> jax.Array:
    """1 on other images: DCL (arXiv 2110.06848, eq. 6) takes the positive out of its own denominator."""
    return (valid & (identity(u, v) == 0)).astype(logits.dtype)


def own_and_queue(logits: jax.Array, target: jax.Array, valid: jax.Array, u: dict, v: dict) -> jax.Array:
    """1 on keys of the anchor's image and on those of no image of the batch, as a queue's: MoCo (arXiv 1911.05722)."""
    return (valid & ((identity(u, v) > 0) | (v["row"][None, :] < 0))).astype(logits.dtype)


def hardest(logits: jax.Array, target: jax.Array, valid: jax.Array, u: dict, v: dict, *, k: int) -> jax.Array:
    """1 on the k most similar pairs without target (Wang and Liu, arXiv 2012.09740, section 5)."""
    negative = valid & (target <= 0)
    among = jnp.where(negative, logits, -jnp.inf)
    lowest = jax.lax.top_k(among, min(k, logits.shape[-1]))[0][:, -1:]
    return (negative & (among >= lowest)).astype(logits.dtype)


def importance(
    logits: jax.Array, target: jax.Array, valid: jax.Array, u: dict, v: dict, *, beta: float = 1.0
) -> jax.Array:
    """exp(beta S), mean 1 over the pairs without target (hard negatives, arXiv 2010.04592, eq. 4)."""
    negative = not_positive(logits, target, valid, u, v)
    highest = jnp.max(jnp.where(negative > 0, beta * logits, -jnp.inf), axis=-1, keepdims=True)
    weight = jnp.where(negative > 0, jnp.exp(jnp.where(negative > 0, beta * logits - highest, 0.0)), 0.0)
    return weight * negative.sum(axis=-1, keepdims=True) / jnp.maximum(weight.sum(axis=-1, keepdims=True), 1e-30)


def clusters_apart(logits: jax.Array, target: jax.Array, valid: jax.Array, u: dict, v: dict) -> jax.Array:
    """The number of clusterings that keep the pair apart (MEOW, arXiv 2212.13847); side information cluster [A, M]."""
    known = (u["cluster"][:, None, :] >= 0) & (v["cluster"][None, :, :] >= 0)
    apart = jnp.sum(known & (u["cluster"][:, None, :] != v["cluster"][None, :, :]), axis=-1)
    return jnp.where(valid, apart, 0).astype(logits.dtype)


def same_label(logits: jax.Array, target: jax.Array, valid: jax.Array, u: dict, v: dict) -> jax.Array:
    """1 on pairs of one known class: contrastive unlearning pushes away from the own class."""
    same = (u["label"][:, None] == v["label"][None, :]) & (u["label"][:, None] >= 0)
    return (valid & same).astype(logits.dtype)


def neither_label(logits: jax.Array, target: jax.Array, valid: jax.Array, u: dict, v: dict) -> jax.Array:
    """1 on keys of a known class, neither the anchor's nor the second one that it is compared in (SimLAP)."""
    key = v["label"][None, :]
    apart = (key >= 0) & (key != u["label"][:, None]) & (key != u["second_label"][:, None])
    return (valid & apart).astype(logits.dtype)


def same_owner(logits: jax.Array, target: jax.Array, valid: jax.Array, u: dict, v: dict) -> jax.Array:
    """1 on keys made for this anchor, and on the positive (DeGLA's hard captions); side information owner [K]."""
    mine = ((u["id"][:, None] == v["owner"][None, :]) & (u["id"][:, None] >= 0)) | (target > 0)
    return (valid & mine).astype(logits.dtype)


def same_group(logits: jax.Array, target: jax.Array, valid: jax.Array, u: dict, v: dict) -> jax.Array:
    """1 within a group of rows (M2-Encoder gathers within a node); side information group [A]."""
    same = (u["group"][:, None] == v["group"][None, :]) & (u["group"][:, None] >= 0)
    return (valid & same).astype(logits.dtype)


NEGATIVES = {
    "everything": Slot(everything),
    "not_positive": Slot(not_positive),
    "other_images": Slot(other_images, reads=("id",)),
    "own_and_queue": Slot(own_and_queue, reads=("id",), of_keys=("row",)),
    "hardest": Slot(hardest, limits={"k": (1, None)}),
    "importance": Slot(importance),
    "clusters_apart": Slot(clusters_apart, reads=("cluster",)),
    "same_label": Slot(same_label, reads=("label",)),
    "neither_label": Slot(neither_label, reads=("label",), of_anchors=("second_label",), learns=("gate",)),
    "same_owner": Slot(same_owner, of_anchors=("id",), of_keys=("owner",)),
    "same_group": Slot(same_group, reads=("group",)),
}


# Row weights: how much an anchor counts (w), is attracted (a), is repelled (r). No gradient flows through them.
#
# Every rule is `f(logits [A, K], target [A, K], weight N [A, K], log_denominator R [A, 1] or [A, K], u, temperature,
# **options) -> [A]`.


def focal(logits, target, weight, log_denominator, u, temperature, *, gamma: float = 0.5) -> jax.Array:
    """(1 - p)^gamma with p the probability of the positives (KaLM-Embedding-V2, arXiv 2506.20923)."""
    return _probability_of_negatives(logits, target, weight) ** gamma


def inverse_one_minus_p(logits, target, weight, log_denominator, u, temperature) -> jax.Array:
    """1 / (1 - p) of the positive: undoes the shrinking gradient of easy rows (MACL, arXiv 2207.07874).

    At most 1e6: nearer to 1, float32 cannot tell how far p is from it. At tau = 0.02 rows of cosine 0.3 more than all
    negatives reach that.
    """
    negatives = _probability_of_negatives(logits, target, weight)
    return jnp.where(negatives > 0, 1 / jnp.maximum(negatives, 1e-6), 1.0)


def dual_temperature(
    logits, target, weight, log_denominator, u, temperature, *, cold: float = 0.1, warm: float = 1.0
) -> jax.Array:
    """(1 - p at tau = warm) / (1 - p at tau = cold), p the positive's probability (SimCo, arXiv 2203.17248, eq. 8)."""
    similarity = logits * temperature
    at_warm, at_cold = (_log_probability_of_negatives(similarity / tau, target, weight) for tau in (warm, cold))
    negative = jnp.any(weight * (target <= 0) > 0, axis=-1)
    return jnp.where(negative, jnp.exp(jnp.clip(at_warm - at_cold, -60.0, 60.0)), 1.0)


def near_positive(logits, target, weight, log_denominator, u, temperature, *, sigma: float = 0.5) -> jax.Array:
    """2 - A softmax over the anchors of <z, z+> / sigma (DCLW, arXiv 2110.06848, eq. 7): far positives pull harder."""
    best = jnp.sum(jnp.where(target > 0, target * logits * temperature, 0.0), axis=-1)
    counted = jnp.any(target > 0, axis=-1)
    return 2 - jnp.sum(counted) * jax.nn.softmax(best / sigma, where=counted)


def moving_average(logits, target, weight, log_denominator, u, temperature) -> jax.Array:
    """Z_i / u_i: Z_i the mean of e^S over the negatives, u_i its moving average (SogCLR, arXiv 2202.12387, eq. 5).

    Side information log_average [A]: log u_i. The gradient is that of a batch as large as the data set's average.
    """
    return jnp.where(jnp.any(weight > 0, axis=-1), _over_average(_log_mean(logits, weight), u), 1.0)


def moving_average_gap(logits, target, weight, log_denominator, u, temperature) -> jax.Array:
    """tau_i g_i / u_i with g_i the mean of e^{S - S+} over the negatives (iSogCLR, arXiv 2305.11965, eq. 6)."""
    gap = _log_mean(logits, weight) - jnp.sum(target * logits, axis=-1)
    ratio = jnp.where(jnp.any(weight > 0, axis=-1), _over_average(gap, u), 0.0)
    return u["anchor_temperature"] * ratio


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
    "moving_average": Slot(moving_average, of_anchors=("log_average",), learns=("average",)),
    "moving_average_gap": Slot(
        moving_average_gap, of_anchors=("log_average", "anchor_temperature"), learns=("anchor_temperature",)
    ),
}


# The temperature tau of the student logits: constant, learned, scheduled, per class, per anchor, or model-aware.
#
# A learned temperature is log(1/tau) among the parameters. As in CLIP, the parameter is clamped after every update,
# not the value that the loss reads: a parameter at its bound keeps its gradient and can come back. A rule turns the
# base
# temperature into what the logits are divided by: `f(base, u, similarity [A, K], target [A, K], progress, **options)`
# -> scalar or [A, 1],
# with `progress` the share of the run that is over. No gradient flows through a rule, only through a learned base.


LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.01, 1.0  # CLIP clamps its logit scale at 100 = 1 / 0.01


def initial_log_scale(temperature: float) -> jax.Array:
    """The learnable parameter log(1/tau), a float32 scalar; a temperature out of bounds starts at its bound."""
    return clamped_log_scale(jnp.asarray(-jnp.log(temperature), jnp.float32))


def clamped_log_scale(log_scale: jax.Array) -> jax.Array:
    """The parameter within the bounds of tau, [0.01, 1]."""
    return jnp.clip(log_scale, -jnp.log(HIGHEST_TEMPERATURE), -jnp.log(LOWEST_TEMPERATURE))


def learned_temperature(log_scale: jax.Array) -> jax.Array:
    """tau from the parameter, in [0.01, 1] also for a parameter out of bounds (a weight file may bring one).

    The gradient in the parameter passes the bounds: the clamp belongs to the parameter (clamped_log_scale).
    """
    beyond = jax.lax.stop_gradient(clamped_log_scale(log_scale) - log_scale)
    return jnp.exp(-(log_scale + beyond))


def base(base, u, similarity, target, progress):
    """The constant or learned temperature as it is."""
    return base


def schedule(base, u, similarity, target, progress, *, low: float = 0.1, periods: float = 4.0):
    """Between `low` and the base as a cosine with `periods` periods over the run (arXiv 2303.13664, eq. 6)."""
    return low + 0.5 * (base - low) * (1 + jnp.cos(2 * jnp.pi * periods * progress))


def per_class(base, u, similarity, target, progress):
    """base * class_temperature [A] of the anchor's class (SBCL gives dense classes a lower one, arXiv 2306.15925)."""
    return base * u["class_temperature"][:, None]


def per_anchor(base, u, similarity, target, progress):
    """tau_i [A] of the anchor's image, kept between steps (iSogCLR, arXiv 2305.11965)."""
    return u["anchor_temperature"][:, None]


def model_aware(base, u, similarity, target, progress, *, alpha: float = 0.5, center: float = 0.0):
    """base (1 + alpha (A - center)), A the mean similarity of positives (MACL, arXiv 2207.07874, eq. 7)."""
    aligned = jnp.sum(target * jax.lax.stop_gradient(similarity)) / jnp.maximum(jnp.sum(target), 1e-12)
    return base * (1 + alpha * (aligned - center))


TEMPERATURES = {
    "base": Slot(base),
    "schedule": Slot(schedule, limits={"low": (1e-3, None)}),
    "per_class": Slot(per_class, of_anchors=("class_temperature",)),
    "per_anchor": Slot(per_anchor, of_anchors=("anchor_temperature",), learns=("anchor_temperature",)),
    "model_aware": Slot(model_aware, limits={"alpha": (0, 0.99), "center": (-1, 1)}),
}


# Synthetic keys made of real ones: extra negatives of one anchor each (MoCHi, arXiv 2010.01028).
#
# Every mixer is `f(x [A, D], y [K, D], negative bool [A, K], key [A], **options) -> [A, M, D]` unit rows without
# gradient; key: a random key for every anchor, or one for all.


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
    key = key if key.ndim else jax.random.split(key, len(x))
    draw = iter(jax.vmap(lambda of_row: jax.random.split(of_row, 5), out_axes=1)(key))
    count = jnp.clip(jnp.sum(negative, axis=1, keepdims=True), 1, hard.shape[1])

    def some(number):
        chosen = jax.vmap(lambda of_row, most: jax.random.randint(of_row, (number,), 0, most[0]))(next(draw), count)
        return y[jnp.take_along_axis(hard, chosen, axis=1)]

    first, second, third = some(mixed), some(mixed), some(with_anchor)
    alpha = jax.vmap(lambda of_row: jax.random.uniform(of_row, (mixed, 1)))(next(draw))
    beta = 0.5 * jax.vmap(lambda of_row: jax.random.uniform(of_row, (with_anchor, 1)))(next(draw))
    return unit_rows(
        jnp.concatenate([alpha * first + (1 - alpha) * second, beta * x[:, None] + (1 - beta) * third], axis=1)
    )


MIXERS = {"hard_mixtures": Slot(hard_mixtures, limits=dict.fromkeys(("hardest", "mixed", "with_anchor"), (1, 2**20)))}


# Other ways than a softmax to make the logits S match the target T, on the same pairs.
#
# Every link is `f(logits [A, K], target [A, K], valid [A, K], **options) -> [A]`.


def sigmoid(logits: jax.Array, target: jax.Array, valid: jax.Array) -> jax.Array:
    """Every pair is a yes-no question (SigLIP, arXiv 2303.15343, eq. 1): sum over keys, so its scale grows with K."""
    wrong = target * jax.nn.softplus(-logits) + (1 - target) * jax.nn.softplus(logits)
    return jnp.sum(jnp.where(valid, wrong, 0.0), axis=-1)


def sigmoid_mean(logits: jax.Array, target: jax.Array, valid: jax.Array) -> jax.Array:
    """Binary cross-entropy, mean over the valid keys."""
    return sigmoid(logits, target, valid) / jnp.maximum(valid.sum(axis=-1), 1)


def robust(logits: jax.Array, target: jax.Array, valid: jax.Array, *, q: float = 0.5, lam: float = 0.01) -> jax.Array:
    """RINCE (arXiv 2201.04309, eq. 4): -e^{q s+}/q + (lam (e^{s+} + sum of negatives))^q / q; q -> 0 is InfoNCE."""
    positive = log_sum(logits, target)
    everything = log_sum(logits, valid.astype(logits.dtype))
    if q == 0:
        return jnp.log(lam) + everything - positive
    # e^a - e^b as expm1(a) - expm1(b): for q near 0 both are near 1.
    return (jnp.expm1(q * (jnp.log(lam) + everything)) - jnp.expm1(q * positive)) / q


def symmetric(logits: jax.Array, target: jax.Array, valid: jax.Array) -> jax.Array:
    """(H(T, p) + H(p, T)) / 2, as in Robust Mean Teacher (arXiv 2211.13081, eq. 1); T must have no hard zeros."""
    log_p = jax.nn.log_softmax(jnp.where(valid, logits, MASKED), axis=-1)
    log_t = jnp.log(jnp.maximum(target, 1e-30))
    pairs = -target * log_p - jnp.exp(log_p) * log_t
    return 0.5 * jnp.sum(jnp.where(valid, pairs, 0.0), axis=-1)


def pairwise(logits: jax.Array, target: jax.Array, valid: jax.Array) -> jax.Array:
    """sum over (positive p, negative n) of a row of softplus(S_n - S_p)."""
    positive, negative = _positive(target), _negative(target, valid)
    gap = jax.nn.softplus(logits[:, None, :] - logits[:, :, None])
    return jnp.sum(positive[:, :, None] * negative[:, None, :] * gap, axis=(1, 2))


def pairwise_global(logits: jax.Array, target: jax.Array, valid: jax.Array) -> jax.Array:
    """MW (arXiv 2510.00137, eq. 3): every positive of a row against every negative pair of the whole batch."""
    positive, negative = _positive(target), _negative(target, valid)

    def against_all(score):
        return jnp.sum(negative * jax.nn.softplus(logits - score))

    # One positive pair at a time: the set of all (positive, negative) pairs has K^3 members.
    per_pair = jax.lax.map(against_all, logits.reshape(-1), batch_size=16).reshape(logits.shape)
    return jnp.sum(positive * per_pair, axis=-1)


def joint(logits: jax.Array, target: jax.Array, valid: jax.Array) -> jax.Array:
    """log(1 + sum over pairs of a row of e^{S_n - S_p}) (CTVIS, arXiv 2307.12616, eq. 5; circle loss has this form)."""
    positive, negative = _positive(target), _negative(target, valid)
    return jax.nn.softplus(log_sum(logits, negative) + log_sum(-logits, positive))


def square(logits: jax.Array, target: jax.Array, valid: jax.Array) -> jax.Array:
    """Regression of one graph to another, mean over valid keys of (S - T)^2 (CyCLIP; RKD on distances)."""
    return jnp.sum(jnp.where(valid, (logits - target) ** 2, 0.0), axis=-1) / jnp.maximum(valid.sum(axis=-1), 1)


def _positive(target: jax.Array) -> jax.Array:
    return (target > 0).astype(target.dtype)


def _negative(target: jax.Array, valid: jax.Array) -> jax.Array:
    return (valid & (target <= 0)).astype(target.dtype)


LINKS = {
    "sigmoid": Slot(sigmoid),
    "sigmoid_mean": Slot(sigmoid_mean),
    "robust": Slot(robust, limits={"q": (0, 1), "lam": (1e-6, None)}),
    "symmetric": Slot(symmetric),
    "pairwise": Slot(pairwise),
    "pairwise_global": Slot(pairwise_global),
    "joint": Slot(joint),
    "square": Slot(square),
}
