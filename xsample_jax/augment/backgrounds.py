"""Backgrounds to lay images with alpha on in evaluation: does what is behind the object influence an encoder?

After ImageNet-9 (Xiao et al. 2020, arXiv 2006.09994), which puts the same foreground on another image's background, of
the same class (mixed-same) or of another (mixed-rand): the drop in accuracy between the two is what the encoder takes
from the background. Images with alpha have no background of their own, so the colors of another image stand in for one.

Every background is float32 0..1 and broadcasts to [B, H, W, 3], the argument `background` of `augment.eval_view`. It
depends on (seed, id) and not on the place in the batch.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from xsample_jax.augment.colors import LUMA, blur_weights
from xsample_jax.augment.ids import fold_in_id
from xsample_jax.errors import ConfigError, DataError, lookup

_NAMED = {"black": 0.0, "gray": 0.5, "white": 1.0}
# Parts of the side. Wide enough that a donor's shape is gone and its colors stay where they were.
_DONOR_SIGMA = 1 / 6


def solid(color: str | tuple[float, float, float]) -> jax.Array:
    """Returns one color for all images, float32 [3].

    Args:
      color: black, gray or white, or (red, green, blue) in 0..1.

    Raises:
      ConfigError: no such name, or not three numbers in 0..1.
    """
    if isinstance(color, str):
        return jnp.full((3,), lookup(_NAMED, color, "background color"))
    values = np.asarray(color, np.float32)
    if values.shape != (3,) or not ((values >= 0) & (values <= 1)).all():
        raise ConfigError("background color", color, "black, gray, white or three numbers in 0..1", "")
    return jnp.asarray(values)


@jax.jit
def random_colors(ids: jax.Array, seed: int) -> jax.Array:
    """Returns one uniformly random color per image: ids int [B] -> float32 [B, 1, 1, 3]."""
    return jax.vmap(lambda key: jax.random.uniform(key, (1, 1, 3)))(_keys(ids, seed))


@functools.partial(jax.jit, static_argnames=("size", "kind"))
def textures(ids: jax.Array, seed: int, size: int, kind: str) -> jax.Array:
    """Returns one texture of two random colors per image.

    Args:
      ids: int [B].
      seed: of the evaluation.
      size: side in pixels.
      kind: checker (squares of a random size, 1/16 to 1/4 of the side), gradient (across the image in a random
        direction) or noise (smooth random blotches).

    Returns:
      float32 [B, size, size, 3].

    Raises:
      ConfigError: no such kind.
    """
    pattern = lookup(_PATTERNS, kind, "background texture")

    def one(key):
        color_key, pattern_key = jax.random.split(key)
        first, second = _two_colors(color_key)
        share = pattern(pattern_key, size)[:, :, None]
        return first + share * (second - first)

    return jax.vmap(one)(_keys(ids, seed))


def from_images(images: jax.Array, donors: jax.Array) -> jax.Array:
    """Returns backgrounds with the colors of other images, without their shapes.

    The visible pixels of a donor are blurred with a Gaussian of 1/6 of its side, counting each by its alpha; where
    nothing visible is near, the background fades to the donor's mean color. An invisible donor gives mid gray.

    Args:
      images: uint8 [B, H, W, 3 or 4], straight alpha last.
      donors: int [B], rows of `images` (see choose_donors), or uint8 images like `images`.

    Returns:
      float32 [B, H, W, 3].
    """
    donors = jnp.asarray(donors)
    return _colors_around(jnp.asarray(images)[donors] if donors.ndim == 1 else donors)


@jax.jit
def _colors_around(donors: jax.Array) -> jax.Array:
    values = donors.astype(jnp.float32) / 255.0
    alpha = values[..., 3:] if values.shape[3] == 4 else jnp.ones_like(values[..., :1])
    colors = values[..., :3] * alpha
    height, width = values.shape[1:3]
    # A trace of gray replaces a donor that has no color at all.
    trace = 1e-6
    mean = (colors.mean(axis=(1, 2)) + trace * 0.5) / (alpha.mean(axis=(1, 2)) + trace)
    rows, columns = (blur_weights(jnp.full((1,), side * _DONOR_SIGMA), side)[0] for side in (height, width))

    def blurred(planes):
        return jnp.einsum("ty,bycx,ux->btuc", rows, jnp.swapaxes(planes, 2, 3), columns, precision="highest")

    faint = 0.05  # weight of the mean color against the visible pixels near by
    return (blurred(colors) + faint * mean[:, None, None, :]) / (blurred(alpha) + faint)


def choose_donors(groups: np.ndarray, same: bool, seed: int) -> np.ndarray:
    """Returns for each image another one, uniform among those of its own group or among those of all other groups.

    Args:
      groups: int [B], any values.
      same: from the same group (mixed-same), else from another (mixed-rand).
      seed: the choice is a function of it and of `groups`.

    Returns:
      int64 [B], never the image itself.

    Raises:
      DataError: an image has no such donor: a group of one with `same`, a single group without.
    """
    groups = np.asarray(groups)
    order = np.argsort(groups, kind="stable")
    names, starts, sizes = np.unique(groups[order], return_index=True, return_counts=True)
    if same and (sizes < 2).any():
        raise DataError(
            "groups",
            names[sizes < 2].tolist()[:10],
            "at least two images in every group",
            "Leave these groups out, or choose donors with same=False.",
        )
    if not same and len(names) < 2:
        raise DataError("groups", names.tolist(), "at least two groups", "Take images of more groups, or same=True.")
    group = np.searchsorted(names, groups)
    start, size = starts[group], sizes[group]
    place = np.empty(len(groups), np.int64)
    place[order] = np.arange(len(groups))
    draw = np.random.default_rng(seed).random(len(groups))
    # In sorted order the own group is the run [start, start + size). Count on from oneself within that run, or from
    # its end around through all the rest; either way oneself is not reached.
    if same:
        return order[start + (place - start + 1 + (draw * (size - 1)).astype(np.int64)) % size]
    return order[(start + size + (draw * (len(groups) - size)).astype(np.int64)) % len(groups)]


def mixed_same(images: jax.Array, groups: np.ndarray, seed: int) -> jax.Array:
    """Returns backgrounds in the colors of another image of the same group; see from_images and choose_donors."""
    return from_images(images, choose_donors(groups, True, seed))


def mixed_rand(images: jax.Array, groups: np.ndarray, seed: int) -> jax.Array:
    """Returns backgrounds in the colors of an image of another group; see from_images and choose_donors."""
    return from_images(images, choose_donors(groups, False, seed))


def _keys(ids: jax.Array, seed: int) -> jax.Array:
    return jax.vmap(fold_in_id, (None, 0))(jax.random.key(seed, impl="threefry2x32"), jnp.asarray(ids))


def _two_colors(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two random colors that can be told apart: the second is mirrored to the other side of mid gray."""
    first, second = jax.random.uniform(key, (2, 3))
    luma = LUMA.astype(np.float32)
    alike = ((first * luma).sum() > 0.5) == ((second * luma).sum() > 0.5)
    return first, jnp.where(alike, 1.0 - second, second)


def _checker(key: jax.Array, size: int) -> jax.Array:
    size_key, shift_key = jax.random.split(key)
    side = size * jax.random.uniform(size_key, minval=1 / 16, maxval=1 / 4)
    shift = jax.random.uniform(shift_key, (2, 1)) * side * 2
    rows, columns = jnp.floor((jnp.arange(size) + 0.5 + shift) / side)
    return (rows[:, None] + columns) % 2


def _gradient(key: jax.Array, size: int) -> jax.Array:
    angle = jax.random.uniform(key, maxval=2 * np.pi)
    place = (jnp.arange(size) + 0.5) / size - 0.5
    along = place[:, None] * jnp.sin(angle) + place * jnp.cos(angle)
    return (along - along.min()) / (along.max() - along.min())


def _noise(key: jax.Array, size: int) -> jax.Array:
    noise = jax.random.normal(key, (size, size))
    blur = blur_weights(jnp.full((1,), size / 24), size)[0]
    smooth = jnp.matmul(jnp.matmul(blur, noise, precision="highest"), blur.T, precision="highest")
    return jax.nn.sigmoid(3.0 * (smooth - smooth.mean()) / smooth.std())


_PATTERNS = {"checker": _checker, "gradient": _gradient, "noise": _noise}
