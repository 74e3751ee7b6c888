"""The equation: a target graph T and student logits S over the same pairs, attraction minus repulsion.

    l_i = sum_k T_ik ( r_i R_ik - a_i S_ik )          R_ik = log of the denominator of the pair (i, k)

    shared   R_ik = log sum_k' N_ik' exp S_ik'        then l_i = H(T_i, p_i), the cross-entropy of T_i and p_i = softmax
    own      R_ik = log( exp S_ik + sum_k' N_ik' exp S_ik' )       N without the positives: they do not compete
    views    R_ik = sum over views g of log sum over pairs within view g of N exp S         one denominator per view
    debiased as own, the sum over N less the share tau+ of same-class keys that N is expected to have
    clusterings  one denominator per clustering, over keys that are centers of clusters
    rank     R_ik = log sum over k' with o_ik' <= o_ik of exp S_ik'       o: similarity to the anchor; only the less
                                                                          similar ones compete with k

X-CLR, SimCLR, SupCon and CLIP are `shared` and differ in T only. A self pair is in neither T nor N unless a term says
so (Term.self_targets, Term.self_pairs): in N alone it is mass that nothing can remove.

S, T, N are [A, K], R is [A, 1] or [A, K]; row weights a (attraction) and r (repulsion) are scalars or [A].
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from xsample_jax.graphs.sources import SOURCES
from xsample_jax.graphs.targets import MASKED
from xsample_jax.registry import Choice, Slot, resolve, slot_of


def cross_entropy(
    logits: jax.Array, target: jax.Array, log_denominator: jax.Array, attraction=1.0, repulsion=1.0
) -> jax.Array:
    """l_i of every row, [A]: the mean over positives is outside the logarithm (SupCon "out")."""
    attraction, repulsion = _column(attraction), _column(repulsion)
    pairs = target * (repulsion * log_denominator - attraction * jnp.where(target > 0, logits, 0.0))
    return jnp.sum(jnp.where(target > 0, pairs, 0.0), axis=-1)


def cross_entropy_in(
    logits: jax.Array, target: jax.Array, log_denominator: jax.Array, attraction=1.0, repulsion=1.0
) -> jax.Array:
    """l_i = r_i R_i - a_i log sum_k T_ik exp S_ik: the mean over positives inside the logarithm (SupCon "in").

    Where every pair has its own denominator, R_i is such that l_i = -log sum_k T_ik exp(S_ik - R_ik) for a = r = 1.
    """
    attracted = log_sum(logits, target)
    if log_denominator.shape[1] == 1:
        repelled = log_denominator[:, 0]
    else:
        repelled = attracted - log_sum(logits - log_denominator, target)
    return repulsion * repelled - attraction * attracted


AGGREGATES = {"out": Slot(cross_entropy), "in": Slot(cross_entropy_in)}


def log_sum(logits: jax.Array, weight: jax.Array) -> jax.Array:
    """log sum_k weight_ik exp(S_ik), [A]; about -1e9 where all weights of a row are 0: `repelled` leaves that out."""
    log_weight = jnp.where(weight > 0, jnp.log(jnp.where(weight > 0, weight, 1.0)), MASKED)
    return jax.nn.logsumexp(jnp.where(weight > 0, logits, 0.0) + log_weight, axis=-1)


def repelled(logits: jax.Array, weight: jax.Array) -> jax.Array:
    """log sum_k weight_ik exp(S_ik), [A]; 0 where all weights of a row are 0: there is nothing to be pushed from."""
    return jnp.where(jnp.any(weight > 0, axis=-1), log_sum(logits, weight), 0.0)


class Pairing(NamedTuple):
    """What a denominator may ask about the pairs: side information u, v; the view that both ends share, or -1; tau."""

    u: dict
    v: dict
    view: jax.Array
    views: int
    temperature: jax.Array | float = 1.0


def shared(logits: jax.Array, weight: jax.Array, pairing: Pairing) -> jax.Array:
    """[A, 1]: all positives of a row share one denominator."""
    del pairing
    return repelled(logits, weight)[:, None]


def own(logits: jax.Array, weight: jax.Array, pairing: Pairing) -> jax.Array:
    """[A, K]: every positive competes with the negatives only (decoupled softmax)."""
    del pairing
    return jnp.logaddexp(logits, log_sum(logits, weight)[:, None])


def mean_negatives(logits: jax.Array, weight: jax.Array, pairing: Pairing) -> jax.Array:
    """[A, K]: every positive competes with the mean of the negatives, whatever their number (cMIM, arXiv 2502.19642).

    The factor is from memory, unchecked.
    """
    del pairing
    count = jnp.maximum(weight.sum(axis=-1, keepdims=True), 1e-30)
    return jnp.logaddexp(logits, log_sum(logits, weight)[:, None] - jnp.log(count))


def debiased(logits: jax.Array, weight: jax.Array, pairing: Pairing, *, tau_plus: float = 0.1) -> jax.Array:
    """[A, K]: `own` with the negatives corrected for those of the anchor's class (arXiv 2007.00224; 2010.04592, eq. 4).

    e^S_ik + max( (sum N e^S - tau_plus n e^S_ik) / (1 - tau_plus), n e^(-1/tau) ), n = sum N: no negative is further
    away than a cosine of -1. tau_plus: share of the keys that are of the anchor's class.
    """
    negatives, count = log_sum(logits, weight)[:, None], weight.sum(axis=-1, keepdims=True)
    scale = jax.lax.stop_gradient(jnp.maximum(negatives, logits))
    corrected = jnp.exp(negatives - scale) - tau_plus * count * jnp.exp(logits - scale)
    least = (1 - tau_plus) * count * jnp.exp(-1 / pairing.temperature - scale)
    return scale + jnp.log(jnp.exp(logits - scale) + jnp.maximum(corrected, least) / (1 - tau_plus))


def views(logits: jax.Array, weight: jax.Array, pairing: Pairing) -> jax.Array:
    """[A, 1]: the product of one denominator per view, over the pairs within that view (MV-DHEL)."""
    of_view = [jnp.where(pairing.view == view, weight, 0.0) for view in range(pairing.views)]
    return sum(repelled(logits, w) for w in of_view)[:, None]


def clusterings(logits: jax.Array, weight: jax.Array, pairing: Pairing) -> jax.Array:
    """[A, K]: a center competes with the centers of its own clustering (ProtoNCE of PCL and MEOW)."""
    same = pairing.v["clustering"][:, None] == pairing.v["clustering"][None, :]
    scale = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True, where=weight > 0, initial=MASKED))
    among = jnp.where(weight > 0, weight * jnp.exp(jnp.where(weight > 0, logits - scale, 0.0)), 0.0)
    total = jnp.matmul(among, same.astype(logits.dtype), precision=jax.lax.Precision.HIGHEST)
    return jnp.where(total > 0, scale + jnp.log(jnp.where(total > 0, total, 1.0)), 0.0)


def rank(logits: jax.Array, weight: jax.Array, pairing: Pairing, *, by: Choice) -> jax.Array:
    """[A, K]: the key k competes with itself and with what is no more similar to the anchor than k is.

    by: the graph source that ranks the keys (Rank-N-Contrast, arXiv 2210.01189). One sort per row, no K^2 masks.
    """
    order = resolve(SOURCES, by, "denominator.by")(pairing.u, pairing.v).reshape(logits.shape)
    return rank_log_denominators(logits, weight, jax.lax.stop_gradient(order))


def rank_log_denominators(logits: jax.Array, weight: jax.Array, order: jax.Array) -> jax.Array:
    """R_ik = log sum over k' with order_ik' <= order_ik of N_ik' e^{S_ik'}, [A, K]; ties compete with each other.

    A key k competes with itself also where its own weight N_ik is 0.
    """
    by_order = jnp.argsort(order, axis=-1)
    log_weight = jnp.where(weight > 0, jnp.log(jnp.where(weight > 0, weight, 1.0)), MASKED)
    terms = jnp.take_along_axis(logits + log_weight, by_order, axis=-1)
    running = jax.lax.cumlogsumexp(terms, axis=1)
    ranked = jnp.take_along_axis(order, by_order, axis=-1)
    last_of_tie = jax.vmap(lambda row: jnp.searchsorted(row, row, side="right") - 1)(ranked)
    running = jnp.take_along_axis(running, last_of_tie, axis=-1)
    running = jnp.take_along_axis(running, jnp.argsort(by_order, axis=-1), axis=-1)
    return jnp.where(weight > 0, running, jnp.logaddexp(running, logits))


def _read_by(by: Choice) -> dict:
    """What the rank denominator needs for the source that ranks its keys."""
    source = slot_of(SOURCES, by, "denominator.by")
    names = ("reads", "of_anchors", "of_keys", "learns", "views")
    return {name: getattr(source, name) for name in names}


DENOMINATORS = {
    "shared": Slot(shared),
    "own": Slot(own),
    "mean_negatives": Slot(mean_negatives),
    "debiased": Slot(debiased, limits={"tau_plus": (0.0, 0.99)}),
    "views": Slot(views, views=2),
    "clusterings": Slot(clusterings, of_keys=("clustering",), learns=("centers",)),
    "rank": Slot(rank, chosen=_read_by),
}


def entropy(target: jax.Array) -> jax.Array:
    """H(T_i) of every row, in nats: the floor of the cross-entropy. [A, K] -> [A]."""
    return -jnp.sum(jnp.where(target > 0, target * jnp.log(jnp.where(target > 0, target, 1.0)), 0.0), axis=-1)


def pulls(logits: jax.Array, target: jax.Array, weight: jax.Array, compete: bool) -> dict[str, jax.Array]:
    """How strongly a row pulls and pushes its keys: the weights of its gradient (arXiv 2510.14824).

    The gradient of a row is sum_k w_ik (direction of key k). Where pairs compete, in the cross-entropy, w = p - T: the
    weights of a row sum to zero. In the sigmoid links every pair is on its own, w = sigmoid(S) - T.

    Args:
      logits, target: [A, K]; weight: [A, K], N of the denominator, or where pairs do not compete which are valid.
        The first PULLED rows are looked at: all of them would cost as much as the loss.

    Returns:
      [min(A, PULLED)] each: weight_positive, the sum of -w over the keys that are pulled (w < 0), of a single positive
      1 - p; weight_negative, the mean of w over those that are pushed; weight_top_negative, the largest w. No gradient.
      Beside a streamed loss these rows are compared once more, on one device only; an objective has them where all its
      terms do.
    """
    logits, target, weight = jax.lax.stop_gradient([of[:PULLED] for of in (logits, target, weight)])
    if compete:
        slope = weight * jnp.exp(jnp.where(weight > 0, logits - log_sum(logits, weight)[:, None], 0.0)) - target
    else:  # sigmoid(S) - T, written so that no digits are lost where both are near 1
        slope = (1 - target) * jax.nn.sigmoid(logits) - target * jax.nn.sigmoid(-logits)
    slope = jnp.where(weight > 0, slope, 0.0)
    push = jnp.maximum(slope, 0.0)
    return {
        "weight_positive": jnp.sum(jnp.maximum(-slope, 0.0), axis=-1),
        "weight_negative": jnp.sum(push, axis=-1) / jnp.maximum(jnp.sum(push > 0, axis=-1), 1),
        "weight_top_negative": jnp.max(push, axis=-1),
    }


PULLS, PULLED = ("weight_positive", "weight_negative", "weight_top_negative"), 256


def mean_over_rows(values: jax.Array, counted: jax.Array) -> jax.Array:
    """Mean of `values` [A] over the rows where `counted` [A] is true; 0 when there is none."""
    return jnp.sum(jnp.where(counted, values, 0.0)) / jnp.maximum(jnp.sum(counted), 1)


def _column(weight):
    return weight[:, None] if jnp.ndim(weight) else weight
