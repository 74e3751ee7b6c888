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


@dataclasses.dataclass(frozen=True)
class Form:
    """What is known of the sums while tracing.

    Attributes:
      source: graph source (graphs/sources.py), g <= bound.
      softmax: weights are exp(g / tau_s), else g itself.
      same: anchors and keys are the same rows, and a row is no key of its own.
      views, key_views: rows per image.
      tile: rows of a tile, at most.
      running_student, running_target: take off the largest exponent found so far. Otherwise exponents lie in
        [-2 / tau, 0], which float32 can hold for tau > 0.025 only.
      swapped: anchors and keys have changed places: the source is a function of (keys, anchors).
      mesh: the devices that share the rows (streaming_mesh.py), None for one.
      ring: the rows of other devices come one device after the other, not all at once.
      wire: type to which embeddings are rounded, or None.
      cosine_of: the side information whose cosine the source is, where kernels do the tiles (streaming_kernel.py);
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


def pairs_of(form: Form, anchors: Rows, keys: Rows, triangle: bool) -> np.ndarray:
    """Pairs of tile numbers, int32 [t, 2]: all, or those with anchor tile <= key tile."""
    rows, columns = (-(-side.images // tile_size(form, side)) for side in (anchors, keys))
    pairs = [(i, k) for i in range(rows) for k in range(i if triangle else 0, columns)]
    return np.asarray(pairs, np.int32)


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


def tile_of(form: Form, anchors: Window, keys: Window, scale: jax.Array, offset: jax.Array | int) -> Tile:
    """The tile of two windows. scale: 1 / tau; offset: number among the keys of the first anchor, for the same rows."""
    dtype = scale.dtype
    z, y = anchors.embeddings(dtype), keys.embeddings(dtype)
    views, key_views = anchors.rows.views, keys.rows.views
    # Scaled last: s_ik and s_ki of the same rows then agree to the bit, as the gradient takes them to (1 / tau times
    # more exact in float32 than with scaled operands).
    s = (jnp.matmul(z[:, None], y.mT[None], precision=jax.lax.Precision.HIGHEST) - 1) * scale
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
