"""The streaming X-CLR loss as two Pallas TPU kernels, to be compared with the XLA tiles (objectives/streaming.py).

Rows of one device against keys that it sees: logits z y^T / tau, target logits c e^T / tau_s of unit captions that the
views of an image share, no row its own key. A tile of all pairs of views stays in registers and VMEM: what is
written is a few sums per anchor (forward) and the gradient of the anchors (backward).

    python -m benchmarks.pallas_loss [--rows 8192 32768 131072] [--topology v5e:2x2 v6e:2x2]

compiles both for TPUs, on any machine, and counts cycles (benchmarks/tpu_cycles.py): compiler estimates.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

HIGHEST = jax.lax.Precision.HIGHEST


def _product(x, y, precision):
    """x y^T in float32."""
    return jax.lax.dot_general(x, y, (((1,), (1,)), ((), ())), precision, jnp.float32)


def _itself(first_row, first_column, shape):
    """Where the pair of a row and a column is of one image."""
    rows = jax.lax.broadcasted_iota(jnp.int32, shape, 0) + first_row
    return rows == jax.lax.broadcasted_iota(jnp.int32, shape, 1) + first_column


def _sums_kernel(offset, z, y, c, e, sums, *, tau, tau_s, precision):
    """Adds the keys of a tile to the sums of its anchors. Keys are rows: sums over them stay in their lanes."""
    anchors, keys = pl.program_id(0) * c.shape[0] + offset[0], pl.program_id(1) * e.shape[0]

    @pl.when(pl.program_id(1) == 0)
    def _():
        sums[...] = jnp.zeros(sums.shape, sums.dtype)

    log_weight = (_product(e[...], c[...], precision) - 1) / tau_s
    weight = jnp.exp(log_weight)
    itself = _itself(keys, anchors, weight.shape)
    views = z.shape[0]
    student, cross = [], []
    for v in range(views):
        exponentials = weighted = 0.0
        for w in range(views):
            s = (_product(y[w], z[v], precision) - 1) / tau
            if v == w:
                exponentials += jnp.where(itself, 0, jnp.exp(s))
                weighted += jnp.where(itself, 0, s)
            else:
                exponentials += jnp.exp(s)
                weighted += s
        student.append(exponentials.sum(0, keepdims=True))
        cross.append((weight * weighted).sum(0, keepdims=True))
    mass = weight * jnp.where(itself, views - 1.0, views)
    target = [mass.sum(0, keepdims=True), (mass * log_weight).sum(0, keepdims=True)]
    sums[...] += jnp.concatenate([*student, *cross, *target])


def _gradient_kernel(offset, z, y, c, e, of_anchors, of_keys, gradient, *, tau, tau_s, precision):
    """Adds G y of a tile, G = dL/ds + (dL/ds)^T, to the gradient of its anchors."""
    anchors, keys = pl.program_id(0) * c.shape[0] + offset[0], pl.program_id(1) * e.shape[0]

    @pl.when(pl.program_id(1) == 0)
    def _():
        gradient[...] = jnp.zeros(gradient.shape, gradient.dtype)

    weight = jnp.exp((_product(c[...], e[...], precision) - 1) / tau_s)
    itself = _itself(anchors, keys, weight.shape)
    views = z.shape[0]
    for v in range(views):
        for w in range(views):
            student = of_anchors[:, v : v + 1] + of_keys[w : w + 1, :]
            target = of_anchors[:, views + v : views + v + 1] + of_keys[views + w : views + w + 1, :]
            g = jnp.exp((_product(z[v], y[w], precision) - 1) / tau) * student - weight * target
            if v == w:
                g = jnp.where(itself, 0, g)
            gradient[v] += jnp.dot(g.astype(y.dtype), y[w], precision=precision, preferred_element_type=jnp.float32)


def _options(name, tile, interpret):
    parallel = pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=96 * 2**20)
    return {"name": name, "interpret": interpret, "compiler_params": parallel}


def _specs(z, y, c, e, tile):
    views, n, width = z.shape
    for name, count in (("anchors", n), ("keys", y.shape[1])):
        if count % tile:
            raise ValueError(f"{count} images of {name}: expected a multiple of the tile, {tile}")
    return (n // tile, y.shape[1] // tile), [
        pl.BlockSpec(memory_space=pltpu.SMEM),
        pl.BlockSpec((views, tile, width), lambda i, k: (0, i, 0)),
        pl.BlockSpec((views, tile, width), lambda i, k: (0, k, 0)),
        pl.BlockSpec((tile, c.shape[1]), lambda i, k: (i, 0)),
        pl.BlockSpec((tile, e.shape[1]), lambda i, k: (k, 0)),
    ]


def sums_over_keys(z, y, c, e, offset=0, *, tau, tau_s, tile=512, precision=HIGHEST, interpret=False):
    """Sums over the keys of every anchor, float32 [2 V + 2, n]: of e^s and of w s per view, of w and of w log w.

    Args:
      z, y: unit rows of anchors [V, n, D] and keys [V, m, D], s = (z . y - 1) / tau.
      c, e: unit captions [n, E] and [m, E], w = exp((c . e - 1) / tau_s).
      offset: number among the keys of the first anchor.
      tile: images of a tile.
      precision: of the products of float32 rows. Products of bfloat16 rows are exact.
    """
    grid, specs = _specs(z, y, c, e, tile)
    count = 2 * z.shape[0] + 2
    return pl.pallas_call(
        functools.partial(_sums_kernel, tau=tau, tau_s=tau_s, precision=precision),
        grid=grid,
        in_specs=specs,
        out_specs=pl.BlockSpec((count, tile), lambda i, k: (0, i)),
        out_shape=jax.ShapeDtypeStruct((count, z.shape[1]), jnp.float32),
        **_options("xclr_sums", tile, interpret),
    )(jnp.asarray([offset], jnp.int32), z, y, c, e)


def gradient_of_anchors(
    z, y, c, e, of_anchors, of_keys, offset=0, *, tau, tau_s, tile=512, precision=HIGHEST, interpret=False
):
    """sum_k (dL/ds + (dL/ds)^T)_ik y_k / tau, float32 [V, n, D].

    of_anchors, of_keys: [2 V, n] and [2 V, m], per view 1 / (sum of e^s) and then 1 / (sum of w), times the cotangent.
    """
    grid, specs = _specs(z, y, c, e, tile)
    views, n, width = z.shape
    specs += [
        pl.BlockSpec((tile, 2 * views), lambda i, k: (i, 0)),
        pl.BlockSpec((2 * views, tile), lambda i, k: (0, k)),
    ]
    gradient = pl.pallas_call(
        functools.partial(_gradient_kernel, tau=tau, tau_s=tau_s, precision=precision),
        grid=grid,
        in_specs=specs,
        out_specs=pl.BlockSpec((views, tile, width), lambda i, k: (0, i, 0)),
        out_shape=jax.ShapeDtypeStruct(z.shape, jnp.float32),
        **_options("xclr_gradient", tile, interpret),
    )(jnp.asarray([offset], jnp.int32), z, y, c, e, of_anchors.T, of_keys)
    return gradient / tau


def loss_and_gradient(z, captions, *, tau, tau_s, views=2, dtype=jnp.float32, **options):
    """(mean loss, its gradient [N, D]) of unit rows z [N, D], row = image * views + view, and captions [N / views, E].

    dtype: to which embeddings and unit captions are rounded; sums are float32.
    """
    images, width = z.shape[0] // views, z.shape[1]
    rows = z.reshape(images, views, width).swapaxes(0, 1).astype(dtype)
    captions = captions.astype(jnp.float32)
    unit = (captions / jnp.linalg.norm(captions, axis=1, keepdims=True)).astype(dtype)
    options |= {"tau": tau, "tau_s": tau_s}
    sums = sums_over_keys(rows, rows, unit, unit, **options)
    student, cross, total = sums[:views], sums[views : 2 * views], sums[2 * views]
    loss = (jnp.log(student) - cross / total).mean()
    share = jnp.concatenate([1 / student, jnp.broadcast_to(1 / total, student.shape)]) / z.shape[0]
    gradient = gradient_of_anchors(rows, rows, unit, unit, share, share, **options)
    return loss, gradient.swapaxes(0, 1).reshape(z.shape)
