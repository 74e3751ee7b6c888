"""What is logged of the graphs of a term: its lower bound, where its mass is, what pulls and what pushes."""

import jax
import jax.numpy as jnp

from xsample_jax.graphs.sources import identity, label
from xsample_jax.objectives.cross_entropy import entropy, mean_over_rows, pulls
from xsample_jax.objectives.links import OF_SHARES
from xsample_jax.objectives.row_links import OF_ORDER, positive_margin, z_scores
from xsample_jax.objectives.terms import Pairs, Term, negatives_of
from xsample_jax.registry import name_of


def graph_metrics(term: Term, pairs: Pairs, counted: jax.Array) -> dict[str, jax.Array]:
    """What a target graph asks for, means over the counted anchors; rows scaled to sum to one.

    target_entropy H(T) in nats; own_view_mass: on views of the same image; same_class_mass: on the same label, own
    views included (only with labels); rows_without_positive: share of anchors that are left out;
    rows_without_negative: share of anchors that nothing is pushed away from; positive_z: z-score of the positives
    among all keys (of the link z only); positive_margin: how far the last positive of a row stands above its nearest
    negative (of the link group_order only); weight_positive, weight_negative and weight_top_negative of `pulls` (of the
    cross-entropy and the sigmoid links, where views are not merged).
    """
    keys, counted_anchors = len(pairs.v["z"]), counted
    graph = pairs.target[:, :keys]
    graph = graph / jnp.maximum(graph.sum(axis=-1, keepdims=True), 1e-12)
    if len(counted) != len(graph):
        counted = graph.sum(axis=-1) > 0
    rows = {
        "target_entropy": entropy(graph),
        "own_view_mass": jnp.sum(graph * identity(pairs.u, pairs.v), axis=-1),
    }
    if "label" in pairs.u and "label" in pairs.v:
        rows["same_class_mass"] = jnp.sum(graph * label(pairs.u, pairs.v), axis=-1)
    if name_of(term.link) == "z":
        rows["positive_z"] = jnp.sum(graph * z_scores(pairs.logits, pairs.valid)[:, :keys], axis=-1)
    if name_of(term.link) == "group_order":
        rows["positive_margin"] = positive_margin(pairs.logits, pairs.target, pairs.valid)
    if not term.merge_views and (term.is_cross_entropy or name_of(term.link) in ("sigmoid", "sigmoid_mean")):
        weight = negatives_of(term, pairs) if term.is_cross_entropy else pairs.valid
        rows |= pulls(pairs.logits, pairs.target, weight, term.is_cross_entropy)
    metrics = {name: mean_over_rows(value, counted[: len(value)]) for name, value in rows.items()}
    repelled = jnp.any(_pushed(term, pairs), axis=-1)
    if len(counted_anchors) < len(repelled):  # merged views are one anchor
        repelled = jnp.any(repelled.reshape(len(counted_anchors), -1), axis=-1)
    return metrics | {
        "rows_without_positive": 1.0 - jnp.mean(counted_anchors),
        "rows_without_negative": 1.0 - jnp.mean(repelled),
    }


def _pushed(term: Term, pairs: Pairs) -> jax.Array:
    """Pairs that an anchor is pushed away from, bool [A, K]."""
    if name_of(term.link) in OF_ORDER:  # from what is not the best of its row
        return pairs.valid & (pairs.target < jnp.max(pairs.target, axis=-1, keepdims=True))
    if name_of(term.link) != "softmax":
        return pairs.valid & (pairs.target < 1 if name_of(term.link) in OF_SHARES else pairs.target <= 0)
    return negatives_of(term, pairs) > 0
