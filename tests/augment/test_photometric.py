"""Color jitter, gray and blur: against scipy and formulas written out in numpy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d

from tests.augment.views import plain, some_images, views_of, whole_view
from xsample_jax.augment.colors import blur_weights, jitter_map

LUMA = np.array([0.299, 0.587, 0.114])


def brightness(image, factor):
    return image * factor


def contrast(image, factor):
    return factor * image + (1 - factor) * (image @ LUMA).mean()


def saturation(image, factor):
    return factor * image + (1 - factor) * (image @ LUMA)[..., None]


def hue(image, turns):
    """FCC NTSC, with its published three-digit coefficients: chroma as one complex number, turned."""
    to_yiq = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    y, i, q = np.moveaxis(image @ to_yiq.T, -1, 0)
    chroma = (i + 1j * q) * np.exp(2j * np.pi * turns)
    return np.stack([y, chroma.real, chroma.imag], axis=-1) @ np.linalg.inv(to_yiq).T


def test_jitter_map_is_the_four_operations_one_after_the_other_whatever_their_order():
    rng = np.random.default_rng(0)
    image = rng.random((9, 7, 3))
    factors = np.array([1.3, 0.6, 1.4, 0.09])
    mean = image.mean(axis=(0, 1), keepdims=True)[0]
    matrix, offset = jax.jit(jitter_map)(jnp.asarray(mean, jnp.float32), jnp.asarray(factors[None], jnp.float32))
    jittered = image @ np.asarray(matrix[0]).T + np.asarray(offset[0])
    for order in itertools.permutations(range(4)):
        expected = image
        for operation in order:
            expected = (brightness, contrast, saturation, hue)[operation](expected, factors[operation])
        np.testing.assert_allclose(jittered, expected, atol=2e-3, err_msg=str(order))


@pytest.mark.parametrize("operation", range(4))
def test_each_factor_is_its_own_operation(operation):
    image = np.random.default_rng(1).random((5, 4, 3))
    factors = np.array([1.0, 1.0, 1.0, 0.0])
    factors[operation] = (1.4, 0.6, 0.2, -0.1)[operation]
    mean = image.mean(axis=(0, 1), keepdims=True)[0]
    matrix, offset = jax.jit(jitter_map)(jnp.asarray(mean, jnp.float32), jnp.asarray(factors[None], jnp.float32))
    expected = (brightness, contrast, saturation, hue)[operation](image, factors[operation])
    np.testing.assert_allclose(image @ np.asarray(matrix[0]).T + np.asarray(offset[0]), expected, atol=1e-3)
    assert np.abs(expected - image).max() > 0.05


def test_no_jitter_strength_is_the_identity():
    images = some_images()
    still = plain(jitter=1.0, jitter_strength=(0.0, 0.0, 0.0, 0.0))
    np.testing.assert_allclose(views_of(images, still), views_of(images, plain()), atol=1e-6)


def test_jitter_leaves_images_that_are_not_drawn_to_the_last_bit_and_changes_the_others():
    images = np.repeat(some_images(1), 300, axis=0)
    made = views_of(images, plain(jitter=0.8), views=1)
    untouched = (made == views_of(images, plain(), views=1)).all(axis=(1, 2, 3))
    assert abs(untouched.mean() - 0.2) < 0.08
    assert made.min() >= 0
    assert made.max() <= 1


def test_brightness_factor_has_the_asked_range():
    images = np.full((500, 8, 8, 3), 100, np.uint8)
    made = views_of(images, plain(jitter=1.0, jitter_strength=(0.4, 0.0, 0.0, 0.0)), views=1)
    factors = made[:, 0, 0, 0] / (100 / 255)
    assert 0.6 <= factors.min() < 0.63
    assert 1.37 < factors.max() <= 1.4001
    assert abs(factors.mean() - 1) < 0.03


def test_gray_is_luma_and_happens_as_often_as_asked():
    images = np.repeat(some_images(1), 300, axis=0)
    whole = whole_view(images, plain())
    always = views_of(images, plain(gray=1.0), views=1)
    np.testing.assert_allclose(always, np.repeat((whole @ LUMA)[..., None], 3, axis=-1), atol=1e-5)
    sometimes = views_of(images, plain(gray=0.2), views=1)
    assert abs((np.ptp(sometimes, axis=-1).max(axis=(1, 2)) < 1e-6).mean() - 0.2) < 0.08


@pytest.mark.parametrize("sigma", [0.3, 0.9, 2.0])
def test_blur_weights_are_scipys_mirrored_gaussian(sigma):
    line = np.random.default_rng(0).random(20)
    expected = gaussian_filter1d(line, sigma, mode="mirror", truncate=9.0)
    np.testing.assert_allclose(
        jax.jit(blur_weights, static_argnums=1)(jnp.array([sigma]), 20)[0] @ line, expected, atol=1e-5
    )


def test_blur_scales_sigma_to_the_size_of_the_view():
    images = some_images()
    whole = whole_view(images, plain())
    sigma = 28.0 * 16 / 224  # given at side 224, seen at side 16
    expected = gaussian_filter1d(gaussian_filter1d(whole, sigma, 1, mode="mirror"), sigma, 2, mode="mirror")
    made = views_of(images, plain(blur=1.0, blur_sigma=(28.0, 28.0)), views=1)
    np.testing.assert_allclose(made, expected, atol=2e-3)
    half = views_of(np.repeat(images, 50, axis=0), plain(blur=0.5, blur_sigma=(28.0, 28.0)), views=1)
    unchanged = np.abs(half - np.repeat(whole, 50, axis=0)).max(axis=(1, 2, 3)) < 1e-5
    assert abs(unchanged.mean() - 0.5) < 0.1
