"""A hash of the image as extra channels: the competing feature RandBit of arXiv 2011.02803.

Every pixel of such a channel has the same value, 1 or -1: one bit of a hash of the delivered uint8 image. Both views of
an image and its evaluation have the same bits, which no crop, flip or change of colors touches, so k bits tell up to
2^k images apart without a look at the image.
"""

import jax
import jax.numpy as jnp


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
    word = _mixed(jnp.sum(pixels * (_mixed(place + jnp.uint32(0x9E3779B9)) | jnp.uint32(1)), axis=1, dtype=jnp.uint32))
    bits = (word[:, None] >> jnp.arange(count, dtype=jnp.uint32)) & jnp.uint32(1)
    return 2.0 * bits.astype(jnp.float32) - 1.0


def _mixed(word: jax.Array) -> jax.Array:
    """A bijection of uint32 whose every input bit changes half of the output (finalizer of MurmurHash3)."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        word = (word ^ (word >> shift)) * jnp.uint32(factor)
    return word ^ (word >> 16)
