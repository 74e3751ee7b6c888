"""Views of images, made on the device inside the train step from uint8 images and integer ids.

A random resized crop is two small matrix products (crops.py), color jitter is one affine map of the colors per
view and blur is again two matrix products (colors.py). Every random number of a view comes from a key made of
(seed, step, image id, view), so that a view does not depend on the place of its image in the batch, on the number of
devices, or on what a run did before it was resumed.

Order of the operations (SimCLR, arXiv 2002.05709, appendix A; BYOL, arXiv 2006.07733, appendix B): crop and flip,
color jitter, gray, blur, solarize, normalize. Images with alpha are laid on their background right after the crop;
AutoAugment or RandAugment comes between that and the jitter.

In between an image is laid out [B, y, channel, x], for the sake of the products. Values are 0..1, float32 throughout.

At the end: a hash of the image as extra channels (augment.bits), and views of vectors (data.source=vectors).
"""

import types
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from xsample_jax.augment.autoaugment import DRAWS as AUTO_AUGMENT_DRAWS
from xsample_jax.augment.autoaugment import RANDOM_DRAWS, auto_augment, rand_augment
from xsample_jax.augment.colors import blur, jitter, solarize, to_gray
from xsample_jax.augment.crops import CROP_TRIES, crop, crop_boxes, resize, resize_weights
from xsample_jax.augment.ids import VECTOR_CHANNELS, fold_in_id

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
    # Last what came last: the numbers before it are those of older runs.
    "solarize": 1,
    "rand_augment": RANDOM_DRAWS,
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
) -> jax.Array:
    """Returns `views` random views of every image. To be called inside jit; `step` may be traced.

    Args:
      images: uint8 [B, H, W, C]; C = 3, or 4 with straight (not premultiplied) alpha last; or vectors (as_vectors).
      ids: int [B] or [B, 2] (augment/ids.py). Images with the same id get the same random choices.
      seed: of the run.
      step: int scalar.
      config: the `augment` section (config/schema.py).
      views: views per image, V.

    Returns:
      float32 [B*V, S, S, 3 + config.bits], normalized; row = image * V + view.
    """
    return views_from_numbers(images, draw_numbers(seed, step, ids, views), config)


def views_from_numbers(images: jax.Array, numbers: dict[str, jax.Array], config) -> jax.Array:
    """The part of make_views in which nothing is random: `numbers` as draw_numbers returns them."""
    source = as_vectors(images) if images.shape[3] == VECTOR_CHANNELS else _to_planes(images)
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


def view_boxes(
    ids: jax.Array, seed: int, step: jax.Array, config, shape: tuple[int, int, int], copies: jax.Array | None = None
) -> jax.Array:
    """Boxes float32 [B * V, 4] of the views of make_views, row = image * V + view.

    Args:
      ids, seed, step, copies: as of make_views; config: the augment section.
      shape: (views V, height, width of the images).

    Returns:
      x0, y0, x1, y1 as shares of the sides of the image; x0 > x1 where the view is flipped.
    """
    views, height, width = shape
    numbers = draw_numbers(seed, step, ids, views, copies)
    found = []
    for view in range(views):
        of, draws = config_of_view(config, view), {name: value[:, view] for name, value in numbers.items()}
        top, left, high, wide = jnp.zeros(len(ids)), jnp.zeros(len(ids)), height, width
        if of.crop_scale:
            chosen = (draws["crop_area"], draws["crop_ratio"], draws["crop_corner"])
            top, left, high, wide = crop_boxes(*chosen, (height, width), tuple(of.crop_scale), tuple(of.crop_ratio))
        ends, flip = (left / width, (left + wide) / width), draws["flip"][:, 0] < of.flip
        x0, x1 = jnp.where(flip, ends[1], ends[0]), jnp.where(flip, ends[0], ends[1])
        found.append(jnp.stack([x0, top / height, x1, (top + high) / height], axis=1))
    return jnp.stack(found, axis=1).reshape(-1, 4)


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
    if images.shape[3] == VECTOR_CHANNELS:
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
    if images.shape[3] == VECTOR_CHANNELS:
        return jax.lax.map(lambda draws: f(change_vectors(as_vectors(images), draws, config)), of_view)
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
        return change_vectors(source, draws, config)
    view = crop(source, draws, config)
    if source.shape[2] == 4:
        ground = draws["ground"] if config.background == "random_color" else _fixed_ground(config)
        view = _composite(view, jnp.broadcast_to(ground, (source.shape[0], 3))[:, None, :, None])
    if config.auto_augment or config.rand_augment:
        planes = jnp.floor(jnp.swapaxes(view, 1, 2) * 255.0 + 0.5)
        if config.auto_augment:
            planes = auto_augment(planes, draws["auto_augment"])
        else:
            planes = rand_augment(planes, draws["rand_augment"], config.rand_augment)
        view = jnp.swapaxes(planes, 1, 2) / 255.0
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


# A hash of the image as extra channels: the competing feature RandBit of arXiv 2011.02803.
#
# Every pixel of such a channel has the same value, 1 or -1: one bit of a hash of the delivered uint8 image. Both views
# of an image and its evaluation have the same bits, which no crop, flip or change of colors touches, so k bits tell up
# to 2^k images apart without a look at the image.


def with_bits(views: jax.Array, images: jax.Array, count: int) -> jax.Array:
    """Appends `count` channels to views [B * V, S, S, 3] of images uint8 [B, H, W, C], row = image * V + view."""
    if not count:
        return views
    bits = jnp.repeat(image_bits(images, count), len(views) // len(images), axis=0)
    planes = jnp.broadcast_to(bits[:, None, None, :], (*views.shape[:3], count))
    return jnp.concatenate([views, planes.astype(views.dtype)], axis=-1)


def image_bits(images: jax.Array, count: int) -> jax.Array:
    """The first `count` (at most 32) bits of a hash of every image: float32 [B, count] of 1 and -1.

    The hash is the sum of pixel * odd number of its place modulo 2^32, mixed once more: the same on every device and
    for every order of the sum. Images that are equal in all pixels have equal bits.
    """
    pixels = images.reshape(len(images), -1).astype(jnp.uint32) + jnp.uint32(1)
    place = jnp.arange(pixels.shape[1], dtype=jnp.uint32)
    word = _mix_bits(
        jnp.sum(pixels * (_mix_bits(place + jnp.uint32(0x9E3779B9)) | jnp.uint32(1)), axis=1, dtype=jnp.uint32)
    )
    bits = (word[:, None] >> jnp.arange(count, dtype=jnp.uint32)) & jnp.uint32(1)
    return 2.0 * bits.astype(jnp.float32) - 1.0


def _mix_bits(word: jax.Array) -> jax.Array:
    """A bijection of uint32 whose every input bit changes half of the output (finalizer of MurmurHash3)."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        word = (word ^ (word >> shift)) * jnp.uint32(factor)
    return word ^ (word >> 16)


# Views of vectors, where a record holds no image (data.source=vectors): features are lost, and noise is added.
#
# A vector reaches the device as the bytes of its float16 numbers, uint8 [1, E, 2]: an image of one row whose two
# channels no image has, so that whatever carries images carries it. No other invariance holds in general: only whoever
# made the vectors can say what changes one without changing its meaning.


def as_vectors(images: jax.Array) -> jax.Array:
    """uint8 [B, 1, E, 2] -> float32 [B, E]."""
    return jax.lax.bitcast_convert_type(images[:, 0], jnp.float16).astype(jnp.float32)


def change_vectors(vectors: jax.Array, draws: dict[str, jax.Array], config) -> jax.Array:
    """One random view of every vector, float32 [B, E].

    A feature is lost with probability `config.dropout`: it gets its mean over the batch. Then Gaussian noise is added,
    of `config.noise` standard deviations of each feature over the batch.

    Args:
      vectors: float32 [B, E].
      draws: of draw_numbers, for one view; two of the numbers of each vector, its own, are the key of its noise.
      config: the `augment` section.
    """
    data = jax.lax.bitcast_convert_type(draws["crop_area"][:, :2], jnp.uint32)

    def one(data):
        losing, adding = jax.random.split(jax.random.wrap_key_data(data, impl="threefry2x32"))
        shape = vectors.shape[1:]
        return jax.random.uniform(losing, shape), jax.random.normal(adding, shape)

    uniform, normal = jax.vmap(one)(data)
    mean, spread = vectors.mean(axis=0), vectors.std(axis=0)
    kept = jnp.where(uniform < config.dropout, mean, vectors)
    return kept + config.noise * spread * normal
