"""Resizing: against triangles by hand in float64, and what must not change."""

import numpy as np
import pytest
from PIL import Image

from xsample_jax.data.decode import on_white, resized, square
from xsample_jax.errors import DataError


def noise(height, width, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def image(height, width):
    """Smooth colors with a little grain, as a photograph has."""
    coarse = Image.fromarray(noise(height // 40, width // 40)).resize((width, height), Image.Resampling.BICUBIC)
    grain = np.random.default_rng(1).normal(0, 6, (height, width, 3))
    return np.clip(np.asarray(coarse) + grain, 0, 255).astype(np.uint8)


def triangles(before, after):
    """One antialiasing triangle per output pixel, as wide as the step (and no narrower than one pixel)."""
    step = max(1, before / after)
    centers = (np.arange(after) + 0.5)[:, None] * before / after
    weights = np.maximum(0, 1 - np.abs(np.arange(before) + 0.5 - centers) / step)
    return weights / weights.sum(axis=1, keepdims=True)


def by_hand(pixels, width, height):
    across, down = triangles(pixels.shape[1], width), triangles(pixels.shape[0], height)
    return np.einsum("yi,ijc,xj->yxc", down, pixels.astype(float), across, optimize=True)


def test_halves_are_triangles_exactly():
    pixels = noise(32, 48)
    np.testing.assert_allclose(resized(pixels, 24, 16)[1:-1, 1:-1], by_hand(pixels, 24, 16)[1:-1, 1:-1], atol=1.01)


@pytest.mark.parametrize(("width", "height"), [(70, 50), (41, 90), (64, 48)])
def test_growing_is_bilinear(width, height):
    pixels = noise(30, 40)
    np.testing.assert_allclose(resized(pixels, width, height), by_hand(pixels, width, height), atol=1.01)


@pytest.mark.parametrize("step", [1.05, 1.2, 1.4648, 1.7, 1.95, 2.1, 2.6, 3.3, 5, 9, 15])
def test_shrinking_is_near_the_triangle(step):
    """Without smoothing, linear interpolation of the noise would be 18 levels off at step 1.46, 26 at 1.95."""
    side = round(480 / step)
    for pixels, near in ((image(480, 480), 1.1), (noise(480, 480), 11.0 if step > 2 else 8.0)):
        off = np.abs(resized(pixels, side, side) - by_hand(pixels, side, side)).mean()
        assert off < near, off


def test_grain_is_averaged_away():
    """The variance that is left of white noise is that of the triangle: no aliasing, and no blur beyond it."""
    pixels = noise(600, 600)
    for side in (400, 290, 200, 130, 70):
        left, wanted = resized(pixels, side, side).std(), by_hand(pixels, side, side).std()
        assert 0.75 * wanted < left < 1.3 * wanted, (side, left, wanted)


def test_each_side_has_its_own_step():
    lines = np.repeat(noise(1, 60), 90, axis=0)  # the same in every row
    np.testing.assert_array_equal(resized(lines, 60, 50), lines[:50])
    np.testing.assert_array_equal(resized(lines.transpose(1, 0, 2).copy(), 50, 60), lines[:50].transpose(1, 0, 2))
    assert resized(noise(375, 500), 500, 100).shape == (100, 500, 3)


@pytest.mark.parametrize(
    ("before", "after"), [((3, 5), (32, 32)), ((1, 1), (7, 3)), ((30, 50_000), (400, 2)), ((9, 9), (1, 1))]
)
@pytest.mark.parametrize("color", [(10, 200, 30), (255, 255, 255), (10, 200, 30, 255), (0, 0, 0, 0)])
def test_one_color_stays_one(before, after, color):
    pixels = np.full((*before, len(color)), color, np.uint8)
    result = resized(pixels, *after)
    assert result.shape == (after[1], after[0], len(color))
    assert (result == color).all()


def test_hidden_colors_do_not_bleed():
    pixels = np.zeros((32, 32, 4), np.uint8)
    pixels[:, :16] = (255, 0, 0, 255)
    pixels[:, 16:] = (0, 255, 0, 0)  # green, but fully transparent
    for side in (10, 16, 23, 50):
        result = resized(pixels, side, side)
        visible = result[result[..., 3] > 20]
        assert (visible[:, 0] > 250).all()
        assert (visible[:, 1] < 5).all()
        assert np.abs(result[..., 3] - by_hand(pixels, side, side)[..., 3]).mean() < 4


def test_an_opaque_image_is_the_same_with_alpha():
    pixels = image(120, 96)
    opaque = np.dstack([pixels, np.full((120, 96), 255, np.uint8)])
    for side in (50, 96, 130):
        with_alpha = square(opaque, side, 4)
        np.testing.assert_array_equal(with_alpha, square(pixels, side, 4))
        np.testing.assert_array_equal(square(opaque, side, 3), square(pixels, side, 3))
        assert (with_alpha[..., 3] == 255).all()


def test_white_shows_through():
    pixels = noise(9, 7, 4)
    alpha = pixels[..., 3:] / 255.0
    np.testing.assert_allclose(on_white(pixels), pixels[..., :3] * alpha + 255 * (1 - alpha), atol=1)


def test_square_is_cut_from_the_middle_and_its_own():
    pixels = noise(16, 21)
    result = square(pixels, 16, 3)
    np.testing.assert_array_equal(result, pixels[:, 2:18])
    result[:] = 0
    assert pixels.any()
    np.testing.assert_array_equal(square(noise(27, 16), 8, 3), resized(noise(27, 16)[5:21], 8, 8))


def test_wrong_channels():
    with pytest.raises(DataError, match="3 or 4"):
        square(noise(8, 8), 8, 1)


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("given", [3, 4])
@pytest.mark.parametrize("side", [9, 16, 40])
def test_a_square_goes_to_its_place_and_nowhere_else(given, channels, side):
    """Into the middle of a batch, which is what saves the copies; also where the image is only cut."""
    pixels = noise(16, 21, given)
    batch = np.full((3, side, side, channels), 77, np.uint8)
    result = square(pixels, side, channels, batch[1])
    assert np.shares_memory(result, batch[1])
    np.testing.assert_array_equal(batch[1], square(pixels, side, channels))
    assert (batch[[0, 2]] == 77).all()
