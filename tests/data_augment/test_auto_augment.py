"""AutoAugment: every operation against PIL, the policy table against the draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from xsample_jax.data import auto_augment as aa

GREY = (128, 128, 128)
AFFINE, NEAREST = Image.Transform.AFFINE, Image.Resampling.NEAREST


def shifted(image, by):
    return image.transform(image.size, AFFINE, by, NEAREST, fillcolor=GREY)


PIL = {
    "shear_x": lambda im, v: shifted(im, (1, v, 0, 0, 1, 0)),
    "shear_y": lambda im, v: shifted(im, (1, 0, 0, v, 1, 0)),
    "translate_x": lambda im, v: shifted(im, (1, 0, int(v * im.size[0]), 0, 1, 0)),
    "translate_y": lambda im, v: shifted(im, (1, 0, 0, 0, 1, int(v * im.size[1]))),
    "rotate": lambda im, v: im.rotate(v, NEAREST, fillcolor=GREY),
    "posterize": lambda im, v: ImageOps.posterize(im, int(v)),
    "solarize": lambda im, v: ImageOps.solarize(im, v),
    "invert": lambda im, v: ImageOps.invert(im),
    "autocontrast": lambda im, v: ImageOps.autocontrast(im),
    "equalize": lambda im, v: ImageOps.equalize(im),
    "brightness": lambda im, v: ImageEnhance.Brightness(im).enhance(v),
    "contrast": lambda im, v: ImageEnhance.Contrast(im).enhance(v),
    "colour": lambda im, v: ImageEnhance.Color(im).enhance(v),
    "sharpness": lambda im, v: ImageEnhance.Sharpness(im).enhance(v),
}
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
    "colour": (0.1, 0.7, 1.9),
    "sharpness": (0.1, 0.7, 1.9),
}


def pictures():
    """Smooth, noisy, low-contrast, two-valued and flat: uint8 [5, 36, 40, 3]."""
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (7, 9, 3), dtype=np.uint8)).resize((40, 36), Image.BICUBIC)
    noise = rng.integers(0, 256, (36, 40, 3), dtype=np.uint8)
    dull = rng.integers(90, 140, (36, 40, 3), dtype=np.uint8)
    two = np.where(rng.random((36, 40, 1)) < 0.3, 10, 200) * np.ones(3, np.uint8)
    return np.stack([np.asarray(smooth), noise, dull, two.astype(np.uint8), np.full_like(noise, 77)])


def planes(images):
    return jnp.asarray(images.transpose(0, 3, 1, 2).astype(np.float32))


apply_operation = jax.jit(aa.apply_operation)
auto_augment = jax.jit(aa.auto_augment)


@pytest.mark.parametrize("name", aa.OPERATIONS)
def test_operation_is_pils(name):
    images = pictures()
    for value in VALUES.get(name, (0,)):
        done = apply_operation(planes(images), jnp.full(5, aa.OPERATIONS.index(name)), jnp.full(5, float(value)))
        done = np.asarray(done).transpose(0, 2, 3, 1)
        expected = np.stack([np.asarray(PIL[name](Image.fromarray(image), value)) for image in images])
        difference = np.abs(done - expected)
        assert (done == np.round(done)).all()
        if name in ("shear_x", "shear_y", "rotate"):  # a pixel on the border of two may fall to either
            assert (difference > 0).mean() < 0.01, value
        else:  # one level, where PIL's sum in another order lands on the other side of a whole number
            assert difference.max() <= 1, value
            assert (difference > 0).mean() < 0.01, value


def test_each_image_gets_its_own_operation_or_none():
    images = np.repeat(pictures()[:1], 15, axis=0)
    operations = jnp.arange(-1, 14)
    values = jnp.asarray([0.0] + [float(VALUES.get(name, (0,))[0]) for name in aa.OPERATIONS])
    done = np.asarray(apply_operation(planes(images), operations, values)).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(done[0], images[0])
    for name, result, value in zip(aa.OPERATIONS, done[1:], values[1:]):
        expected = np.asarray(PIL[name](Image.fromarray(images[0]), float(value)))
        assert (np.abs(result - expected) > 1).mean() < 0.01, name


def test_values_of_other_operations_do_no_harm():
    """A table that is computed but not chosen must not turn into NaN by a value meant for another operation."""
    images = planes(pictures())
    for value in (-30.0, 0.0, 255.0):
        done = apply_operation(images, jnp.full(5, aa.OPERATIONS.index("invert")), jnp.full(5, value))
        np.testing.assert_array_equal(done, 255 - images)


def test_counting_and_reading_without_scatter_and_gather_are_the_same():
    rng = np.random.default_rng(0)
    pixels = jnp.asarray(rng.integers(0, 256, (3, 2, 500)), jnp.float32)
    table = jnp.asarray(rng.integers(0, 256, (3, 2, 256)), jnp.float32)
    counted = np.stack([[np.bincount(line, minlength=256) for line in image] for image in np.asarray(pixels, int)])
    np.testing.assert_array_equal(aa._count_by_scatter(pixels), counted)
    np.testing.assert_array_equal(aa._count_by_products(pixels), counted)
    read = np.take_along_axis(np.asarray(table), np.asarray(pixels, int), axis=2)
    np.testing.assert_array_equal(aa._read_by_gather(table, pixels), read)
    np.testing.assert_array_equal(aa._read_by_products(table, pixels), read)


def test_strengths_are_those_of_torchvision():
    assert [aa.strength("posterize", m) for m in range(10)] == [8, 8, 7, 7, 6, 6, 5, 5, 4, 4]
    assert [round(aa.strength("solarize", m), 6) for m in (0, 3, 9)] == [255, 170, 0]
    assert aa.strength("rotate", 9) == 30
    assert aa.strength("shear_x", 3) == pytest.approx(0.1)
    assert aa.strength("translate_y", 9) == pytest.approx(150 / 331)
    assert aa.strength("colour", 8) == pytest.approx(0.8)
    assert aa.strength("equalize", None) == 0


def test_policy_has_the_published_shape():
    assert len(aa.POLICY) == 25
    names = [name for sub_policy in aa.POLICY for name, _, _ in sub_policy]
    assert set(names) <= set(aa.OPERATIONS)
    # Counts over the 50 places of table 9.
    counts = {name: names.count(name) for name in set(names)}
    assert counts == {
        "equalize": 17,
        "rotate": 6,
        "solarize": 7,
        "posterize": 5,
        "colour": 6,
        "autocontrast": 2,
        "invert": 3,
        "contrast": 2,
        "sharpness": 1,
        "shear_x": 1,
    }
    assert all(
        (magnitude is None) == (name in ("equalize", "autocontrast", "invert"))
        for p in aa.POLICY
        for name, _, magnitude in p
    )


def by_hand(image, sub_policy, applied, signs):
    picture = Image.fromarray(image)
    for (name, _, magnitude), do, sign in zip(sub_policy, applied, signs):
        if do:
            value = aa.strength(name, magnitude) * (sign if name in aa.SIGNED else 1)
            if name in ("brightness", "contrast", "colour", "sharpness"):
                value += 1
            picture = PIL[name](picture, value)
    return np.asarray(picture).astype(np.float32)


@pytest.mark.parametrize("signs", [(1, -1), (-1, 1)])
@pytest.mark.parametrize("applied", [(True, True), (True, False), (False, True), (False, False)])
def test_draws_choose_sub_policy_operations_and_signs(applied, signs):
    image = pictures()[0]
    draws = np.zeros((25, aa.DRAWS), np.float32)
    draws[:, 0] = (np.arange(25) + 0.5) / 25
    for place in range(2):
        probability = np.array([sub_policy[place][1] for sub_policy in aa.POLICY])
        draws[:, 1 + place] = np.where(probability == 0, 0, probability - 0.01) if applied[place] else 0.999
        draws[:, 3 + place] = 0.4 if signs[place] == 1 else 0.6
    done = auto_augment(planes(np.repeat(image[None], 25, axis=0)), jnp.asarray(draws))
    done = np.asarray(done).transpose(0, 2, 3, 1)
    for k, sub_policy in enumerate(aa.POLICY):
        # Probability 1 is always done, probability 0 never, whatever is drawn.
        really = [(do and operation[1] > 0) or operation[1] == 1 for operation, do in zip(sub_policy, applied)]
        expected = by_hand(image, sub_policy, really, signs)
        # A level of difference in the first operation can become a few in the second (equalize, solarize).
        assert (np.abs(done[k] - expected) > 4).mean() < 0.02, sub_policy


def test_all_sub_policies_are_drawn_equally_often():
    draws = np.random.default_rng(0).random(100_000, dtype=np.float32)
    chosen = np.minimum((draws * len(aa.POLICY)).astype(int), 24)
    assert np.bincount(chosen, minlength=25).min() > 3500
