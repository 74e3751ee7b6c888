"""Views of images, made on the device inside the train step from uint8 images and integer ids.

A random resized crop is two small matrix products (resized_crop.py), color jitter is one affine map of the colors per
view and blur is again two matrix products (photometric.py). Every random number of a view comes from a key made of
(seed, step, image id, view), so that a view does not depend on the place of its image in the batch, on the number of
devices, or on what a run did before it was resumed.

Order of the operations (SimCLR, arXiv 2002.05709, appendix A; BYOL, arXiv 2006.07733, appendix B): crop and flip,
color jitter, gray, blur, solarize, normalize. Images with alpha are laid on their background right after the crop;
AutoAugment comes between that and the jitter.

In between an image is laid out [B, y, channel, x], for the sake of the products. Values are 0..1, float32 throughout.
"""

import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xsample_jax.augment.autoaugment import DRAWS as AUTO_AUGMENT_DRAWS
from xsample_jax.augment.autoaugment import auto_augment
from xsample_jax.augment.bits import with_bits
from xsample_jax.augment.ids import fold_in_id
from xsample_jax.augment.vectors import CHANNELS as VECTOR
from xsample_jax.augment.vectors import as_vectors, change

# Random resized crop and flip as two small matrix products `W_y X W_x^T`, which run on matrix units: no gathers.
#
# A flip is the reversed order of the rows of `W_x`. Images are laid out [B, y, channel, x]: then both products, first
# over y and then over x, find their operands in place and nothing is transposed.


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
            height,
            width,
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
    height: int,
    width: int,
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
      height, width: of the image.
      scale: range of the area as a share of the image.
      ratio: range of the aspect ratio.

    Returns:
      (top, left, box height, box width), each float32 [B] with whole numbers.
    """
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
        return width, min(height, round(width / ratio[0]))
    if width / height > ratio[1]:
        return min(width, round(height * ratio[1])), height
    return width, height


# What changes the colors of a view and not its geometry: color jitter, gray, blur.
#
# Color jitter is one affine map of the colors per view, blur is two matrix products as a resize is. Views are laid
# out
# [B, y, channel, x], float32, values 0..1; every function takes the `draws` [B, width] of its choices, uniform in [0,
# 1).


# Rec. 601 luma, the weights of PIL's and torchvision's conversion to gray.
LUMA = np.array([0.299, 0.587, 0.114])
# Rows Y, I, Q of the NTSC color space: the axis of gray and a plane of chroma in which hue is an angle.
_YIQ = np.stack([LUMA, [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])

# Projection of a color on its chroma, and the same after a quarter turn.
_CHROMA = np.eye(3) - np.linalg.inv(_YIQ) @ np.diag([1, 0, 0]) @ _YIQ
_TURN = np.linalg.inv(_YIQ) @ np.array([[0, 0, 0], [0, 0, -1], [0, 1, 0]]) @ _YIQ

_BLUR_SIDE = 224  # augment.blur_sigma is given for images of this side


def jitter(view: jax.Array, draws: dict[str, jax.Array], config) -> jax.Array:
    """Shifts brightness, contrast, saturation and hue of a random `config.jitter` of the views; cut off to 0..1."""
    strength = np.asarray(config.jitter_strength, np.float32)
    neutral = np.array([1, 1, 1, 0], np.float32)
    low, high = np.maximum(neutral - strength, [0, 0, 0, -np.inf]).astype(np.float32), neutral + strength
    factors = low + (high - low) * draws["jitter_factors"]
    apply = draws["jitter"] < config.jitter
    matrix, offset = jitter_map(view.mean(axis=(1, 3)), jnp.where(apply, factors, neutral))
    mixed = sum(matrix[:, None, :, k, None] * view[:, :, k, None, :] for k in range(3)) + offset[:, None, :, None]
    return jnp.where(apply[:, :, None, None], jnp.clip(mixed, 0.0, 1.0), view)


def to_gray(view: jax.Array, draws: dict[str, jax.Array], config) -> jax.Array:
    """Replaces the colors of a random `config.gray` of the views by their luma."""
    luma = sum(float(LUMA[k]) * view[:, :, k, None, :] for k in range(3))
    return jnp.where((draws["gray"] < config.gray)[:, :, None, None], luma, view)


def blur(view: jax.Array, draws: dict[str, jax.Array], config) -> jax.Array:
    """Blurs a random `config.blur` of the views with a Gaussian of random width."""
    low, high = config.blur_sigma
    sigma = (low + (high - low) * draws["blur_sigma"][:, 0]) * (config.size / _BLUR_SIDE)
    weights = blur_weights(sigma, config.size)
    apply = (draws["blur"] < config.blur)[:, :, None]
    weights = jnp.where(apply, weights, jnp.eye(config.size))
    return resize(view, weights, weights)


def solarize(view: jax.Array, draws: dict[str, jax.Array], config) -> jax.Array:
    """Inverts the values from one half on, of a random `config.solarize` of the views."""
    inverted = jnp.where(view >= 0.5, 1.0 - view, view)
    return jnp.where((draws["solarize"] < config.solarize)[:, :, None, None], inverted, view)


def jitter_map(mean: jax.Array, factors: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the affine map of the colors that is brightness, contrast, saturation and hue in any order.

    Split a color into luma (a gray) and chroma: brightness scales both, contrast scales both about the gray of the
    mean color, saturation scales the chroma alone, hue turns it. These commute, the mean being moved along with the
    colors, so that the random order of torchvision makes no difference and is not drawn.

    Differences from torchvision: values are cut off to 0..1 after all four and not after each, the only way in which
    its order is seen; and hue turns the chroma of YIQ at constant luma (a linear map), where torchvision shifts the hue
    of HSV at constant maximum.

    Args:
      mean: float [B, 3], mean color of each view.
      factors: float [B, 4]: brightness, contrast and saturation (1 = unchanged) and hue in turns (0 = unchanged).

    Returns:
      (matrix [B, 3, 3], offset [B, 3]): color -> matrix @ color + offset.
    """
    brightness, contrast, saturation, hue = (factors[:, k, None, None] for k in range(4))
    angle = 2 * np.pi * hue
    # Written about the identity, so that unchanged is unchanged to the last bit.
    chroma = (saturation * jnp.cos(angle) - 1.0) * jnp.asarray(_CHROMA, jnp.float32)
    chroma += saturation * jnp.sin(angle) * jnp.asarray(_TURN, jnp.float32)
    matrix = brightness * contrast * (jnp.eye(3) + chroma)
    gray = (mean * LUMA.astype(np.float32)).sum(axis=1, keepdims=True)
    offset = factors[:, :1] * (1.0 - factors[:, 1:2]) * gray
    return matrix, jnp.broadcast_to(offset, mean.shape)


def blur_weights(sigma: jax.Array, size: int) -> jax.Array:
    """Returns the matrices of a Gaussian blur along a line with reflected ends (the end pixel is not repeated).

    Args:
      sigma: float [B], in pixels; close to 0 is the identity.
      size: pixels of the line.

    Returns:
      float32 [B, size, size], rows sum to one.
    """
    place = np.arange(size)
    # Images of the line in mirrors at both ends; two mirrors are enough, as sigma is far below the size.
    mirrored = np.stack([place, -place, 2 * (size - 1) - place])
    counted = np.stack([place >= 0, place > 0, place < size - 1])
    distance = (place[:, None, None] - mirrored).astype(np.float32)
    kernel = jnp.exp(-0.5 * (distance / jnp.maximum(sigma, 1e-3)[:, None, None, None]) ** 2) * counted
    weights = kernel.sum(axis=2)
    return weights / weights.sum(axis=-1, keepdims=True)


# Width of the uniform numbers that each random choice takes from the one draw of a view.
_DRAWS = {
    "crop_area": CROP_TRIES,
    "crop_ratio": CROP_TRIES,
    "crop_corner": 2,
    "flip": 1,
    "ground": 3,
    "auto_augment": AUTO_AUGMENT_DRAWS,
    "jitter": 1,
    "jitter_factors": 4,
    "gray": 1,
    "blur": 1,
    "blur_sigma": 1,
    "solarize": 1,  # last: the numbers before it are those of runs that are older
}

# What `augment.per_view` may change for one view.
PER_VIEW = (
    "crop_scale", "crop_ratio", "flip", "jitter", "jitter_strength", "gray", "blur", "blur_sigma", "solarize",
)  # fmt: skip


def make_views(
    images: jax.Array,
    ids: jax.Array,
    seed: int,
    step: jax.Array,
    config,
    views: int,
    copies: jax.Array | None = None,
) -> jax.Array:
    """Returns `views` random views of every image. To be called inside jit; `step` may be traced.

    Args:
      images: uint8 [B, H, W, C]; C = 3, or 4 with straight (not premultiplied) alpha last; or vectors (vectors.py).
      ids: int [B] or [B, 2] (augment/ids.py). Images with the same id get the same random choices.
      copies: int [B] of `copies_of`, for batches in which a record may stand several times: each time it gets random
        choices of its own. None: no record does.
      seed: of the run.
      step: int scalar.
      config: the `augment` section (config/schema.py).
      views: views per image, V.

    Returns:
      float32 [B*V, S, S, 3 + config.bits], normalized; row = image * V + view.
    """
    return views_from_numbers(images, draw_numbers(seed, step, ids, views, copies), config)


def copies_of(ids: jax.Array) -> jax.Array:
    """How many earlier rows of the batch have the id of a row: 0 for the first, 1, 2, ... int32 [B]."""
    order = jnp.argsort(ids, stable=True)
    sorted_ids = ids[order]
    since_first = jnp.arange(len(ids)) - jnp.searchsorted(sorted_ids, sorted_ids, method="sort")
    return jnp.zeros(len(ids), jnp.int32).at[order].set(since_first.astype(jnp.int32))


def views_from_numbers(images: jax.Array, numbers: dict[str, jax.Array], config) -> jax.Array:
    """The part of make_views in which nothing is random: `numbers` as draw_numbers returns them."""
    source = as_vectors(images) if images.shape[3] == VECTOR else _to_planes(images)
    # One view after the other, each over the whole batch: temporaries stay small, the batch dimension stays first.
    of_view = {choice: jnp.moveaxis(of_all, 1, 0) for choice, of_all in numbers.items()}
    if config.per_view:
        views = len(of_view["flip"])
        draws_of = lambda view: {choice: of_all[view] for choice, of_all in of_view.items()}  # noqa: E731
        stacked = jnp.stack([_one_view(source, draws_of(view), config_of_view(config, view)) for view in range(views)])
    else:
        stacked = jax.lax.map(lambda draws: _one_view(source, draws, config), of_view)
    return with_bits(jnp.moveaxis(stacked, 0, 1).reshape(-1, *stacked.shape[2:]), images, config.bits)


def config_of_view(config, view: int):
    """The augment section for one view: with its changes of `per_view`, whose last entry serves all later views."""
    if not config.per_view:
        return config
    changes = config.per_view[min(view, len(config.per_view) - 1)]
    return types.SimpleNamespace(**{**config.to_dict(), **changes})


def eval_view(images: jax.Array, config, background: jax.Array | None = None) -> jax.Array:
    """Returns every whole image at side S, laid on `background` and normalized; nothing is random.

    Args:
      images: uint8 [B, H, W, C], C = 3 or 4 (straight alpha last).
      config: the `augment` section (config/schema.py).
      background: float 0..1, [3] or anything that broadcasts to [B, H, W, 3] (see backgrounds.py). None: white where
        training used white (`augment.background`), else mid gray. Not seen through opaque images.

    Returns:
      float32 [B, S, S, 3 + config.bits].
    """
    if images.shape[3] == VECTOR:
        return as_vectors(images)
    source = _to_planes(images)
    if background is None:
        background = _fixed_ground(config)
    ground = jnp.broadcast_to(jnp.asarray(background, jnp.float32), (*images.shape[:3], 3))
    whole = _composite(source, jnp.swapaxes(ground, 2, 3))
    height, width = images.shape[1:3]
    zero = jnp.zeros(images.shape[0])
    rows = resize_weights(zero, zero + height, height, config.size)
    columns = resize_weights(zero, zero + width, width, config.size)
    return with_bits(_normalize(resize(whole, rows, columns), config), images, config.bits)


def map_random_views(
    f: Callable[[jax.Array], Any],
    images: jax.Array,
    numbers: dict[str, jax.Array],
    config,
    background: jax.Array | None = None,
) -> Any:
    """f of random views of every image, one view of the whole batch after the other: results [views, ...].

    For evaluation: images lie on the ground of `eval_view`, not on a random one. f: float32 [B, S, S, 3 + config.bits]
    -> arrays. numbers: as draw_numbers returns them. Other arguments as of eval_view.
    """
    of_view = {choice: jnp.moveaxis(of_all, 1, 0) for choice, of_all in numbers.items()}
    if images.shape[3] == VECTOR:
        return jax.lax.map(lambda draws: f(change(as_vectors(images), draws, config)), of_view)
    ground = jnp.asarray(_fixed_ground(config) if background is None else background, jnp.float32)
    whole = _composite(_to_planes(images), jnp.swapaxes(jnp.broadcast_to(ground, (*images.shape[:3], 3)), 2, 3))
    return jax.lax.map(lambda draws: f(with_bits(_one_view(whole, draws, config), images, config.bits)), of_view)


def draw_numbers(
    seed: int, step: jax.Array, ids: jax.Array, views: int, copies: jax.Array | None = None
) -> dict[str, jax.Array]:
    """Returns every random number of every view, from the key fold_in(fold_in(fold_in(key(seed), step), id), view).

    The views of a record's second place in the batch are numbered on: view + views * copy.

    Returns:
      choice -> float32 [B, views, width], uniform in [0, 1).
    """
    # The generator is named so that a change of jax's default generator does not change the views of a run.
    of_step = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), step)

    def one(image_id, copy, view):
        key = jax.random.fold_in(fold_in_id(of_step, image_id), view + views * copy)
        return jax.random.uniform(key, (sum(_DRAWS.values()),), jnp.float32)

    copies = jnp.zeros(len(ids), jnp.int32) if copies is None else copies
    numbers = jax.vmap(jax.vmap(one, (None, None, 0)), (0, 0, None))(ids, copies, jnp.arange(views))
    ends = np.cumsum(list(_DRAWS.values()))
    return dict(zip(_DRAWS, jnp.split(numbers, ends[:-1], axis=2)))


def _one_view(source: jax.Array, draws: dict[str, jax.Array], config) -> jax.Array:
    """source [B, H, C, W] premultiplied 0..1, draws [B, width] each -> float32 [B, S, S, 3] normalized."""
    if source.ndim == 2:
        return change(source, draws, config)
    view = crop(source, draws, config)
    if source.shape[2] == 4:
        ground = draws["ground"] if config.background == "random_color" else _fixed_ground(config)
        view = _composite(view, jnp.broadcast_to(ground, (source.shape[0], 3))[:, None, :, None])
    if config.auto_augment:
        planes = jnp.floor(jnp.swapaxes(view, 1, 2) * 255.0 + 0.5)
        view = jnp.swapaxes(auto_augment(planes, draws["auto_augment"]), 1, 2) / 255.0
    if config.jitter > 0:
        view = jitter(view, draws, config)
    if config.gray > 0:
        view = to_gray(view, draws, config)
    if config.blur > 0:
        view = blur(view, draws, config)
    if config.solarize > 0:
        view = solarize(view, draws, config)
    return _normalize(view, config)


def _to_planes(images: jax.Array) -> jax.Array:
    """uint8 [B, H, W, C] -> float32 [B, H, C, W], 0..1, colors premultiplied by alpha when there is one."""
    planes = jnp.swapaxes(images, 2, 3).astype(jnp.float32) / 255.0
    if images.shape[3] == 3:
        return planes
    # Premultiplied, a transparent pixel has no color that resizing could smear over the edge of the object.
    return jnp.concatenate([planes[:, :, :3] * planes[:, :, 3:], planes[:, :, 3:]], axis=2)


def _composite(premultiplied: jax.Array, ground: jax.Array) -> jax.Array:
    """[B, y, 4, x] (or 3: opaque) over a ground that broadcasts to [B, y, 3, x]."""
    if premultiplied.shape[2] == 3:
        return premultiplied
    return premultiplied[:, :, :3] + (1.0 - premultiplied[:, :, 3:]) * ground


def _fixed_ground(config) -> jax.Array:
    return jnp.full((3,), 1.0 if config.background == "white" else 0.5)


def _normalize(view: jax.Array, config) -> jax.Array:
    """[B, S, 3, S], 0..1 -> [B, S, S, 3], (view - mean) / std."""
    mean, std = (np.asarray(values, np.float32) for values in (config.mean, config.std))
    return (jnp.swapaxes(view, 2, 3) - mean) / std
