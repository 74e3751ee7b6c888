"""Views of images, made on the device inside the train step from uint8 images and integer ids.

A random resized crop is two small matrix products (resized_crop.py), colour jitter is one affine map of the colours per
view and blur is again two matrix products (photometric.py). Every random number of a view comes from a key made of
(seed, step, image id, view), so that a view does not depend on the place of its image in the batch, on the number of
devices, or on what a run did before it was resumed.

Order of the operations (SimCLR, arXiv 2002.05709, appendix A): crop and flip, colour jitter, grey, blur, normalise.
Images with alpha are laid on their ground right after the crop; AutoAugment comes between that and the jitter.

In between an image is laid out [B, y, channel, x], for the sake of the products. Values are 0..1, float32 throughout.
"""

import jax
import jax.numpy as jnp
import numpy as np

from xsample_jax.data.auto_augment import DRAWS as AUTO_AUGMENT_DRAWS
from xsample_jax.data.auto_augment import auto_augment
from xsample_jax.data.photometric import blur, jitter, to_grey
from xsample_jax.data.resized_crop import CROP_TRIES, crop, resize, resize_weights

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
    "grey": 1,
    "blur": 1,
    "blur_sigma": 1,
}


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
      images: uint8 [B, H, W, C]; C = 3, or 4 with straight (not premultiplied) alpha last.
      ids: int [B]. Images with the same id get the same random choices.
      copies: int [B] of `copies_of`, for batches in which a record may stand several times: each time it gets random
        choices of its own. None: no record does.
      seed: of the run.
      step: int scalar.
      config: the `augment` section (config/schema.py).
      views: views per image, V.

    Returns:
      float32 [B*V, S, S, 3], normalised; row = image * V + view.
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
    source = _to_planes(images)
    # One view after the other, each over the whole batch: temporaries stay small, the batch dimension stays first.
    of_view = {choice: jnp.moveaxis(of_all, 1, 0) for choice, of_all in numbers.items()}
    stacked = jax.lax.map(lambda draws: _one_view(source, draws, config), of_view)
    return jnp.moveaxis(stacked, 0, 1).reshape(-1, *stacked.shape[2:])


def eval_view(images: jax.Array, config, background: jax.Array | None = None) -> jax.Array:
    """Returns every whole image at side S, laid on `background` and normalised; nothing is random.

    Args:
      images: uint8 [B, H, W, C], C = 3 or 4 (straight alpha last).
      config: the `augment` section (config/schema.py).
      background: float 0..1, [3] or anything that broadcasts to [B, H, W, 3] (see backgrounds.py). None: white where
        training used white (`augment.background`), else mid grey. Not seen through opaque images.

    Returns:
      float32 [B, S, S, 3].
    """
    source = _to_planes(images)
    if background is None:
        background = _fixed_ground(config)
    ground = jnp.broadcast_to(jnp.asarray(background, jnp.float32), (*images.shape[:3], 3))
    whole = _composite(source, jnp.swapaxes(ground, 2, 3))
    height, width = images.shape[1:3]
    zero = jnp.zeros(images.shape[0])
    rows = resize_weights(zero, zero + height, height, config.size)
    columns = resize_weights(zero, zero + width, width, config.size)
    return _normalise(resize(whole, rows, columns), config)


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
        key = jax.random.fold_in(jax.random.fold_in(of_step, image_id), view + views * copy)
        return jax.random.uniform(key, (sum(_DRAWS.values()),), jnp.float32)

    copies = jnp.zeros(len(ids), jnp.int32) if copies is None else copies
    numbers = jax.vmap(jax.vmap(one, (None, None, 0)), (0, 0, None))(ids, copies, jnp.arange(views))
    ends = np.cumsum(list(_DRAWS.values()))
    return dict(zip(_DRAWS, jnp.split(numbers, ends[:-1], axis=2)))


def _one_view(source: jax.Array, draws: dict[str, jax.Array], config) -> jax.Array:
    """source [B, H, C, W] premultiplied 0..1, draws [B, width] each -> float32 [B, S, S, 3] normalised."""
    view = crop(source, draws, config)
    if source.shape[2] == 4:
        ground = draws["ground"] if config.background == "random_colour" else _fixed_ground(config)
        view = _composite(view, jnp.broadcast_to(ground, (source.shape[0], 3))[:, None, :, None])
    if config.auto_augment:
        planes = jnp.floor(jnp.swapaxes(view, 1, 2) * 255.0 + 0.5)
        view = jnp.swapaxes(auto_augment(planes, draws["auto_augment"]), 1, 2) / 255.0
    if config.jitter > 0:
        view = jitter(view, draws, config)
    if config.grey > 0:
        view = to_grey(view, draws, config)
    if config.blur > 0:
        view = blur(view, draws, config)
    return _normalise(view, config)


def _to_planes(images: jax.Array) -> jax.Array:
    """uint8 [B, H, W, C] -> float32 [B, H, C, W], 0..1, colours premultiplied by alpha when there is one."""
    planes = jnp.swapaxes(images, 2, 3).astype(jnp.float32) / 255.0
    if images.shape[3] == 3:
        return planes
    # Premultiplied, a transparent pixel has no colour that resizing could smear over the edge of the object.
    return jnp.concatenate([planes[:, :, :3] * planes[:, :, 3:], planes[:, :, 3:]], axis=2)


def _composite(premultiplied: jax.Array, ground: jax.Array) -> jax.Array:
    """[B, y, 4, x] (or 3: opaque) over a ground that broadcasts to [B, y, 3, x]."""
    if premultiplied.shape[2] == 3:
        return premultiplied
    return premultiplied[:, :, :3] + (1.0 - premultiplied[:, :, 3:]) * ground


def _fixed_ground(config) -> jax.Array:
    return jnp.full((3,), 1.0 if config.background == "white" else 0.5)


def _normalise(view: jax.Array, config) -> jax.Array:
    """[B, S, 3, S], 0..1 -> [B, S, S, 3], (view - mean) / std."""
    mean, std = (np.asarray(values, np.float32) for values in (config.mean, config.std))
    return (jnp.swapaxes(view, 2, 3) - mean) / std
