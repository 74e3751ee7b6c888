"""Denominator weights N [A, K]: what an anchor is pushed away from, and how hard.

Every rule is `f(logits [A, K], target [A, K], valid bool [A, K], u, v, **options) -> float [A, K]`, zero where invalid;
u, v: side information of anchors and keys. No gradient flows into the weights.
"""

import jax
import jax.numpy as jnp

from xsample_jax.graphs.sources import identity


def everything(logits: jax.Array, target: jax.Array, valid: jax.Array, u: dict, v: dict) -> jax.Array:
    """1 on every valid pair, positives included: InfoNCE."""
    return valid.astype(logits.dtype)


def not_positive(logits: jax.Array, target: jax.Array, valid: jax.Array, u: dict, v: dict) -> jax.Array:
    """1 on valid pairs whose target is 0: what the `own` denominator and decoupled objectives ask for."""
    return (valid & (target <= 0)).astype(logits.dtype)


def other_images(logits: jax.Array, target: jax.Array, valid: jax.Array, u: dict, v: dict) -> jax.Array:
    """1 on other images: DCL (arXiv 2110.06848, eq. 6) takes the positive out of its own denominator."""
    return (valid & (identity(u, v) == 0)).astype(logits.dtype)


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
    weight = jnp.exp(beta * (logits - jnp.max(jnp.where(negative > 0, logits, -jnp.inf), axis=-1, keepdims=True)))
    weight = jnp.where(negative > 0, weight, 0.0)
    return weight * negative.sum(axis=-1, keepdims=True) / jnp.maximum(weight.sum(axis=-1, keepdims=True), 1e-30)


def clusters_apart(logits: jax.Array, target: jax.Array, valid: jax.Array, u: dict, v: dict) -> jax.Array:
    """The number of clusterings that keep the pair apart (MEOW, arXiv 2305.04501); side information cluster [A, M]."""
    apart = jnp.sum(u["cluster"][:, None, :] != v["cluster"][None, :, :], axis=-1)
    return jnp.where(valid, apart, 0).astype(logits.dtype)


def same_label(logits: jax.Array, target: jax.Array, valid: jax.Array, u: dict, v: dict) -> jax.Array:
    """1 on pairs of one known class: contrastive unlearning pushes away from the own class."""
    same = (u["label"][:, None] == v["label"][None, :]) & (u["label"][:, None] >= 0)
    return (valid & same).astype(logits.dtype)


def neither_label(logits: jax.Array, target: jax.Array, valid: jax.Array, u: dict, v: dict) -> jax.Array:
    """1 on keys of neither the anchor's class nor the second class that it is compared in (SimLAP)."""
    key = v["label"][None, :]
    return (valid & (key != u["label"][:, None]) & (key != u["second_label"][:, None])).astype(logits.dtype)


def same_owner(logits: jax.Array, target: jax.Array, valid: jax.Array, u: dict, v: dict) -> jax.Array:
    """1 on keys made for this anchor, and on the positive (DeGLA's hard captions); side information owner [K]."""
    mine = (u["id"][:, None] == v["owner"][None, :]) | (target > 0)
    return (valid & mine).astype(logits.dtype)


def same_group(logits: jax.Array, target: jax.Array, valid: jax.Array, u: dict, v: dict) -> jax.Array:
    """1 within a group of rows (M2-Encoder gathers within a node); side information group [A]."""
    return (valid & (u["group"][:, None] == v["group"][None, :])).astype(logits.dtype)


NEGATIVES = {
    "everything": everything,
    "not_positive": not_positive,
    "other_images": other_images,
    "hardest": hardest,
    "importance": importance,
    "clusters_apart": clusters_apart,
    "same_label": same_label,
    "neither_label": neither_label,
    "same_owner": same_owner,
    "same_group": same_group,
}
