"""The sigmoid loss (links.sigmoid) with memory linear in the number of rows, its value and gradient from one pass.

    l_i = sum_k T_ik softplus(-s_ik) + (1 - T_ik) softplus(s_ik)        s_ik = x_i . y_k / tau + b
    dl_i / ds_ik = (1 - T_ik) sigmoid(s_ik) - T_ik sigmoid(-s_ik)

No pair asks about the others of its row, so the gradient is summed in the pass that sums the values, and the backward
pass only scales it: nothing is multiplied that the dense loss does not multiply. On a mesh every device keeps its
anchors, and the keys travel once around it with what they have of their gradient (SigLIP, arXiv 2303.15343, whose
texts travel too).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from xsample_jax.graphs.sources import SOURCES
from xsample_jax.objectives.cross_entropy import mean_over_rows
from xsample_jax.objectives.streaming.loss import Streaming, Target, prepare, sides
from xsample_jax.objectives.streaming.mesh import Part, around, arrays_of, last_axis_split, offset_of, over_mesh
from xsample_jax.objectives.streaming.tiles import (
    Form,
    Rows,
    Tile,
    over_tiles,
    pairs_of,
    product,
    tile_of,
    transposed_product,
    windows,
)


class Scales(NamedTuple):
    """1 / tau, b, and the share [V, n] that the loss of every anchor has in the value."""

    scale: jax.Array
    bias: jax.Array
    share: jax.Array


class Sums(NamedTuple):
    """Sums over the keys, [V, n] for rows and [n] for what the views of an image share."""

    loss: jax.Array
    slope: jax.Array  # of dl / ds
    target: jax.Array  # of T
    t_log_t: jax.Array
    own: jax.Array  # of T, over the views of the same image
    pushed: jax.Array  # keys with T < 1
    same_class: jax.Array | None  # of T, over the same label


class Found(NamedTuple):
    """The sums of some anchors, and their gradient and that of the keys as far as they have met; None: no gradient."""

    sums: Sums
    d_anchors: jax.Array | None
    d_keys: jax.Array | None


def streamed_sigmoid(
    anchors: Rows, keys: Rows | None, target: Target, scales: tuple, how: Streaming, mean: bool
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Value and metrics of a term with a sigmoid link (terms.term_value, graph_metrics), without arrays of pairs.

    Args:
      anchors, keys: as in `streaming_rows`; all anchors count, and of the keys those that are "filled".
      target: its source is T, from 0 to 1; nothing else of it is read.
      scales: (tau, b), numbers or traced scalars.
      how: on a mesh keys always travel around (`collective` is not read).
      mean: a row's mean over its keys (sigmoid_mean) in place of the sum.

    Returns:
      the mean over the anchors, differentiable in embeddings, tau and b, and its metrics.
    """
    form, anchors, keys = prepare(anchors, keys, target, 1.0, how)
    dtype = jnp.result_type(jnp.float32, anchors.z if keys is None else jnp.result_type(anchors.z, keys.z))
    share = jnp.full((anchors.views, anchors.images), 1 / len(anchors.z), dtype)
    if mean:
        share = share / jnp.maximum(_count_keys(form, anchors.images, keys or anchors), 1)
    scale, bias = (jnp.asarray(value, dtype) for value in (1 / scales[0], scales[1]))
    y, v = (None, None) if keys is None else (keys.z, keys.info)
    value, sums = _value(form, anchors.z, y, anchors.info, v, Scales(scale, bias, share))
    mass = jnp.where(sums.target > 0, sums.target, 1)
    rows = {"target_entropy": jnp.log(mass) - sums.t_log_t / mass, "own_view_mass": sums.own / mass}
    if sums.same_class is not None:
        rows["same_class_mass"] = sums.same_class / mass
    metrics = {name: mean_over_rows(row, jnp.ones(row.shape, bool)) for name, row in rows.items()}
    alone = 1 - jnp.mean(sums.pushed > 0)
    return value, metrics | {"rows_without_positive": jnp.zeros_like(alone), "rows_without_negative": alone}


def _count_keys(form: Form, images: int, keys: Rows) -> jax.Array | int:
    """How many keys the anchors have, of its group of devices each: a number, or [images] where keys may be missing."""
    if "filled" not in keys.info:
        count = len(keys.z) // form.groups
    else:
        of_groups = keys.views * jnp.sum(keys.info["filled"].reshape(form.groups, -1), axis=1)
        count = jnp.repeat(of_groups, images // form.groups)
    return count - 1 if form.same else count


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _value(form: Form, z, y, u, v, scales: Scales) -> tuple[jax.Array, Sums]:
    """Sum over the anchors of share times loss, and the sums of every anchor, which have no gradient."""
    sums = _passed(form, (z, y, u, v), scales, False).sums
    return jnp.sum(scales.share * sums.loss), sums


def _forward(form, z, y, u, v, scales):
    found = _passed(form, (z, y, u, v), scales, True)
    return (jnp.sum(scales.share * found.sums.loss), found.sums), (z, y, scales, found)


def _backward(form, residuals, cotangents):
    z, y, scales, (sums, dz, dy) = residuals
    cotangent = cotangents[0].astype(scales.scale.dtype)
    anchors = sides(form, z, y, {}, {})[0].z.astype(dz.dtype)
    slopes = Scales(
        cotangent * jnp.sum(anchors * dz) / scales.scale,  # the value sees anchors and scale through their product only
        cotangent * jnp.sum(scales.share * sums.slope),
        jnp.zeros_like(scales.share),
    )
    if form.same:
        return (cotangent * (dz + dy)).astype(z.dtype), None, None, None, slopes
    return (cotangent * dz).astype(z.dtype), (cotangent * dy).astype(y.dtype), None, None, slopes


_value.defvjp(_forward, _backward)


def _passed(form: Form, rows: tuple, scales: Scales, slopes: bool) -> Found:
    """What all anchors find among all keys; rows: z, y, u and v."""
    anchors, keys = sides(form, *rows)
    if form.mesh is None:
        return _met(form, anchors, keys, scales, _nothing(anchors, keys, scales, slopes))
    axes = form.mesh.axis_names

    def local(z, u, y, v, *scales):
        own, scales = Rows(z, u, anchors.views), Scales(*scales)
        part = Part(z, u) if form.same else Part(y, v)

        def visit(so_far, visitor, owner):
            part, d_keys = visitor
            start = Found(*so_far, d_keys)
            found = _met(form, own, Rows(part.z, part.info, keys.views), scales, start, offset_of(form, own, owner))
            return found[:2], (part, found.d_keys)

        *start, d_keys = _nothing(own, Rows(part.z, part.info, keys.views), scales, slopes)
        found, (_, d_keys) = around(form, (part, d_keys), visit, tuple(start))
        return Found(*found, d_keys)

    shapes = jax.eval_shape(lambda: _nothing(anchors, keys, scales, slopes))
    rows = jax.tree.map(lambda _: PartitionSpec(axes), tuple(shapes[1:]))
    specs = Found(last_axis_split(shapes.sums, axes), *rows)
    given = (PartitionSpec(), PartitionSpec(None, axes))
    return over_mesh(form, local, specs, given)(*arrays_of(form, anchors, keys), *scales)


def _nothing(anchors: Rows, keys: Rows, scales: Scales, slopes: bool) -> Found:
    """What anchors have found that have met no key."""
    dtype = scales.scale.dtype
    rows, images = jnp.zeros((anchors.views, anchors.images), dtype), jnp.zeros(anchors.images, dtype)
    with_label = "label" in anchors.info and "label" in keys.info
    sums = Sums(rows, rows, *(images,) * 4, images if with_label else None)
    if not slopes:
        return Found(sums, None, None)
    return Found(sums, jnp.zeros(anchors.z.shape, dtype), jnp.zeros(keys.z.shape, dtype))


def _met(form: Form, anchors: Rows, keys: Rows, scales: Scales, start: Found, offset=0) -> Found:
    """What the anchors have found after they have met these keys as well."""

    def step(found: Found, pair):
        a, k = windows(form, anchors, keys, pair)
        tile = tile_of(form, a, k, scales.scale, offset, top=0)
        sums, slope = _of_tile(tile, scales.bias)

        def put(old, new):
            new = a.of(old, old.ndim - 1) + new
            return jax.lax.dynamic_update_slice_in_dim(old, new, a.first, old.ndim - 1)

        found = found._replace(sums=jax.tree.map(put, found.sums, sums))
        if found.d_anchors is None:
            return found, None
        slope = slope * a.of(scales.share, 1)[:, None, :, None]
        d_anchors = a.add(found.d_anchors, scales.scale * product(slope, tile.y))
        d_keys = k.add(found.d_keys, scales.scale * transposed_product(slope, tile.z))
        return found._replace(d_anchors=d_anchors, d_keys=d_keys), None

    return over_tiles(step, start, pairs_of(form, anchors, keys, False))


def _of_tile(tile: Tile, bias: jax.Array) -> tuple[Sums, jax.Array]:
    """The sums over the keys of a tile, and dl / ds of its pairs, [V, V', a, k]."""
    s, target = tile.s + bias, tile.weight
    small = jnp.exp(-jnp.abs(s))
    right = jnp.where(s > 0, 1, small) / (1 + small)  # sigmoid(s), and sigmoid(-s) without the rounding of 1 - it
    wrong = jnp.where(s > 0, small, 1) / (1 + small)
    loss = jnp.log1p(small) + target * jnp.maximum(-s, 0) + (1 - target) * jnp.maximum(s, 0)
    slope = jnp.where(tile.valid, (1 - target) * right - target * wrong, 0)
    mass = tile.copies * target
    u, v = tile.anchors, tile.keys
    sums = Sums(
        jnp.where(tile.valid, loss, 0).sum((1, 3)),
        slope.sum((1, 3)),
        mass.sum(1),
        (mass * tile.log_weight).sum(1),
        (mass * SOURCES["identity"](u, v)).sum(1),
        (tile.copies * (target < 1)).sum(1),
        (mass * SOURCES["label"](u, v)).sum(1) if "label" in u and "label" in v else None,
    )
    return sums, slope
