"""Whole views: against PIL and formulas written out in numpy, and the promises on what a view depends on."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tests.augment.views import CROP, draw, plain, section, some_images, views_of, whole_view
from xsample_jax.augment.ids import copies_of
from xsample_jax.augment.views import draw_numbers, make_views, views_from_numbers


def test_plain_settings_resize_the_whole_image():
    images = some_images()
    expected = [Image.fromarray(image).resize((16, 16), Image.Resampling.BILINEAR) for image in images]
    expected = np.stack([np.asarray(image) for image in expected]) / 255
    np.testing.assert_allclose(views_of(images, plain(), views=1), expected, atol=1.01 / 255)
    np.testing.assert_allclose(whole_view(images, plain()), expected, atol=1.01 / 255)


def test_normalize_takes_off_the_mean_and_divides_by_the_deviation():
    images = some_images()
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    expected = (whole_view(images, plain()) - mean) / std
    np.testing.assert_allclose(whole_view(images, plain(mean=mean, std=std)), expected, atol=1e-5)
    np.testing.assert_allclose(views_of(images, plain(mean=mean, std=std), views=1), expected, atol=1e-5)


def test_a_transparent_image_is_its_ground_alone_and_every_view_has_another():
    images = some_images(batch=200, channels=4)
    images[..., 3] = 0
    made = views_of(images, plain())
    colors = made[:, 0, 0]
    np.testing.assert_array_equal(made, np.broadcast_to(colors[:, None, None], made.shape))
    assert len(np.unique(colors.round(5), axis=0)) == 400
    np.testing.assert_allclose(colors.mean(axis=0), 0.5, atol=0.06)
    np.testing.assert_allclose(colors.std(axis=0), np.sqrt(1 / 12), atol=0.04)


@pytest.mark.parametrize(("background", "level"), [("white", 1.0), ("gray", 0.5)])
def test_fixed_grounds(background, level):
    images = some_images(channels=4)
    images[..., 3] = 0
    np.testing.assert_array_equal(views_of(images, plain(background=background)), level)
    np.testing.assert_allclose(whole_view(images, plain(background=background)), level, rtol=1e-6)


def test_colors_under_transparent_pixels_do_not_bleed_in():
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


def test_a_record_that_stands_twice_in_a_batch_gets_other_views_each_time():
    ids = np.array([8, 3, 3, 11, 3, 8], np.int32)
    np.testing.assert_array_equal(jax.jit(copies_of)(ids), [0, 0, 1, 0, 2, 1])
    images, config = np.repeat(some_images(1), 6, axis=0), section(blur=0.5)
    plain_views = views_of(images, config, ids).reshape(6, 2, -1)
    copies = copies_of(ids)
    of_copies = lambda: views_from_numbers(images, draw_numbers(0, jnp.int32(0), ids, 2, copies), config)  # noqa: E731
    found = np.asarray(jax.jit(of_copies)()).reshape(6, 2, -1)
    for row in (0, 1, 3):  # the first of each is as without
        np.testing.assert_allclose(found[row], plain_views[row], atol=1e-5)
    of_three = found[[1, 2, 4]].reshape(6, -1)
    for first, second in itertools.combinations(of_three, 2):
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
