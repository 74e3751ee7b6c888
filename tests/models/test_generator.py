"""Generator and discriminator: shapes, independence of rows, bounds of layers, gradients of every parameter."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.quick import quick_jit
from xsample_jax.augment.differentiable import images_of, planes_of
from xsample_jax.models.generator import Discriminator, Generator, spectral_bound
from xsample_jax.state import to_flat

SIZE, LATENT, CONDITION = 16, 5, 3


def made(kind, condition, channels=3):
    options = (condition, (SIZE, channels), 4, "auto")
    return kind(*((LATENT,) if kind is Generator else ()), *options, rngs=nnx.Rngs(0))


def inputs(count, condition, seed=0):
    rng = np.random.default_rng(seed)
    latents = rng.normal(size=(count, LATENT)).astype(np.float32)
    return latents, rng.normal(size=(count, CONDITION)).astype(np.float32) if condition else None


@pytest.mark.parametrize(("channels", "condition"), [(3, 0), (4, CONDITION)])
def test_images_of_latents_whatever_else_is_in_the_batch(channels, condition):
    network = made(Generator, condition, channels)
    latents, side = inputs(6, condition)
    images = np.asarray(quick_jit(network)(latents, side))
    assert images.shape == (6, SIZE, SIZE, channels)
    assert images.dtype == np.float32
    assert 0 < images.min() < images.max() < 255
    assert np.abs(images[0] - images[1]).max() > 1  # latents tell images apart
    alone = np.asarray(quick_jit(network)(latents[4:5], None if side is None else side[4:5]))
    np.testing.assert_allclose(alone[0], images[4], rtol=1e-4)
    if condition:
        others = np.asarray(quick_jit(network)(latents, side[::-1]))
        assert np.abs(others - images).max() > 1


@pytest.mark.parametrize("condition", [0, CONDITION])
def test_every_parameter_of_both_has_a_gradient(condition):
    generator, discriminator = made(Generator, condition), made(Discriminator, condition)
    latents, side = inputs(4, condition)

    def score(generator, discriminator):
        return jnp.sum(discriminator(planes_of(generator(latents, side)), side) ** 2)

    for found in quick_jit(nnx.grad(score, argnums=(0, 1)))(generator, discriminator):
        for name, slope in to_flat(found).items():
            assert np.isfinite(slope).all(), name
            assert np.abs(slope).max() > 0, name


def test_the_discriminator_judges_each_image_alone_and_reads_its_side_information():
    network = made(Discriminator, CONDITION)
    rng = np.random.default_rng(1)
    planes = rng.uniform(-1, 1, (5, SIZE, SIZE, 3)).astype(np.float32)
    side = rng.normal(size=(5, CONDITION)).astype(np.float32)
    judge = quick_jit(network)
    score = np.asarray(judge(planes, side))
    assert score.shape == (5,)
    np.testing.assert_allclose(judge(planes[2:3], side[2:3])[0], score[2], rtol=1e-4)
    assert np.abs(judge(planes, -side) - score).max() > 1e-4


@pytest.mark.parametrize("shape", [(40, 12), (6, 30), (144, 64), (50, 1)])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_the_bound_is_the_schatten_norm_and_above_the_largest_singular_value(shape, scale):
    matrix = scale * np.random.default_rng(2).normal(size=shape)
    singular = np.linalg.svd(matrix, compute_uv=False)
    bound = float(spectral_bound(jnp.asarray(matrix, jnp.float32)))
    assert bound == pytest.approx(np.sum(singular**16) ** (1 / 16), rel=1e-3)
    assert singular[0] * 0.999 <= bound <= singular[0] * min(shape) ** (1 / 16) * 1.001


def test_scaled_weights_change_no_verdict_but_through_shifts():
    """Layers are divided by their size: a discriminator cannot grow its verdict by growing its kernels."""
    network = made(Discriminator, 0)
    planes = np.random.default_rng(3).uniform(-1, 1, (3, SIZE, SIZE, 3)).astype(np.float32)
    before = np.asarray(network(planes))
    for conv in network.convs:
        conv.kernel[...] = 7.0 * conv.kernel[...]
    network.score.kernel[...] = 0.1 * network.score.kernel[...]
    np.testing.assert_allclose(network(planes), before, rtol=1e-3)


def test_colors_of_what_is_transparent_are_not_seen():
    image = np.zeros((1, 2, 2, 4), np.uint8)
    image[0, 0, 0] = (255, 51, 0, 255)
    image[0, 1, 1] = (200, 200, 200, 0)
    planes = np.asarray(planes_of(jnp.asarray(image)))
    np.testing.assert_allclose(planes[0, 0, 0], [1, -0.6, -1, 1], atol=1e-6)
    np.testing.assert_array_equal(planes[0, 1, 1], [-1, -1, -1, -1])
    back = np.asarray(images_of(jnp.asarray(planes)))
    np.testing.assert_allclose(back[0, 0, 0], [255, 51, 0, 255], atol=1e-3)
    np.testing.assert_array_equal(back[0, 1, 1], 0)
    np.testing.assert_array_equal(images_of(jnp.asarray([[[[-3.0, 3.0, 0.0]]]]))[0, 0, 0], [0, 255, 127.5])
    opaque = np.asarray(planes_of(jnp.asarray(image[..., :3])))
    assert opaque.shape == (1, 2, 2, 3)
    assert opaque[0, 1, 1, 0] == pytest.approx(2 * 200 / 255 - 1)
