"""Every operation of AutoAugment against PIL."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tests.augment.pil_reference import PIL, planes, sample_images
from xsample_jax.augment import autoaugment as pil_operations
from xsample_jax.augment.autoaugment import OPERATIONS

VALUES = {
    "shear_x": (0.3, -0.17),
    "shear_y": (0.3, -0.17),
    "translate_x": (0.2, -0.3),
    "translate_y": (0.2, -0.3),
    "rotate": (30.0, -17.0),
    "posterize": (4, 5, 8),
    "solarize": (0, 100, 255),
    "brightness": (0.1, 0.7, 1.9),
    "contrast": (0.1, 0.7, 1.9),
    "color": (0.1, 0.7, 1.9),
    "sharpness": (0.1, 0.7, 1.9),
}

apply_operation = jax.jit(pil_operations.apply_operation)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_is_pils(name):
    images = sample_images()
    for value in VALUES.get(name, (0,)):
        done = apply_operation(planes(images), jnp.full(5, OPERATIONS.index(name)), jnp.full(5, float(value)))
        done = np.asarray(done).transpose(0, 2, 3, 1)
        expected = np.stack([np.asarray(PIL[name](Image.fromarray(image), value)) for image in images])
        difference = np.abs(done - expected)
        assert (done == np.round(done)).all()
        if name in ("shear_x", "shear_y", "rotate"):  # a pixel on the border of two may fall to either
            assert (difference > 0).mean() < 0.01, value
        else:  # one level, where PIL's sum in another order lands on the other side of a whole number
            assert difference.max() <= 1, value
            assert (difference > 0).mean() < 0.01, value


def test_autocontrast_is_pils_for_every_lowest_and_highest_value():
    """faults D: one level off where PIL's sum in float64 comes out just below a whole number."""
    low, high = np.triu_indices(256, 1)
    low, high = (of.reshape(-1, 3, 1) for of in (low, high))  # one pair in each channel
    images = np.clip(np.arange(256), low, high).reshape(-1, 3, 16, 16).astype(np.uint8)
    number = jnp.full(len(images), OPERATIONS.index("autocontrast"))
    done = jax.jit(lambda *given: pil_operations.apply_operation(*given, {"autocontrast"}))(
        jnp.asarray(images, jnp.float32), number, jnp.zeros(len(images))
    )
    for image, found in zip(images.transpose(0, 2, 3, 1), np.asarray(done).transpose(0, 2, 3, 1), strict=True):
        np.testing.assert_array_equal(found, np.asarray(PIL["autocontrast"](Image.fromarray(image), 0)))


def test_each_image_gets_its_own_operation_or_none():
    images = np.repeat(sample_images()[:1], 15, axis=0)
    operations = jnp.arange(-1, 14)
    values = jnp.asarray([0.0] + [float(VALUES.get(name, (0,))[0]) for name in OPERATIONS])
    done = np.asarray(apply_operation(planes(images), operations, values)).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(done[0], images[0])
    for name, result, value in zip(OPERATIONS, done[1:], values[1:]):
        expected = np.asarray(PIL[name](Image.fromarray(images[0]), float(value)))
        assert (np.abs(result - expected) > 1).mean() < 0.01, name


def test_values_of_other_operations_do_no_harm():
    """A table that is computed but not chosen must not turn into NaN by a value meant for another operation."""
    images = planes(sample_images())
    for value in (-30.0, 0.0, 255.0):
        done = apply_operation(images, jnp.full(5, OPERATIONS.index("invert")), jnp.full(5, value))
        np.testing.assert_array_equal(done, 255 - images)


def test_counting_and_reading_without_scatter_and_gather_are_the_same():
    rng = np.random.default_rng(0)
    pixels = jnp.asarray(rng.integers(0, 256, (3, 2, 500)), jnp.float32)
    table = jnp.asarray(rng.integers(0, 256, (3, 2, 256)), jnp.float32)
    counted = np.stack([[np.bincount(line, minlength=256) for line in image] for image in np.asarray(pixels, int)])
    np.testing.assert_array_equal(pil_operations._count_by_scatter(pixels), counted)
    np.testing.assert_array_equal(pil_operations._count_by_products(pixels), counted)
    read = np.take_along_axis(np.asarray(table), np.asarray(pixels, int), axis=2)
    np.testing.assert_array_equal(pil_operations._read_by_gather(table, pixels), read)
    np.testing.assert_array_equal(pil_operations._read_by_products(table, pixels), read)
