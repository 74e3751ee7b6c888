"""Tiles of the graph cross-entropy: logits and target weights of some anchors against some keys.

Rows are views of images, row = image * V + view. With the largest value that is possible taken off beforehand,

    s_ik = (z_i . y_k - 1) / tau      w_ik = exp((g_ik - bound) / tau_s)  or  g_ik >= 0      self pairs left out

The weights belong to pairs of images: a tile of V x V' views computes each once. Axes inside a tile are
[V, V', images, images]: a matrix of images per pair of views; weights and masks are repeated along leading axes.
With the views between the images a TPU lays tiles out in pairs of rows and spends most of its time on that.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from xsample_jax.graphs.sources import SOURCES


@dataclasses.dataclass(frozen=True)
class Form:
    """What is known of the sums while tracing.

    Attributes:
      source: graph source (graphs/sources.py), g <= bound.
      softmax: weights are exp(g / tau_s), else g itself.
      same: anchors and keys are the same rows, and a row is not a key of itself.
      views, key_views: rows per image.
      tile: rows of a tile, at most.
      running_student, running_target: take off the largest exponent found so far. Otherwise exponents lie in
        [-2 / tau, 0], which float32 can hold for tau > 0.025 only.
      swapped: anchors and keys have changed places: the source is a function of (keys, anchors).
      mesh: the devices that share the rows (streaming/mesh.py), None for one.
      groups: of neighboring devices, each of which sees the rows of its own members alone (M2-Encoder).
      ring: the rows of other devices come one device after the other, not all at once.
      wire: type to which embeddings are rounded, or None.
      cosine_of: the side information whose cosine the source is, where kernels do the tiles (streaming/pallas.py);
        None: XLA does them.
      interpret: run the kernels without a TPU.
    """

    source: Callable
    softmax: bool
    target_temperature: float
    bound: float
    same: bool
    views: int
    key_views: int
    tile: int
    running_student: bool
    running_target: bool
    swapped: bool = False
    mesh: Any = None
    groups: int = 1
    ring: bool = False
    wire: Any = None
    cosine_of: str | None = None
    interpret: bool = False


class Rows(NamedTuple):
    """Embeddings [n * views, D] and side information, arrays [n, ...] with one row per image."""

    z: jax.Array
    info: dict[str, jax.Array]
    views: int

    @property
    def images(self) -> int:
        return self.z.shape[0] // self.views


class Window(NamedTuple):
    """One tile of images. The last begins early enough to be whole: images that an earlier one has are not `fresh`."""

    rows: Rows
    first: jax.Array  # number of its first image
    fresh: jax.Array  # bool [size]

    @property
    def size(self) -> int:
        return self.fresh.shape[0]

    @property
    def info(self) -> dict[str, jax.Array]:
        return {name: self.of(value) for name, value in self.rows.info.items()}

    @property
    def used(self) -> jax.Array:
        """bool [size]: images of this tile, not of an earlier one, that take part."""
        return self.fresh & self.of(self.rows.info["filled"]) if "filled" in self.rows.info else self.fresh

    def of(self, array: jax.Array, axis: int = 0) -> jax.Array:
        """The tile of an array with one entry per image along `axis`."""
        return jax.lax.dynamic_slice_in_dim(array, self.first, self.size, axis)

    def embeddings(self, dtype) -> jax.Array:
        """[V, size, D]."""
        views = self.rows.views
        z = jax.lax.dynamic_slice_in_dim(self.rows.z, self.first * views, self.size * views)
        return z.astype(dtype).reshape(self.size, views, -1).swapaxes(0, 1)

    def add(self, array: jax.Array, update: jax.Array) -> jax.Array:
        """Adds [V, size, D] to the rows of the tile in `array` [n * V, D]."""
        views = self.rows.views
        update = update.swapaxes(0, 1).reshape(views * self.size, -1)
        start = self.first * views
        old = jax.lax.dynamic_slice_in_dim(array, start, self.size * views)
        return jax.lax.dynamic_update_slice_in_dim(array, old + update, start, 0)


def windows(form: Form, anchors: Rows, keys: Rows, pair: jax.Array) -> tuple[Window, Window]:
    """The windows of a pair of tile numbers, int [2]."""

    def window(rows: Rows, index):
        size = tile_size(form, rows)
        first = jnp.minimum(index * size, rows.images - size)
        return Window(rows, first, first + jnp.arange(size) >= index * size)

    return window(anchors, pair[0]), window(keys, pair[1])


def tile_size(form: Form, rows: Rows) -> int:
    """Images in a tile of these rows."""
    return min(max(form.tile // rows.views, 1), rows.images)


LANES = 128  # images of a tile of the kernels (streaming/pallas.py) are a multiple of it


def images_of_tile(images: int, most: int) -> int | None:
    """Images of a device in a tile: all if they are few, else a part of whole lanes; None if there is none."""
    if images <= most:
        return images if images % 8 == 0 else None
    return next((size for size in range(most - most % LANES, 0, -LANES) if images % size == 0), None)


def pairs_of(form: Form, anchors: Rows, keys: Rows, triangle: bool) -> np.ndarray:
    """Pairs of tile numbers, int32 [t, 2]: all, or those with anchor tile <= key tile."""
    rows, columns = (-(-side.images // tile_size(form, side)) for side in (anchors, keys))
    pairs = [(i, k) for i in range(rows) for k in range(i if triangle else 0, columns)]
    return np.asarray(pairs, np.int32)


def over_tiles(step: Callable, start, pairs: np.ndarray):
    """What `step` makes of `start` and one pair of tile numbers after the other.

    A single tile is not looped over: the compiler then computes it once for the forward and the backward pass.
    """
    return step(start, pairs[0])[0] if len(pairs) == 1 else jax.lax.scan(step, start, pairs)[0]


def alone(pair: np.ndarray | jax.Array) -> bool:
    """Whether this is the single tile of rows with themselves: its anchors have met all keys."""
    return isinstance(pair, np.ndarray)


class Tile(NamedTuple):
    """Logits and weights of the images a of one window against the images k of another."""

    z: jax.Array  # [V, a, D]
    y: jax.Array  # [V', k, D]
    s: jax.Array  # [V, V', a, k]
    valid: jax.Array  # bool [V, V', a, k]
    copies: jax.Array  # [a, k]: how many keys of an anchor the views of image k are
    weight: jax.Array  # [a, k]: w
    log_weight: jax.Array  # [a, k]
    anchors: dict
    keys: dict


def tile_of(form: Form, anchors: Window, keys: Window, scale: jax.Array, offset: jax.Array | int, top=1) -> Tile:
    """The tile of two windows, with the logits (x . y - top) / tau.

    scale: 1 / tau; offset: number among the keys of the first anchor, for the same rows.
    """
    dtype = scale.dtype
    z, y = anchors.embeddings(dtype), keys.embeddings(dtype)
    views, key_views = anchors.rows.views, keys.rows.views
    # Scaled last: s_ik and s_ki of the same rows then agree to the bit, as the gradient takes them to (1 / tau times
    # more exact in float32 than with scaled operands).
    s = (jnp.matmul(z[:, None], y.mT[None], precision=jax.lax.Precision.HIGHEST) - top) * scale
    used = anchors.used[:, None] & keys.used[None, :]
    valid = jnp.broadcast_to(used, s.shape)
    copies = jnp.where(used, key_views, 0)
    if form.same:
        numbers = jnp.arange(anchors.size)[:, None] + anchors.first + offset
        itself = numbers == jnp.arange(keys.size)[None, :] + keys.first
        view = jnp.eye(views, dtype=bool)
        valid = valid & ~(itself & view[:, :, None, None])
        copies = jnp.where(used, key_views - itself, 0)
    u, v = anchors.info, keys.info
    similarity = (form.source(v, u).T if form.swapped else form.source(u, v)).astype(dtype)
    if form.softmax:
        log_weight = (similarity - form.bound) / form.target_temperature
        weight = jnp.exp(log_weight)
    else:
        weight = similarity
        log_weight = jnp.log(jnp.where(weight > 0, weight, 1))
    return Tile(z, y, s, valid, copies.astype(dtype), weight, log_weight, u, v)


# Sums over the keys, tile by tile: with s and w as above,
#
#     loss_i = log sum_k e^{s_ik}  -  (sum_k w_ik s_ik) / (sum_k w_ik)
#
# so a row needs a handful of sums, and sums over disjoint sets of keys can be merged in any order.


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
        if triangle and not alone(pair):
            nothing = no_sums(form, Rows(tile.y.reshape(-1, tile.y.shape[-1]), {}, keys.views), with_label, scale.dtype)
            below = jax.tree.map(lambda x, y: jnp.where(pair[0] < pair[1], x, y), sums_of(form, tile, True), nothing)
            total = put(total, k, below)
        return total, None

    start = no_sums(form, anchors, with_label, scale.dtype)
    return over_tiles(step, start, pairs_of(form, anchors, keys, triangle))


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


# Gradients of the graph cross-entropy, tile by tile, from its sums.
#
#     dL/ds_ik = cotangent_i (e^{s_ik} / sum_k e^{s_ik} - w_ik / sum_k w_ik)      dL/dz_i = sum_k dL/ds_ik y_k / tau
#
# The logits of a set of rows with itself are symmetric: then dL/dz = G z / tau with G = dL/ds + (dL/ds)^T, and what a
# row needs of another is its embedding and two numbers. The same holds for every device that owns some of the rows.


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
        if key_side or (triangle and not alone(pair)):
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
    return over_tiles(step, start, pairs_of(form, anchors, keys, triangle))


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
