"""Gradients of the graph cross-entropy, tile by tile, from its sums.

    dL/ds_ik = cotangent_i (e^{s_ik} / sum_k e^{s_ik} - w_ik / sum_k w_ik)      dL/dz_i = sum_k dL/ds_ik y_k / tau

The logits of a set of rows with itself are symmetric: then dL/dz = G z / tau with G = dL/ds + (dL/ds)^T, and what a row
needs of another is its embedding and two numbers. The same holds for every device that owns some of the rows.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from xsample_jax.objectives.streaming_sums import Sums
from xsample_jax.objectives.streaming_tiles import Form, Rows, Tile, pairs_of, tile_of, windows


class Coefficients(NamedTuple):
    """A row's share in dL/ds_ik: student_i e^{s_ik - student_shift_i} - target_i w_ik e^{-target_shift_i}.

    Weights are [V, n]. A shift is the running maximum, None where there is none: one exponential then serves rows and
    columns.
    """

    student: jax.Array
    student_shift: jax.Array | None  # [V, n]
    target: jax.Array
    target_shift: jax.Array | None  # [n]


def gradients(
    form: Form,
    anchors: Rows,
    keys: Rows,
    scale: jax.Array,
    row: Coefficients | None,
    column: Coefficients | None,
    *,
    triangle: bool = False,
    key_side: bool = False,
    offset=0,
) -> tuple[jax.Array, jax.Array | None]:
    """The gradient of the embeddings of the anchors, and with `key_side` that of the keys.

    G = dL/ds + (dL/ds)^T is symmetric when anchors and keys are the same rows: its coefficients are those of row i and
    of row k, and dL/dz = G z. `triangle` forms each tile of G once and uses it for its anchors and, transposed, for its
    keys.
    """

    def step(carry, pair):
        d_anchors, d_keys = carry
        a, k = windows(form, anchors, keys, pair)
        tile = tile_of(form, a, k, scale, offset)
        row_tile = row and jax.tree.map(lambda x: a.of(x, x.ndim - 1), row)
        column_tile = column and jax.tree.map(lambda x: k.of(x, x.ndim - 1), column)
        gradient = gradient_tile(form, tile, row_tile, column_tile)
        d_anchors = a.add(d_anchors, scale * product(gradient, tile.y))
        if triangle or key_side:
            below = scale * transposed_product(gradient, tile.z)
            if triangle:
                d_anchors = k.add(d_anchors, jnp.where(pair[0] < pair[1], below, 0))
            else:
                d_keys = k.add(d_keys, below)
        return (d_anchors, d_keys), None

    start = (
        jnp.zeros(anchors.z.shape, scale.dtype),
        jnp.zeros(keys.z.shape, scale.dtype) if key_side else None,
    )
    return jax.lax.scan(step, start, pairs_of(form, anchors, keys, triangle))[0]


def gradient_tile(form: Form, tile: Tile, row: Coefficients | None, column: Coefficients | None) -> jax.Array:
    """dL/ds of a tile, [V, V', a, k]; with both coefficients plus its transpose, where logits are symmetric."""
    terms = [(c, at) for c, at in ((row, np.s_[:, None, :, None]), (column, np.s_[None, :, None, :])) if c is not None]

    if form.running_student:
        student = sum(jnp.exp(tile.s - c.student_shift[at]) * c.student[at] for c, at in terms)
    else:
        student = jnp.exp(tile.s) * sum(c.student[at] for c, at in terms)
    if form.running_target:
        target = 0
        for c, at in terms:
            shift = c.target_shift[:, None] if c is row else c.target_shift[None, :]
            target += jnp.exp(tile.log_weight - shift) * c.target[at]
    else:
        target = tile.weight * sum(c.target[at] for c, at in terms)
    return jnp.where(tile.valid, student - target, 0)


def coefficients(form: Form, sums: Sums, cotangent: jax.Array) -> Coefficients:
    """The shares of rows in the gradient of sum_i cotangent_i loss_i; cotangent [V, n] is 0 for rows not counted."""

    def share(total, top):
        # Divided by the sum, not by the exponential of its logarithm, whose rounding would be of the size of 1 / tau.
        return cotangent / jnp.where(total > 0, total, 1), top

    return Coefficients(*share(sums.student, sums.top_student), *share(sums.target, sums.top_target))


def product(x: jax.Array, y: jax.Array) -> jax.Array:
    """Sums over the keys of all views: [V, V', a, k] x [V', k, D] -> [V, a, D]."""
    return jnp.einsum("vwak,wkd->vad", x, y, precision=jax.lax.Precision.HIGHEST)


def transposed_product(x: jax.Array, z: jax.Array) -> jax.Array:
    """Sums over the anchors of all views: [V, V', a, k] x [V, a, D] -> [V', k, D].

    As (z^T x)^T with z^T written out; left to itself XLA on CPU takes a slower product of a transposed x.
    """
    z = jax.lax.optimization_barrier(z.mT)
    products = jnp.einsum("vda,vwak->dwk", z, x, precision=jax.lax.Precision.HIGHEST)
    return jax.lax.optimization_barrier(products).transpose(1, 2, 0)
