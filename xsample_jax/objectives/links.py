"""Other ways than a softmax to make the logits S match the target T, on the same pairs.

Every link is `f(logits [A, K], target [A, K], valid [A, K], **options) -> [A]`; valid: the pairs that it compares, of
those without target only what the negatives of the term let in.
"""

import jax
import jax.numpy as jnp

from xsample_jax.graphs.targets import MASKED
from xsample_jax.objectives.cross_entropy import log_sum
from xsample_jax.objectives.row_links import conditional, group_order, pearson, pro, rank_kl, soft_top_k, z
from xsample_jax.registry import Slot


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
