"""Random resized crop and flip as two small matrix products `W_y X W_x^T`, which run on matrix units: no gathers.

A flip is the reversed order of the rows of `W_x`. Images are laid out [B, y, channel, x]: then both products, first
over y and then over x, find their operands in place and nothing is transposed.
"""

import jax
import jax.numpy as jnp
import numpy as np

CROP_TRIES = 10  # as torchvision


def crop(source: jax.Array, draws: dict[str, jax.Array], config) -> jax.Array:
    """Returns the random crop of every image, flipped or not: [B, H, C, W] -> [B, S, C, S].

    Args:
      source: float32.
      draws: `crop_area`, `crop_ratio` [B, CROP_TRIES], `crop_corner` [B, 2] and `flip` [B, 1], uniform in [0, 1).
      config: the `augment` section; without a `crop_scale` the whole image is taken.
    """
    batch, height, _, width = source.shape
    if config.crop_scale:
        top, left, box_height, box_width = crop_boxes(
            draws["crop_area"],
            draws["crop_ratio"],
            draws["crop_corner"],
            (height, width),
            tuple(config.crop_scale),
            tuple(config.crop_ratio),
        )
    else:
        top = left = jnp.zeros(batch)
        box_height, box_width = top + height, left + width
    flip = draws["flip"][:, 0] < config.flip
    rows = resize_weights(top, box_height, height, config.size)
    columns = resize_weights(left, box_width, width, config.size, flip)
    return resize(source, rows, columns)


def crop_boxes(
    area_draws: jax.Array,
    ratio_draws: jax.Array,
    corner_draws: jax.Array,
    shape: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Returns random crop boxes as torchvision's RandomResizedCrop draws them, without its loop.

    A try draws an area uniform in `scale` and an aspect ratio (width / height) log-uniform in `ratio`, and rounds the
    sides to whole pixels. All tries are drawn at once and the first that fits the image is taken; where none fits,
    the box is the largest centered one whose ratio is in range. The corner is uniform over all places in the image.

    Args:
      area_draws, ratio_draws: float [B, tries], uniform in [0, 1).
      corner_draws: float [B, 2], uniform in [0, 1).
      shape: (height, width) of the image.
      scale: range of the area as a share of the image.
      ratio: range of the aspect ratio.

    Returns:
      (top, left, box height, box width), each float32 [B] with whole numbers.
    """
    height, width = shape
    area = height * width * (scale[0] + (scale[1] - scale[0]) * area_draws)
    aspect = jnp.exp(np.log(ratio[0]) + (np.log(ratio[1]) - np.log(ratio[0])) * ratio_draws)
    widths, heights = jnp.round(jnp.sqrt(area * aspect)), jnp.round(jnp.sqrt(area / aspect))
    fits = (widths >= 1) & (widths <= width) & (heights >= 1) & (heights <= height)
    first = fits & (jnp.argmax(fits, axis=1)[:, None] == jnp.arange(fits.shape[1]))
    found = fits.any(axis=1)
    fallback_width, fallback_height = _largest_box(height, width, ratio)
    box_width = jnp.where(found, (widths * first).sum(axis=1), fallback_width)
    box_height = jnp.where(found, (heights * first).sum(axis=1), fallback_height)
    top = jnp.where(found, _corner(corner_draws[:, 0], height - box_height), (height - fallback_height) // 2)
    left = jnp.where(found, _corner(corner_draws[:, 1], width - box_width), (width - fallback_width) // 2)
    return top, left, box_height, box_width


def resize_weights(
    start: jax.Array, length: jax.Array, pixels: int, size: int, flip: jax.Array | None = None
) -> jax.Array:
    """Returns the matrices that cut [start, start + length) out of a line of pixels and resize it to `size`.

    Bilinear with antialiasing: the triangle kernel, as wide as one output pixel when shrinking and as one input pixel
    when growing. Pixels outside of the box get weight zero (crop first, then resize), and every row sums to one.

    Args:
      start, length: float [B], whole pixels.
      pixels: length of the line.
      size: output pixels.
      flip: bool [B]; where true the output runs backwards.

    Returns:
      float32 [B, size, pixels].
    """
    out = jnp.broadcast_to(jnp.arange(size, dtype=jnp.float32), (*start.shape, size))
    if flip is not None:
        out = jnp.where(flip[:, None], size - 1 - out, out)
    step = length[:, None] / size
    center = start[:, None] + (out + 0.5) * step
    position = jnp.arange(pixels, dtype=jnp.float32) + 0.5
    distance = jnp.abs(position - center[:, :, None]) / jnp.maximum(step, 1.0)[:, :, None]
    inside = (position > start[:, None]) & (position < (start + length)[:, None])
    weights = jnp.maximum(1.0 - distance, 0.0) * inside[:, None, :]
    return weights / weights.sum(axis=-1, keepdims=True)


def resize(planes: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """The two products: planes [B, H, C, W], rows [B, S, H], columns [B, T, W] -> [B, S, C, T]."""
    batch, height, channels, width = planes.shape
    size = rows.shape[1]
    # Full float32 also where the default is a shorter type (TF32 on GPU, bfloat16 on TPU).
    over_y = jnp.matmul(rows, planes.reshape(batch, height, channels * width), precision="highest")
    over_x = jnp.matmul(over_y.reshape(batch, size * channels, width), jnp.swapaxes(columns, 1, 2), precision="highest")
    return over_x.reshape(batch, size, channels, columns.shape[1])


def _corner(draw: jax.Array, room: jax.Array) -> jax.Array:
    return jnp.minimum(jnp.floor(draw * (room + 1)), room)


def _largest_box(height: int, width: int, ratio: tuple[float, float]) -> tuple[int, int]:
    if width / height < ratio[0]:
        return width, max(1, min(height, round(width / ratio[0])))  # a ratio far from 1: no box of 0 pixels
    if width / height > ratio[1]:
        return max(1, min(width, round(height * ratio[1]))), height
    return width, height
