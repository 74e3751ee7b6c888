"""Two Pallas TPU kernels that do a tile of the X-CLR loss without leaving the chip's fast memory.

They are the tiles of tiles.py for one case: anchors are the keys, and the target is the softmax of the cosine of an
embedding that the views of an image share. They write a few sums per anchor, and the gradient of the anchors. All pairs
of rows are visited (no triangle), as on a mesh.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from xsample_jax.models.heads import products, unit_rows
from xsample_jax.objectives.streaming.tiles import Coefficients, Form, Rows, Sums, images_of_tile
from xsample_jax.topology import VMEM

KNOWN, UNKNOWN = ("id", "label"), -1  # what the sums of metrics compare


def sums_by_kernel(form: Form, anchors: Rows, keys: Rows, scale: jax.Array, offset=0) -> Sums:
    """`sums_over_keys` of tiles.py."""
    views, (a, k) = anchors.views, _tiles(form, anchors, keys)
    with_label = "label" in anchors.info and "label" in keys.info
    specs, operands = _operands(form, anchors, keys, scale, offset, a, k)
    count = 2 * views + 4
    sums = pl.pallas_call(
        functools.partial(_sums_kernel, tau_s=form.target_temperature),
        grid=(anchors.images // a, keys.images // k),
        in_specs=[*specs, _rows(2, a, anchor=True), _columns(k, 2, anchor=False)],
        out_specs=_rows(count, a, anchor=True),
        out_shape=jax.ShapeDtypeStruct((count, anchors.images), jnp.float32),
        **_options("xclr_sums", form, _work(anchors, keys, form, products=1)),
    )(*operands, _marks(anchors), _marks(keys).T)
    student, cross, (target, w_log_w, own, same_class) = jnp.split(sums, (views, 2 * views))
    return Sums(None, student, cross, None, target, w_log_w, own, same_class if with_label else None)


def gradients_by_kernel(
    form: Form, anchors: Rows, keys: Rows, scale: jax.Array, row: Coefficients, column: Coefficients, offset=0
) -> jax.Array:
    """The gradient of the anchors as `gradients` of tiles.py has it, [n * V, D]."""
    views, (a, k) = anchors.views, _tiles(form, anchors, keys)
    specs, operands = _operands(form, anchors, keys, scale, offset, a, k)

    def share(of: Coefficients):
        return jnp.concatenate([of.student, jnp.broadcast_to(of.target, of.student.shape)])

    width = anchors.z.shape[1]
    gradient = pl.pallas_call(
        functools.partial(_gradient_kernel, tau_s=form.target_temperature),
        grid=(anchors.images // a, keys.images // k),
        in_specs=[*specs, _columns(a, 2 * views, anchor=True), _rows(2 * views, k, anchor=False)],
        out_specs=pl.BlockSpec((views, a, width), lambda i, j: (0, i, 0)),
        out_shape=jax.ShapeDtypeStruct((views, anchors.images, width), jnp.float32),
        **_options("xclr_gradient", form, _work(anchors, keys, form, products=2)),
    )(*operands, share(row).T, share(column))
    return scale * gradient.swapaxes(0, 1).reshape(-1, width)


def _sums_kernel(scale, offset, z, y, c, e, of_anchors, of_keys, sums, *, tau_s):
    """Adds the keys of a tile to the sums of its anchors. Keys are rows of the matrices: sums stay in their lanes."""
    first_anchor, first_key = pl.program_id(0) * c.shape[0] + offset[0], pl.program_id(1) * e.shape[0]

    @pl.when(pl.program_id(1) == 0)
    def _():
        sums[...] = jnp.zeros(sums.shape, sums.dtype)

    log_weight = (products(e[...], c[...]) - 1) / tau_s
    weight = jnp.exp(log_weight)
    itself = _itself(first_key, first_anchor, weight.shape)
    views = z.shape[0]
    student, cross = [], []
    for v in range(views):
        exponentials, logits = 0.0, 0.0
        for w in range(views):
            s = (_logits(y[w], z[v]) - 1) * scale[0]
            valid = ~itself if v == w else True
            exponentials += jnp.where(valid, jnp.exp(s), 0)
            logits += jnp.where(valid, s, 0)
        student.append(exponentials)
        cross.append(weight * logits)
    mass = weight * jnp.where(itself, views - 1.0, views)
    same_image, same_class = (
        (of_keys[:, at : at + 1] == of_anchors[at : at + 1, :]) & (of_keys[:, at : at + 1] > UNKNOWN) for at in (0, 1)
    )
    own, classes = jnp.where(same_image, mass, 0), jnp.where(same_class | same_image, mass, 0)
    found = [*student, *cross, mass, mass * log_weight, own, classes]
    sums[...] += jnp.concatenate([x.sum(0, keepdims=True) for x in found])


def _gradient_kernel(scale, offset, z, y, c, e, of_anchors, of_keys, gradient, *, tau_s):
    """Adds G y of a tile, G = dL/ds + (dL/ds)^T, to the gradient of its anchors."""
    first_anchor, first_key = pl.program_id(0) * c.shape[0] + offset[0], pl.program_id(1) * e.shape[0]

    @pl.when(pl.program_id(1) == 0)
    def _():
        gradient[...] = jnp.zeros(gradient.shape, gradient.dtype)

    weight = jnp.exp((products(c[...], e[...]) - 1) / tau_s)
    itself = _itself(first_anchor, first_key, weight.shape)
    views = z.shape[0]

    def both(part, v, w):  # of row i and of row k
        return of_anchors[:, part + v : part + v + 1] + of_keys[part + w : part + w + 1, :]

    for v in range(views):
        for w in range(views):
            s = (_logits(z[v], y[w]) - 1) * scale[0]
            g = jnp.exp(s) * both(0, v, w) - weight * both(views, v, w)
            if v == w:
                g = jnp.where(itself, 0, g)
            gradient[v] += jnp.matmul(g, y[w].astype(g.dtype), precision=jax.lax.Precision.HIGHEST)


def _logits(x, y):
    """x y^T in float32. Products of 16-bit rows are exact in one pass of the matrix unit."""
    if x.dtype == jnp.bfloat16:
        return jax.lax.dot_general(x, y, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)
    return products(x, y)


def _itself(first_row, first_column, shape):
    """Where row and column are of one image."""
    rows = jax.lax.broadcasted_iota(jnp.int32, shape, 0) + first_row
    return rows == jax.lax.broadcasted_iota(jnp.int32, shape, 1) + first_column


def _tiles(form: Form, anchors: Rows, keys: Rows) -> tuple[int, int]:
    return tuple(images_of_tile(side.images, form.tile // side.views) for side in (anchors, keys))


def _marks(rows: Rows) -> jax.Array:
    """int32 [2, n]: ids and labels; -1 where there are none."""
    nothing = jnp.full(rows.images, UNKNOWN, jnp.int32)
    return jnp.stack([rows.info.get(name, nothing).astype(jnp.int32) for name in KNOWN])


def _operands(form: Form, anchors: Rows, keys: Rows, scale, offset, a: int, k: int) -> tuple[list, list]:
    """What both kernels read, and in which blocks: 1 / tau, the offset, embeddings [V, n, D], unit captions [n, E]."""

    def embeddings(rows: Rows):
        return rows.z.reshape(rows.images, rows.views, -1).swapaxes(0, 1)

    z, y = embeddings(anchors), embeddings(keys)
    c, e = (unit_rows(rows.info[form.cosine_of]) for rows in (anchors, keys))
    specs = [
        pl.BlockSpec(memory_space=pltpu.SMEM),
        pl.BlockSpec(memory_space=pltpu.SMEM),
        pl.BlockSpec((z.shape[0], a, z.shape[2]), lambda i, j: (0, i, 0)),
        pl.BlockSpec((y.shape[0], k, y.shape[2]), lambda i, j: (0, j, 0)),
        pl.BlockSpec((a, c.shape[1]), lambda i, j: (i, 0)),
        pl.BlockSpec((k, e.shape[1]), lambda i, j: (j, 0)),
    ]
    return specs, [
        jnp.reshape(scale, 1).astype(jnp.float32),
        jnp.reshape(jnp.asarray(offset, jnp.int32), 1),
        z,
        y,
        c,
        e,
    ]


def _rows(count: int, tile: int, anchor: bool) -> pl.BlockSpec:
    return pl.BlockSpec((count, tile), lambda i, j: (0, i if anchor else j))


def _columns(tile: int, count: int, anchor: bool) -> pl.BlockSpec:
    return pl.BlockSpec((tile, count), lambda i, j: (i if anchor else j, 0))


def _work(anchors: Rows, keys: Rows, form: Form, products: int) -> pl.CostEstimate:
    """What a kernel does, for the compiler's schedule and counts; `products` of embeddings per pair of rows."""
    pairs, rows = anchors.images * keys.images, anchors.views * keys.views
    captions = anchors.info[form.cosine_of].shape[1]
    read = keys.z.size * 4 + keys.images * captions * 4  # once per tile of anchors
    return pl.CostEstimate(
        flops=2 * pairs * (captions + products * rows * anchors.z.shape[1]),
        transcendentals=pairs * (1 + rows),
        bytes_accessed=read * max(1, anchors.images * anchors.views // form.tile),
    )


def _options(name: str, form: Form, work: pl.CostEstimate) -> dict:
    in_order = pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=VMEM)
    return {"name": name, "compiler_params": in_order, "cost_estimate": work, "interpret": form.interpret}
