"""Differentiable augmentation of everything the discriminator sees, real and generated images alike.

Differentiable augmentation (Zhao et al., arXiv 2006.10738): with few images a discriminator learns them by heart unless
it only ever sees them augmented; as both kinds are, generated images do not become augmented ones. Its three policies:
color, translation and cutout.
"""

import jax
import jax.numpy as jnp
import numpy as np

from xsample_jax.augment.ids import fold_in_id

SHIFT = 1 / 8  # largest translation, as a share of the side
HOLE = 1 / 2  # side of the hole, as a share of the side
_DRAWS = 7


def planes_of(images: jax.Array) -> jax.Array:
    """Images [n, S, S, C] of 0..255, any type -> float32 -1..1, colors times alpha where there is one.

    What is transparent then looks alike whatever its colors are.
    """
    values = images.astype(jnp.float32) / 255.0
    if values.shape[-1] == 4:
        values = jnp.concatenate([values[..., :3] * values[..., 3:], values[..., 3:]], axis=-1)
    return 2.0 * values - 1.0


def images_of(planes: jax.Array) -> jax.Array:
    """The inverse of `planes_of`: float32 0..255, cut off where planes are beyond it; no color where no alpha is."""
    values = jnp.clip((planes + 1.0) / 2.0, 0.0, 1.0)
    if values.shape[-1] == 4:
        alpha = values[..., 3:]
        colors = jnp.where(alpha > 0, values[..., :3] / jnp.maximum(alpha, 1 / 255), 0.0)
        values = jnp.concatenate([jnp.clip(colors, 0.0, 1.0), alpha], axis=-1)
    return 255.0 * values


def augment_differentiably(planes: jax.Array, key: jax.Array, ids: jax.Array) -> jax.Array:
    """Images with other colors, moved and with a hole: planes [n, S, S, C] in -1..1, of any channels.

    Args:
      key: of the step. ids: int [n] or [n, 2]; a row's random numbers come from (key, id), not from its place.
    """
    draws = jax.vmap(lambda i: jax.random.uniform(fold_in_id(key, i), (_DRAWS,)))(ids)
    color, place = draws[:, :3, None, None, None], draws[:, 3:]
    return cut_out(moved(recolored(planes, *jnp.moveaxis(color, 1, 0)), place[:, :2]), place[:, 2:])


def recolored(planes: jax.Array, brightness: jax.Array, saturation: jax.Array, contrast: jax.Array) -> jax.Array:
    """The first three planes with another brightness (+-1/2), saturation (0..2) and contrast (1/2..3/2).

    Each draw is in [0, 1), of a shape that broadcasts to the planes; 1/2 changes nothing.
    """
    colors = planes[..., :3] + brightness - 0.5
    gray = colors.mean(axis=-1, keepdims=True)
    colors = (colors - gray) * (2 * saturation) + gray
    mean = colors.mean(axis=(1, 2, 3), keepdims=True)
    colors = (colors - mean) * (contrast + 0.5) + mean
    return jnp.concatenate([colors, planes[..., 3:]], axis=-1)


def moved(planes: jax.Array, draws: jax.Array) -> jax.Array:
    """The planes moved by up to an eighth of the side in both directions; what comes in from outside is 0.

    draws [n, 2], in [0, 1). The move is a product with a matrix of zeros and ones along each direction.
    """
    size = planes.shape[1]
    most = round(SHIFT * size)
    steps = jnp.floor(draws * (2 * most + 1)) - most
    place = np.arange(size)
    matrices = (place[:, None] - place == steps[:, :, None, None]).astype(planes.dtype)  # [n, 2, S to, S from]
    return jnp.einsum("nyi,nxj,nijc->nyxc", matrices[:, 0], matrices[:, 1], planes)


def cut_out(planes: jax.Array, draws: jax.Array) -> jax.Array:
    """The planes with a square hole of half the side, of value 0, its center anywhere. draws [n, 2], in [0, 1)."""
    size = planes.shape[1]
    center = jnp.floor(draws * size)
    inside = jnp.abs(np.arange(size) + 0.5 - center[:, :, None]) <= HOLE * size / 2  # [n, 2, S]
    hole = inside[:, 0, :, None] & inside[:, 1, None, :]
    return jnp.where(hole[..., None], 0.0, planes)
