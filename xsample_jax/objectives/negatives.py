"""Denominator weights N [A, K]: what an anchor is pushed away from, and how hard.

Every rule is `f(logits [A, K], target [A, K], valid bool [A, K], u, v, **options) -> float [A, K]`, zero where
invalid; u, v: side information of anchors and keys. No gradient flows into the weights.
"""

import jax
import jax.numpy as jnp

from xsample_jax.graphs.sources import identity
from xsample_jax.registry import Slot


def everything(logits: jax.Array, target: jax.Array, valid: jax.Array, u: dict, v: dict) -> jax.Array:
    """1 on every valid pair, positives included: InfoNCE."""
    return valid.astype(logits.dtype)


def not_positive(logits: jax.Array, target: jax.Array, valid: jax.Array, u: dict, v: dict) -> jax.Array:
    """1 on valid pairs whose target is 0: what the `own` denominator and decoupled objectives ask for."""
    return (valid & (target <= 0)).astype(logits.dtype)


def other_images(logits: jax.Array, target: jax.Array, valid: jax.Array, u: dict, v: dict) -> jax.Array:
    """1 on other images: DCL (arXiv 2110.06848, eq. 6) takes the positive out of its own denominator."""
    return (valid & (identity(u, v) == 0)).astype(logits.dtype)


def same_view(logits: jax.Array, target: jax.Array, valid: jax.Array, u: dict, v: dict) -> jax.Array:
    """1 on other images in the anchor's own view: the negatives of GroCo (arXiv 2301.02009)."""
    same = (u["view"][:, None] == v["view"][None, :]) & (u["view"][:, None] >= 0)
    return (valid & same & (identity(u, v) == 0)).astype(logits.dtype)


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


def other_captions(logits: jax.Array, target: jax.Array, valid: jax.Array, u: dict, v: dict) -> jax.Array:
    """1 on pairs with different captions, and on the positive: COSMO has no contrast of a caption with itself."""
    other = (u["caption_number"][:, None] != v["caption_number"][None, :]) | (target > 0)
    return (valid & other).astype(logits.dtype)


def same_group(logits: jax.Array, target: jax.Array, valid: jax.Array, u: dict, v: dict) -> jax.Array:
    """1 within a group of rows (M2-Encoder gathers within a node); side information group [A]."""
    same = (u["group"][:, None] == v["group"][None, :]) & (u["group"][:, None] >= 0)
    return (valid & same).astype(logits.dtype)


def target_distance(logits: jax.Array, target: jax.Array, valid: jax.Array, u: dict, v: dict) -> jax.Array:
    """1 + |t_i - t_k| of the first of the real-valued labels: SupReMix (arXiv 2309.16633)."""
    return jnp.where(valid, 1 + jnp.abs(u["target"][:, :1] - v["target"][None, :, 0]), 0.0).astype(logits.dtype)


def positives(logits: jax.Array, target: jax.Array, valid: jax.Array, u: dict, v: dict) -> jax.Array:
    """1 on the pairs with a target: for a link, no others; mixtures of Metrix (arXiv 2106.04990) repel by 1 - T."""
    return (valid & (target > 0)).astype(logits.dtype)


NEGATIVES = {
    "everything": Slot(everything),
    "not_positive": Slot(not_positive),
    "positives": Slot(positives),
    "other_images": Slot(other_images, reads=("id",)),
    "same_view": Slot(same_view, reads=("id", "view")),
    "own_and_queue": Slot(own_and_queue, reads=("id",), of_keys=("row",)),
    "hardest": Slot(hardest, limits={"k": (1, None)}),
    "importance": Slot(importance),
    "clusters_apart": Slot(clusters_apart, reads=("cluster",)),
    "same_label": Slot(same_label, reads=("label",)),
    "neither_label": Slot(neither_label, reads=("label",), of_anchors=("second_label",), learns=("gate",)),
    "same_owner": Slot(same_owner, of_anchors=("id",), of_keys=("owner",), learns=("hard_texts",)),
    "other_captions": Slot(other_captions, reads=("caption_number",)),
    "same_group": Slot(same_group, reads=("group",)),
    "target_distance": Slot(target_distance, reads=("target",)),
}
