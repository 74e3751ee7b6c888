"""Other ways than a softmax to make the logits S match the target T, on the same pairs.

Every link is `f(logits [A, K], target [A, K], valid [A, K], **options) -> [A]`; valid: the pairs that it compares, of
those without target only what the negatives of the term let in.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from xsample_jax.graphs.targets import MASKED
from xsample_jax.objectives.cross_entropy import log_sum
from xsample_jax.registry import Slot

# Links that look at a row as a whole: where its scores are, and in which order.

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


def group_order(
    logits: jax.Array, target: jax.Array, valid: jax.Array, *, k: int = 10, positives: int = 4, steepness: float = 1.0
) -> jax.Array:
    """GroCo (arXiv 2301.02009): positives come after the k nearest negatives when the row is sorted.

    The values [k largest negatives ascending, positives ascending] go through an odd-even transposition network whose
    comparators exchange only in part: for (a, b) the minimum is alpha a + (1 - alpha) b and the maximum
    (1 - alpha) a + alpha b, alpha = 1/2 + atan(steepness (b - a)) / pi. The value is the mean over inputs of -log of
    the share of the input that ends on the places of its own group.

    Args:
      k: negatives at most; a row with fewer has a network of its own size. positives: at most, the least similar ones.
      steepness: of the comparators.
    """
    most = logits.shape[-1]
    positive, negative = valid & (target > 0), valid & (target <= 0)
    near = jax.lax.top_k(jnp.where(negative, logits, MASKED), min(k, most))[0][:, ::-1]
    far = -jax.lax.top_k(jnp.where(positive, -logits, MASKED), min(positives, most))[0]
    values = jnp.concatenate([near, far], axis=1)
    is_positive = jnp.arange(values.shape[1]) >= near.shape[1]
    # The inputs that a row lacks go to its end, where no comparator touches them.
    there = jnp.abs(values) < -MASKED / 2
    order = jnp.argsort(~there, axis=1, stable=True)
    values, there = (jnp.take_along_axis(x, order, axis=1) for x in (values, there))
    of_positive = is_positive[order] & there
    # share [A, input, place]: how much of the input is at the place; an input belongs where it began, at its group.
    share = sorting_shares(jnp.where(there, values, 0.0), jnp.sum(there, axis=1), steepness)
    at_home = jnp.sum(jnp.where(of_positive[:, :, None] == of_positive[:, None, :], share, 0.0), axis=2)
    losses = jnp.where(there, -jnp.log(jnp.maximum(at_home, 1e-12)), 0.0)
    return jnp.sum(losses, axis=1) / jnp.maximum(jnp.sum(there, axis=1), 1)


def positive_margin(logits: jax.Array, target: jax.Array, valid: jax.Array) -> jax.Array:
    """Least similar positive less most similar negative of every row, [A]; 0 where a row lacks one of them."""
    positive, negative = valid & (target > 0), valid & (target <= 0)
    lowest = jnp.min(logits, axis=-1, where=positive, initial=jnp.inf)
    highest = jnp.max(logits, axis=-1, where=negative, initial=-jnp.inf)
    both = jnp.any(positive, axis=-1) & jnp.any(negative, axis=-1)
    return jnp.where(both, lowest - highest, 0.0)


def sorting_shares(values: jax.Array, count: jax.Array, steepness: float) -> jax.Array:
    """What the relaxed odd-even network makes of the first `count` [A] of the values [A, n] of every row.

    Returns the shares [A, input, place]; rows and columns of the inputs that count sum to one over those.
    """
    number = values.shape[1]
    share = jnp.broadcast_to(jnp.eye(number, dtype=values.dtype), (len(values), number, number))
    for layer in range(number):
        first = layer % 2
        low, high = slice(first, number - 1, 2), slice(first + 1, number, 2)
        a, b = values[:, low], values[:, high]
        compared = (jnp.arange(first + 1, number, 2) < count[:, None]) & (layer < count[:, None])
        alpha = jnp.where(compared, 0.5 + jnp.arctan(steepness * (b - a)) / jnp.pi, 1.0)
        values = values.at[:, low].set(alpha * a + (1 - alpha) * b).at[:, high].set((1 - alpha) * a + alpha * b)
        a, b, alpha = share[:, :, low], share[:, :, high], alpha[:, None, :]
        share = share.at[:, :, low].set(alpha * a + (1 - alpha) * b).at[:, :, high].set((1 - alpha) * a + alpha * b)
    return share


def conditional(
    logits: jax.Array,
    target: jax.Array,
    valid: jax.Array,
    *side: dict,
    part: str = "both",
    far: float = 1.0,
    near: float = 0.9,
    through: str = "all",
) -> jax.Array:
    """CACR (arXiv 2105.03746), for S = -|x - y|^2: far positives pull harder, near negatives push harder.

    attraction: sum over positives of softmax(-far S) (-S). repulsion: sum over negatives of softmax(near S) S.

    Args:
      part: attraction, repulsion or both.
      through: whether gradient flows through the two softmaxes: all (as in the published code without a queue), none,
        or batch (only through the scores of keys of the batch: its code with a queue); side: of both ends, for batch.
    """
    weighing = logits if through == "all" else jax.lax.stop_gradient(logits)
    if through == "batch":
        weighing = jnp.where(side[1]["row"][None, :] >= 0, logits, weighing)
    pull = -_weighted_mean(logits, -far * weighing, valid & (target > 0))
    push = _weighted_mean(logits, near * weighing, valid & (target <= 0))
    return {"attraction": pull, "repulsion": push, "both": pull + push}[part]


def _weighted_mean(logits: jax.Array, weighing: jax.Array, among: jax.Array) -> jax.Array:
    """sum over the pairs `among` of softmax(weighing) S, [A]; 0 for a row that has none."""
    weight = jax.nn.softmax(jnp.where(among, weighing, MASKED), axis=-1)
    return jnp.sum(jnp.where(among, weight * logits, 0.0), axis=-1)


# Links of single pairs.


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
    negative = _negative(target, valid)
    return _over_positives(
        lambda score: jnp.sum(negative * jax.nn.softplus(logits - score[:, None]), axis=1), logits, target
    )


def pairwise_global(logits: jax.Array, target: jax.Array, valid: jax.Array) -> jax.Array:
    """MW (arXiv 2510.00137, eq. 3): every positive of a row against every negative pair of the whole batch."""
    negative = _negative(target, valid)

    @jax.checkpoint
    def against_all(score):
        return jnp.sum(negative * jax.nn.softplus(logits - score))

    return _over_positives(lambda score: jax.lax.map(against_all, score, batch_size=16), logits, target)


def _over_positives(compare: Callable, logits: jax.Array, target: jax.Array) -> jax.Array:
    """The sum over the positives of every row of compare(scores [A] of one positive of each), [A].

    Forward and backward hold one positive of each row at a time, and take as many rounds as the row with the most has.
    """
    positive = _positive(target)
    order = jnp.argsort(-positive, axis=1)
    scores, there = (jnp.take_along_axis(of, order, axis=1).T for of in (logits, positive))

    @jax.checkpoint
    def add(total, one):
        score, known = one
        return jax.lax.cond(jnp.any(known > 0), lambda: total + known * compare(score), lambda: total), None

    return jax.lax.scan(add, jnp.zeros(len(logits), jnp.result_type(logits, target)), (scores, there))[0]


def joint(logits: jax.Array, target: jax.Array, valid: jax.Array) -> jax.Array:
    """log(1 + sum over pairs of a row of e^{S_n - S_p}) (CTVIS, arXiv 2307.12616, eq. 5; circle loss has this form)."""
    positive, negative = _positive(target), _negative(target, valid)
    return jax.nn.softplus(log_sum(logits, negative) + log_sum(-logits, positive))


def square(logits: jax.Array, target: jax.Array, valid: jax.Array) -> jax.Array:
    """Regression of one graph to another, mean over valid keys of (S - T)^2 (CyCLIP; RKD on distances)."""
    return jnp.sum(jnp.where(valid, (logits - target) ** 2, 0.0), axis=-1) / jnp.maximum(valid.sum(axis=-1), 1)


def contrastive(
    logits: jax.Array, target: jax.Array, count: jax.Array, *, near: float = 0.0, far: float = 0.5
) -> jax.Array:
    """Contrastive loss with margins, for S = -|x - y|: attraction above the distance `near`, repulsion below `far`.

    T is the share of a pair that is a positive: sum of T max(d - near, 0) over the pairs of all rows / the number of
    those that are not 0, and the same of (1 - T) max(far - d, 0), times the rows, so that their mean is the loss. The
    form for mixed pairs is that of Metrix (arXiv 2106.04990). count: how often a pair counts.
    """
    pull, push = target * jax.nn.relu(-logits - near), (1 - target) * jax.nn.relu(far + logits)
    return sum(_mean_of_nonzero(part, count) for part in (pull, push))


def _mean_of_nonzero(pairs: jax.Array, count: jax.Array) -> jax.Array:
    """Sums of rows over the mean number per row of pairs that are not 0, [A]."""
    number = jnp.sum(jnp.where(pairs > 0, count, 0.0)) / len(pairs)
    return jnp.sum(pairs * count, axis=-1) / jnp.where(number > 0, number, 1.0)


def multi_similarity(
    logits: jax.Array,
    target: jax.Array,
    count: jax.Array,
    *,
    attraction: float = 2.0,
    repulsion: float = 50.0,
    at: float = 0.5,
) -> jax.Array:
    """log(1 + sum T e^{-a (S - at)}) / a + log(1 + sum (1 - T) e^{r (S - at)}) / r, T shares as in `contrastive`.

    The constants are those of a public library; the form for mixed pairs is written from memory of arXiv 2106.04990.
    """
    pull = jax.nn.softplus(log_sum(-attraction * (logits - at), target * count)) / attraction
    push = jax.nn.softplus(log_sum(repulsion * (logits - at), (1 - target) * count)) / repulsion
    return pull + push


# Links for which T is the share of a pair that is positive, so that any pair below 1 pushes.
OF_SHARES = ("sigmoid", "sigmoid_mean", "contrastive", "multi_similarity")
# Links that can count a pair several times, as mixtures that stand for others do.
COUNTING = ("contrastive", "multi_similarity")


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
    "contrastive": Slot(contrastive, limits={"near": (0, 2), "far": (0, 2)}),
    "multi_similarity": Slot(
        multi_similarity, limits={"attraction": (1e-3, 1e3), "repulsion": (1e-3, 1e3), "at": (-1, 1)}
    ),
    "z": Slot(z, limits={"sharpness": (1e-3, 1e3)}),
    "soft_top_k": Slot(soft_top_k, limits={"k": (0, None), "alpha": (1e-3, 1e3)}),
    "pearson": Slot(pearson),
    "rank_kl": Slot(rank_kl, limits={"rank_temperature": (1e-3, None)}),
    "pro": Slot(pro),
    "group_order": Slot(group_order, limits={"k": (1, 64), "positives": (1, 64), "steepness": (1e-3, 1e3)}),
    "conditional": Slot(
        conditional,
        limits={
            "part": ("both", "attraction", "repulsion"),
            "far": (0, 1e3),
            "near": (0, 1e3),
            "through": ("all", "batch", "none"),
        },
        chosen=lambda through="all", **rest: {"of_keys": ("row",)} if through == "batch" else {},
    ),
}
