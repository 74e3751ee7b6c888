"""Crop, flip and resize: against PIL, and boxes against torchvision's loop written out in numpy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tests.augment.views import CROP, draw, plain, some_images, views_of, whole_view
from xsample_jax.augment.crops import crop_boxes, resize_weights

crop_boxes_jit = jax.jit(crop_boxes, static_argnums=(3, 4, 5))
resize_weights_jit = jax.jit(resize_weights, static_argnums=(2, 3))


@pytest.mark.parametrize("box", [(0, 0, 24, 20), (3, 2, 9, 15), (7, 11, 1, 2)])
@pytest.mark.parametrize("size", [8, 40])
def test_resize_is_pils_crop_and_antialiased_bilinear_resize(box, size):
    left, top, width, height = box
    image = np.random.default_rng(1).random((20, 24), dtype=np.float32)
    expected = Image.fromarray(image).crop((left, top, left + width, top + height))
    expected = np.asarray(expected.resize((size, size), Image.Resampling.BILINEAR))
    rows = resize_weights_jit(jnp.array([float(top)]), jnp.array([float(height)]), 20, size)[0]
    columns = resize_weights_jit(jnp.array([float(left)]), jnp.array([float(width)]), 24, size)[0]
    np.testing.assert_allclose(rows @ image @ columns.T, expected, atol=2e-5)


def test_flip_in_the_weights_reverses_the_output():
    start, length = jnp.array([2.0, 2.0]), jnp.array([7.0, 7.0])
    straight, reversed_ = resize_weights_jit(start, length, 12, 5, jnp.array([False, True]))
    np.testing.assert_allclose(reversed_, straight[::-1], atol=1e-6)
    assert not np.allclose(straight, straight[::-1])


def test_a_view_is_the_crop_that_its_draws_name():
    """End to end: the axes of the two weight matrices are not mixed up, and the row order is image * V + view."""
    images = some_images(height=30, width=22)
    config = plain(**CROP)
    made = views_of(images, config)
    numbers = draw(0, jnp.int32(0), jnp.arange(6), 2)
    for image, view in itertools.product(range(len(images)), range(2)):
        given = (np.asarray(numbers[name][image, None, view]) for name in ("crop_area", "crop_ratio", "crop_corner"))
        boxes = crop_boxes_jit(*given, (30, 22), (0.1, 0.9), (0.5, 2.0))
        top, left, height, width = (int(number[0]) for number in boxes)
        for channel in range(3):
            plane = Image.fromarray(images[image, :, :, channel].astype(np.float32))
            crop = plane.crop((left, top, left + width, top + height)).resize((16, 16), Image.Resampling.BILINEAR)
            np.testing.assert_allclose(
                made[image * 2 + view, :, :, channel], np.asarray(crop) / 255, atol=1e-5, err_msg=f"{image} {view}"
            )


def torchvision_boxes(rng, count, height, width, scale, ratio):
    """The loop that crop_boxes replaces: boxes of RandomResizedCrop, from its documentation."""
    boxes = []
    for _ in range(count):
        for _ in range(10):
            area = rng.uniform(*scale) * height * width
            aspect = np.exp(rng.uniform(np.log(ratio[0]), np.log(ratio[1])))
            w, h = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                boxes.append((rng.integers(0, height - h + 1), rng.integers(0, width - w + 1), h, w))
                break
        else:
            boxes.append((0, 0, height, width))
    return np.array(boxes, np.float64)


def test_crop_boxes_have_torchvisions_distribution():
    rng = np.random.default_rng(0)
    count, height, width, scale, ratio = 8000, 64, 48, (0.08, 1.0), (3 / 4, 4 / 3)
    draws = (rng.random((count, width_), dtype=np.float32) for width_ in (10, 10, 2))
    top, left, h, w = np.asarray(crop_boxes_jit(*draws, (height, width), scale, ratio), np.float64)
    ours = np.stack([top, left, h, w], axis=1)
    assert (ours == np.round(ours)).all()
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + h <= height).all()
    assert (left + w <= width).all()
    theirs = torchvision_boxes(rng, count, height, width, scale, ratio)
    shares = np.linspace(0.05, 0.95, 10)
    for name, of in {
        "area": lambda b: b[:, 2] * b[:, 3] / (height * width),
        "log ratio": lambda b: np.log(b[:, 3] / b[:, 2]),
        "top": lambda b: b[:, 0] / height,
        "left": lambda b: b[:, 1] / width,
    }.items():
        np.testing.assert_allclose(
            np.quantile(of(ours), shares), np.quantile(of(theirs), shares), atol=0.035, err_msg=name
        )


@pytest.mark.parametrize(
    ("height", "width", "expected"), [(64, 64, (16, 0, 32, 64)), (10, 40, (0, 10, 10, 20)), (40, 10, (17, 0, 5, 10))]
)
def test_where_no_crop_fits_the_largest_centered_one_is_taken(height, width, expected):
    draws = np.full((1, 10), 0.5, np.float32)
    boxes = crop_boxes_jit(draws, draws, draws[:, :2], (height, width), (1.0, 1.0), (2.0, 2.0))
    assert tuple(int(number[0]) for number in boxes) == expected


@pytest.mark.parametrize("shape", [(17, 23), (23, 17), (1, 1), (1, 9), (9, 1)])
@pytest.mark.parametrize("ratio", [(1e-300, 1e-299), (0.005, 0.01), (1.0, 1.0), (100.0, 200.0), (1e299, 1e300)])
@pytest.mark.parametrize("scale", [(1e-9, 1e-8), (1.0, 1.0)])
def test_every_box_has_pixels_at_the_bounds_of_the_config(shape, ratio, scale):
    """A crop_ratio far from 1 gave a box of 0 pixels, whose weights are nan: with per_view, too."""
    draws = np.linspace(0, 1, 40, endpoint=False, dtype=np.float32).reshape(4, 10)
    for top, left, height, width in np.array(crop_boxes_jit(draws, draws[::-1], draws[:, :2], shape, scale, ratio)).T:
        assert 0 <= top < top + height <= shape[0]
        assert 0 <= left < left + width <= shape[1]
        for start, length, pixels in ((top, height, shape[0]), (left, width, shape[1])):
            assert np.isfinite(resize_weights_jit(start[None], length[None], pixels, 8)).all()


def test_the_first_try_that_fits_is_taken():
    # Areas of 100 %, 25 % and 1 % at ratio 4 on a square: the first does not fit.
    areas = np.array([[1.0, 0.25, 0.01]], np.float32)
    ratios = np.ones((1, 3), np.float32)
    boxes = crop_boxes_jit(areas, ratios, np.zeros((1, 2), np.float32), (40, 40), (0.0, 1.0), (1.0, 4.0))
    assert tuple(float(number[0]) for number in boxes) == (0, 0, 10, 40)


def test_corner_never_leaves_the_image_at_the_largest_draw():
    almost_one = np.full((1, 10), np.nextafter(np.float32(1), np.float32(0)))
    top, left, h, w = crop_boxes_jit(
        0 * almost_one, almost_one * 0.5, almost_one[:, :2], (64, 64), (0.2, 1.0), (0.75, 4 / 3)
    )
    assert (float(top[0] + h[0]), float(left[0] + w[0])) == (64, 64)


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_flip_probability(probability):
    images = some_images()
    whole = whole_view(images, plain())
    expected = whole[:, :, ::-1] if probability else whole
    made = views_of(images, plain(flip=probability)).reshape(6, 2, 16, 16, 3)
    np.testing.assert_allclose(made, np.stack([expected, expected], axis=1), atol=1e-5)


def test_flip_happens_as_often_as_asked():
    images = np.repeat(some_images(1), 400, axis=0)
    whole = whole_view(images, plain())
    flipped = np.abs(views_of(images, plain(flip=0.3), views=1) - whole).max(axis=(1, 2, 3)) > 1e-3
    assert abs(flipped.mean() - 0.3) < 0.08
