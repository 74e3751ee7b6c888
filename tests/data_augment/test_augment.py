"""Views: against PIL, scipy and formulas written out in numpy, and the promises on what a view depends on."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter1d

from xsample_jax.config import default_config
from xsample_jax.data import augment
from xsample_jax.data.augment import blur_weights, crop_boxes, eval_view, jitter_map, make_views, resize_weights

PLAIN = {"crop_scale": (), "flip": 0.0, "jitter": 0.0, "grey": 0.0, "blur": 0.0, "mean": (0.0,) * 3, "std": (1.0,) * 3}
CROP = {"crop_scale": (0.1, 0.9), "crop_ratio": (0.5, 2.0)}
LUMA = np.array([0.299, 0.587, 0.114])


def section(**changes):
    config = default_config().augment
    config.update(size=16, **changes)
    return config


def plain(**changes):
    return section(**{**PLAIN, **changes})


def some_images(batch=6, height=24, width=24, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (batch, height, width, channels), dtype=np.uint8)


compiled = {}


def compiled_for(config, function):
    """Returns the jitted function of everything but its argument `config`; equal configs share one."""
    key = (function.__name__, config.to_json())
    if key not in compiled:
        compiled[key] = jax.jit(functools.partial(function, config=config))
    return compiled[key]


draw = jax.jit(augment.draw_numbers, static_argnums=3)


def views_of(images, config, ids=None, seed=0, step=0, views=2):
    """make_views in its two halves, so that the half that is slow to compile is compiled once for all configs."""
    ids = jnp.arange(len(images)) if ids is None else jnp.asarray(ids)
    numbers = draw(seed, jnp.int32(step), ids, views)
    return np.asarray(compiled_for(config, augment.views_from_numbers)(images, numbers))


def whole_view(images, config, ground=None):
    return np.asarray(compiled_for(config, eval_view)(images, background=ground))


crop_boxes_jit = jax.jit(crop_boxes, static_argnums=(3, 4, 5, 6))
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
        boxes = crop_boxes_jit(*given, 30, 22, (0.1, 0.9), (0.5, 2.0))
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
    top, left, h, w = np.asarray(crop_boxes_jit(*draws, height, width, scale, ratio), np.float64)
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
def test_where_no_crop_fits_the_largest_centred_one_is_taken(height, width, expected):
    draws = np.full((1, 10), 0.5, np.float32)
    boxes = crop_boxes_jit(draws, draws, draws[:, :2], height, width, (1.0, 1.0), (2.0, 2.0))
    assert tuple(int(number[0]) for number in boxes) == expected


def test_the_first_try_that_fits_is_taken():
    # Areas of 100 %, 25 % and 1 % at ratio 4 on a square: the first does not fit.
    areas = np.array([[1.0, 0.25, 0.01]], np.float32)
    ratios = np.ones((1, 3), np.float32)
    boxes = crop_boxes_jit(areas, ratios, np.zeros((1, 2), np.float32), 40, 40, (0.0, 1.0), (1.0, 4.0))
    assert tuple(float(number[0]) for number in boxes) == (0, 0, 10, 40)


def test_corner_never_leaves_the_image_at_the_largest_draw():
    almost_one = np.full((1, 10), np.nextafter(np.float32(1), np.float32(0)))
    top, left, h, w = crop_boxes_jit(
        0 * almost_one, almost_one * 0.5, almost_one[:, :2], 64, 64, (0.2, 1.0), (0.75, 4 / 3)
    )
    assert (float(top[0] + h[0]), float(left[0] + w[0])) == (64, 64)


def test_plain_settings_resize_the_whole_image():
    images = some_images()
    expected = [Image.fromarray(image).resize((16, 16), Image.Resampling.BILINEAR) for image in images]
    expected = np.stack([np.asarray(image) for image in expected]) / 255
    np.testing.assert_allclose(views_of(images, plain(), views=1), expected, atol=1.01 / 255)
    np.testing.assert_allclose(whole_view(images, plain()), expected, atol=1.01 / 255)


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


def test_grey_is_luma_and_happens_as_often_as_asked():
    images = np.repeat(some_images(1), 300, axis=0)
    whole = whole_view(images, plain())
    always = views_of(images, plain(grey=1.0), views=1)
    np.testing.assert_allclose(always, np.repeat((whole @ LUMA)[..., None], 3, axis=-1), atol=1e-5)
    sometimes = views_of(images, plain(grey=0.2), views=1)
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


def test_normalise_takes_off_the_mean_and_divides_by_the_deviation():
    images = some_images()
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    expected = (whole_view(images, plain()) - mean) / std
    np.testing.assert_allclose(whole_view(images, plain(mean=mean, std=std)), expected, atol=1e-5)
    np.testing.assert_allclose(views_of(images, plain(mean=mean, std=std), views=1), expected, atol=1e-5)


def test_a_transparent_image_is_its_ground_alone_and_every_view_has_another():
    images = some_images(batch=200, channels=4)
    images[..., 3] = 0
    made = views_of(images, plain())
    colours = made[:, 0, 0]
    np.testing.assert_array_equal(made, np.broadcast_to(colours[:, None, None], made.shape))
    assert len(np.unique(colours.round(5), axis=0)) == 400
    np.testing.assert_allclose(colours.mean(axis=0), 0.5, atol=0.06)
    np.testing.assert_allclose(colours.std(axis=0), np.sqrt(1 / 12), atol=0.04)


@pytest.mark.parametrize(("background", "level"), [("white", 1.0), ("grey", 0.5)])
def test_fixed_grounds(background, level):
    images = some_images(channels=4)
    images[..., 3] = 0
    np.testing.assert_array_equal(views_of(images, plain(background=background)), level)
    np.testing.assert_allclose(whole_view(images, plain(background=background)), level, rtol=1e-6)


def test_colours_under_transparent_pixels_do_not_bleed_in():
    images = some_images(channels=4)
    images[..., 3] = np.where(np.indices((24, 24)).sum(axis=0) % 5 < 2, 0, 255)
    cleaned = images.copy()
    cleaned[images[..., 3] == 0] = 0
    config = plain(**CROP)
    np.testing.assert_allclose(views_of(images, config), views_of(cleaned, config), atol=1e-5)


def test_compositing_comes_before_the_resize_in_effect():
    images = some_images(channels=4, height=24, width=24)
    alpha = images[..., 3:] / 255
    for ground in (np.array([0.2, 0.9, 0.4]), np.random.default_rng(3).random((6, 24, 24, 3))):
        flat = images[..., :3] / 255 * alpha + (1 - alpha) * ground
        expected = np.stack(
            [
                np.stack(
                    [
                        np.asarray(
                            Image.fromarray(plane.astype(np.float32)).resize((16, 16), Image.Resampling.BILINEAR)
                        )
                        for plane in np.moveaxis(image, -1, 0)
                    ],
                    axis=-1,
                )
                for image in flat
            ]
        )
        np.testing.assert_allclose(whole_view(images, plain(), ground), expected, atol=1e-5)


def test_opaque_images_with_alpha_are_images_without():
    images = some_images(channels=4)
    images[..., 3] = 255
    config = plain(**CROP)
    np.testing.assert_allclose(views_of(images, config), views_of(images[..., :3], config), atol=1e-5)


EVERYTHING = {"blur": 0.5, "auto_augment": True}


def test_a_view_does_not_depend_on_the_place_in_the_batch_nor_on_the_others():
    images = some_images(batch=16, channels=4)
    config = section(**EVERYTHING)
    ids = np.array([7, 1000003, 5, 42, 0, 2**31 - 1, *range(90, 100)])
    together = views_of(images, config, ids).reshape(16, 2, 16, 16, 3)
    order = np.random.default_rng(1).permutation(16)
    shuffled = views_of(images[order], config, ids[order]).reshape(16, 2, 16, 16, 3)
    np.testing.assert_allclose(shuffled, together[order], atol=1e-4)
    others = images.copy()
    others[:3], others[4:] = 0, 255
    alone = views_of(others, config, np.where(np.arange(16) == 3, ids, ids + 7)).reshape(16, 2, 16, 16, 3)
    np.testing.assert_allclose(alone[3], together[3], atol=1e-4)


def test_a_view_does_not_depend_on_the_size_of_the_batch():
    images, ids, config = some_images(), np.arange(6), plain(**CROP)
    np.testing.assert_allclose(views_of(images[3:4], config, ids[3:4]), views_of(images, config)[6:8], atol=1e-4)


def test_views_are_a_function_of_seed_step_id_and_view():
    images = np.repeat(some_images(1), 4, axis=0)
    config = section(blur=0.5)
    ids = [3, 3, 8, 11]
    base = views_of(images, config, ids, seed=1, step=2)
    np.testing.assert_array_equal(base, views_of(images, config, ids, seed=1, step=2))
    np.testing.assert_allclose(base[0:2], base[2:4], atol=1e-5)  # the same id: the same views
    different = [base[0], base[1], base[4], base[6]]
    different += [views_of(images, config, ids, seed=1, step=3)[0], views_of(images, config, ids, seed=2, step=2)[0]]
    # Swapping two of the numbers is another view as well: they are folded in, not added up.
    different += [views_of(images, config, [2] * 4, seed=1, step=3)[0]]
    for first, second in itertools.combinations(different, 2):
        assert np.abs(first - second).max() > 1e-2


def test_more_views_keep_the_first_ones():
    two, three = (draw(0, jnp.int32(0), jnp.arange(6), views) for views in (2, 3))
    for choice in two:
        np.testing.assert_array_equal(three[choice][:, :2], two[choice])


def test_eight_devices_give_the_views_of_one_without_talking_to_each_other():
    assert len(jax.devices()) == 8
    images, ids = some_images(batch=16, channels=4), np.arange(16)
    config = section(**EVERYTHING)
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    made = jax.jit(
        lambda images, ids, step: make_views(images, ids, 0, step, config, 2),
        in_shardings=(split, split, None),
        out_shardings=split,
    )
    compiled = made.lower(images, ids, jnp.int32(0)).compile()
    for collective in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert collective not in compiled.as_text()
    np.testing.assert_allclose(made(images, ids, jnp.int32(0)), views_of(images, config), atol=1e-4)


def test_steps_do_not_compile_again():
    images, ids, config = some_images(channels=4), jnp.arange(6), plain()
    traced = []

    @jax.jit
    def made(images, ids, step):
        traced.append(step)
        return make_views(images, ids, 0, step, config, 1)

    results = [made(images, ids, jnp.int32(step)) for step in range(3)]
    assert len(traced) == 1
    np.testing.assert_allclose(results[2], views_of(images, config, step=2, views=1), atol=1e-6)


def test_no_number_is_shorter_than_float32():
    images, ids, config = some_images(channels=4), jnp.arange(6), section(**EVERYTHING)
    program = jax.make_jaxpr(lambda step: make_views(images, ids, 0, step, config, 2))(jnp.int32(0))
    assert program.out_avals[0].dtype == jnp.float32
    assert program.out_avals[0].shape == (12, 16, 16, 3)
    for wrong in ("bf16", "f16[", "f64"):
        assert wrong not in str(program)


def test_uniform_images_stay_finite_under_every_operation():
    images = np.full((16, 24, 24, 4), 255, np.uint8)
    images[8:, ..., :3] = 0
    for step in range(20):
        assert np.isfinite(views_of(images, section(**EVERYTHING), step=step)).all()


def test_eval_view_is_deterministic_in_range_and_of_the_right_shape():
    images = some_images(height=20, width=30, channels=4)
    made = whole_view(images, plain())
    assert made.shape == (6, 16, 16, 3)
    assert made.dtype == np.float32
    assert made.min() >= 0
    assert made.max() <= 1 + 1e-6
    np.testing.assert_allclose(made[2:3], whole_view(images[2:3], plain()), atol=1e-5)
