"""Sums over the keys, tile by tile: with s and w of streaming_tiles.py,

    loss_i = log sum_k e^{s_ik}  -  (sum_k w_ik s_ik) / (sum_k w_ik)

so a row needs a handful of sums, and sums over disjoint sets of keys can be merged in any order.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from xsample_jax.graphs.sources import SOURCES
from xsample_jax.objectives.streaming_tiles import Form, Rows, Tile, Window, pairs_of, tile_of, windows

# Masked logits are MASKED; a running maximum is at least FLOOR, far above it, so that exp(MASKED - maximum) is 0.
MASKED, FLOOR = -1e30, -1e29


class Sums(NamedTuple):
    """Sums over the keys, [V, n] for student rows and [n] for the target. `top_*`: the maximum taken off, or None."""

    top_student: jax.Array | None
    student: jax.Array  # of e^s
    cross: jax.Array  # of w s
    top_target: jax.Array | None
    target: jax.Array  # of w
    w_log_w: jax.Array
    own: jax.Array  # of w, over the views of the same image
    same_class: jax.Array | None  # of w, over the same label


def sums_over_keys(form: Form, anchors: Rows, keys: Rows, scale: jax.Array, triangle: bool, offset=0) -> Sums:
    """Sums over all keys of every anchor.

    triangle: anchors and keys are the same rows on one device; logits and weights are symmetric, so a tile above the
    diagonal gives the sums of its anchors and those of its keys.
    """
    with_label = "label" in anchors.info and "label" in keys.info

    def put(total: Sums, window: Window, new: Sums) -> Sums:
        old = jax.tree.map(lambda x: window.of(x, x.ndim - 1), total)
        new = merged(old, new)
        return jax.tree.map(
            lambda x, y: jax.lax.dynamic_update_slice_in_dim(x, y, window.first, x.ndim - 1), total, new
        )

    def step(total, pair):
        a, k = windows(form, anchors, keys, pair)
        tile = tile_of(form, a, k, scale, offset)
        total = put(total, a, sums_of(form, tile))
        if triangle:
            nothing = no_sums(form, Rows(tile.y.reshape(-1, tile.y.shape[-1]), {}, keys.views), with_label, scale.dtype)
            below = jax.tree.map(lambda x, y: jnp.where(pair[0] < pair[1], x, y), sums_of(form, tile, True), nothing)
            total = put(total, k, below)
        return total, None

    start = no_sums(form, anchors, with_label, scale.dtype)
    return jax.lax.scan(step, start, pairs_of(form, anchors, keys, triangle))[0]


def sums_of(form: Form, tile: Tile, of_keys: bool = False) -> Sums:
    """Sums over the keys of a tile for each anchor; with `of_keys` over the anchors for each key (same rows only)."""
    axes, axis = ((0, 2), 0) if of_keys else ((1, 3), 1)

    def shifted(x, over):
        top = jnp.maximum(x.max(over, keepdims=True), FLOOR)
        return jnp.exp(x - top), jnp.squeeze(top, over)

    masked, top_student = jnp.where(tile.valid, tile.s, MASKED), None
    if form.running_student:
        e, top_student = shifted(masked, axes)
    else:
        e = jnp.exp(masked)
    top_target, weight = None, tile.weight
    if form.running_target:
        weight, top_target = shifted(jnp.where(tile.copies > 0, tile.log_weight, MASKED), axis)
    mass = tile.copies * weight
    u, v = tile.anchors, tile.keys
    with_label = "label" in u and "label" in v
    return Sums(
        top_student,
        e.sum(axes),
        (weight * jnp.where(tile.valid, tile.s, 0)).sum(axes),
        top_target,
        mass.sum(axis),
        (mass * tile.log_weight).sum(axis),
        (mass * SOURCES["identity"](u, v)).sum(axis),
        (mass * SOURCES["label"](u, v)).sum(axis) if with_label else None,
    )


def merged(p: Sums, q: Sums) -> Sums:
    """The sums over two disjoint sets of keys."""

    def common(top_p, top_q):
        if top_p is None:
            return None, 1, 1
        top = jnp.maximum(top_p, top_q)
        return top, jnp.exp(top_p - top), jnp.exp(top_q - top)

    top_student, p_student, q_student = common(p.top_student, q.top_student)
    top_target, p_target, q_target = common(p.top_target, q.top_target)

    def target(x, y):
        return None if x is None else x * p_target + y * q_target

    return Sums(
        top_student,
        p.student * p_student + q.student * q_student,
        target(p.cross, q.cross),
        top_target,
        *(target(x, y) for x, y in zip(p[4:], q[4:])),
    )


def no_sums(form: Form, anchors: Rows, with_label: bool, dtype) -> Sums:
    """The sums over no keys."""
    rows, images = jnp.zeros((anchors.views, anchors.images), dtype), jnp.zeros(anchors.images, dtype)
    return Sums(
        rows + FLOOR if form.running_student else None,
        rows,
        rows,
        images + FLOOR if form.running_target else None,
        *(images,) * 3,
        images if with_label else None,
    )


def log_sums(sums: Sums) -> tuple[jax.Array, jax.Array]:
    """log sum_k e^s [V, n] and log sum_k w [n]; 0 where the sum is empty."""

    def log(total, top):
        value = jnp.log(jnp.where(total > 0, total, 1))
        return value if top is None else jnp.where(total > 0, value + top, 0)

    return log(sums.student, sums.top_student), log(sums.target, sums.top_target)
