"""Bits of a hash of the image as extra channels: alike in all views, fair, from the image alone, through the model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.augment.views import section as augment_section
from tests.augment.views import some_images, views_of, whole_view
from tests.quick import quick_jit
from tests.tiny import random_batch, tiny_config, tiny_parts
from xsample_jax.augment.views import image_bits
from xsample_jax.config import default_config, resolve
from xsample_jax.errors import ConfigError
from xsample_jax.sharding import fetch_scalars, to_global


def hashed(image, count):
    """The hash with Python's integers."""

    def mixed(word):
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
            word = (word ^ (word >> shift)) * factor % 2**32
        return word ^ (word >> 16)

    pixels = [int(value) + 1 for value in np.ravel(image)]
    word = mixed(sum(value * (mixed((place + 0x9E3779B9) % 2**32) | 1) for place, value in enumerate(pixels)) % 2**32)
    return [2 * (word >> place & 1) - 1 for place in range(count)]


@pytest.mark.parametrize("channels", [3, 4])
def test_views_and_evaluation_have_the_bits_of_their_image(channels):
    images = some_images(channels=channels)
    plain, config = augment_section(), augment_section(bits=5)
    views, whole = views_of(images, config), whole_view(images, config)
    assert views.shape == (12, 16, 16, 8)
    expected = np.array([hashed(image, 5) for image in images], np.float32)
    assert len(np.unique(expected, axis=0)) > 3
    for rows, copies in ((views, 2), (whole, 1)):
        np.testing.assert_array_equal(
            rows[..., 3:], np.broadcast_to(np.repeat(expected, copies, 0)[:, None, None], (*rows.shape[:3], 5))
        )
    np.testing.assert_array_equal(views[..., :3], views_of(images, plain))
    np.testing.assert_array_equal(whole[..., :3], whole_view(images, plain))


def test_bits_are_fair_independent_and_changed_by_one_pixel():
    images = some_images(batch=4096, height=8, width=8)
    bits = np.asarray(image_bits(images, 32))
    assert np.abs(bits.mean(axis=0)).max() < 5 / 64  # five standard deviations
    correlation = bits.T @ bits / 4096 - np.eye(32)
    assert np.abs(correlation).max() < 5 / 64
    images[:, 3, 4, 1] ^= 1
    changed = (np.asarray(image_bits(images, 32)) != bits).mean(axis=0)
    np.testing.assert_allclose(changed, 0.5, atol=0.05)


@pytest.mark.usefixtures("shallow_resnet18")
def test_a_step_learns_bits_on_any_number_of_devices():
    """The stem has 3 + k channels, and the gradient of those for the bits is not zero."""
    config = tiny_config(augment__bits=6, batch_size=8)
    losses = {}
    for devices in (1, 8):
        parts = tiny_parts(config, jax.devices()[:devices])
        batch = {name: random_batch(config)[name] for name in parts.abstract_batch}
        state = parts.new_state()
        before = {name: np.array(value) for name, value in state.params.items()}
        state, metrics = parts.train_step(state, to_global(batch, parts.mesh))
        losses[devices] = fetch_scalars(metrics)["loss"]
        name = next(name for name in before if name.startswith("encoder/stem/conv"))
        assert before[name].shape[-2] == 9
        assert np.abs(np.asarray(state.params[name]) - before[name])[..., 3:, :].max() > 0
    assert losses[8] == pytest.approx(losses[1], rel=2e-5)


def test_a_vit_reads_them():
    from flax import nnx

    from xsample_jax.models.vit import Shape, ViT

    model = ViT(Shape(16, 1, 2), 4, 8, channels=5, rngs=nnx.Rngs(0))
    images = jax.random.normal(jax.random.key(0), (2, 8, 8, 5))
    slope = quick_jit(jax.grad(lambda x: jnp.sum(model(x) ** 2)))(images)
    assert np.abs(np.asarray(slope)[..., 3:]).max() > 0


@pytest.mark.parametrize("bits", [-1, 33])
def test_only_a_word_of_bits_is_there(bits):
    config = default_config()
    config.augment.bits = bits
    with pytest.raises(ConfigError, match=r"augment\.bits"):
        resolve(config)
