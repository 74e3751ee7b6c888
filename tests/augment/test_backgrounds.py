"""Grounds: colors, textures, donors."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xsample_jax.augment import backgrounds
from xsample_jax.augment.views import eval_view
from xsample_jax.config import default_config
from xsample_jax.errors import ConfigError, DataError


def test_solid():
    np.testing.assert_array_equal(backgrounds.solid("white"), [1, 1, 1])
    np.testing.assert_array_equal(backgrounds.solid("gray"), [0.5, 0.5, 0.5])
    np.testing.assert_allclose(backgrounds.solid((0.1, 0.2, 1)), [0.1, 0.2, 1])
    with pytest.raises(ConfigError, match="white"):
        backgrounds.solid("whit")
    for wrong in ((0.1, 0.2), (0, 0, 255)):
        with pytest.raises(ConfigError, match="three numbers"):
            backgrounds.solid(wrong)


def test_random_colors_are_a_function_of_seed_and_id():
    colors = np.asarray(backgrounds.random_colors(jnp.arange(2000), 0))
    assert colors.shape == (2000, 1, 1, 3)
    np.testing.assert_allclose(colors.mean(axis=0).ravel(), 0.5, atol=0.03)
    np.testing.assert_array_equal(backgrounds.random_colors(jnp.arange(2000)[::-1], 0), colors[::-1])
    assert (np.asarray(backgrounds.random_colors(jnp.arange(2000), 1)) != colors).mean() > 0.99


@pytest.mark.parametrize("kind", ["checker", "gradient", "noise"])
def test_textures(kind):
    made = np.asarray(backgrounds.textures(jnp.arange(20), 0, 32, kind))
    assert made.shape == (20, 32, 32, 3)
    assert made.dtype == np.float32
    assert made.min() >= 0
    assert made.max() <= 1
    np.testing.assert_allclose(backgrounds.textures(jnp.arange(20)[::-1], 0, 32, kind)[::-1], made, atol=1e-6)
    # Every texture is seen (two colors that differ in luma) and every image has its own.
    luma = made @ np.array([0.299, 0.587, 0.114])
    assert (luma.std(axis=(1, 2)) > 0.005).all()
    assert len(np.unique(made[:, 0, 0].round(4), axis=0)) == 20
    # All pixels lie on the line between two colors.
    for image in made:
        values = image.reshape(-1, 3) - image.reshape(-1, 3).mean(axis=0)
        assert np.linalg.svd(values, compute_uv=False)[1] < 1e-3


def test_checker_has_two_colors_and_square_fields():
    made = np.asarray(backgrounds.textures(jnp.arange(20), 0, 32, "checker"))
    for image in made:
        colors = np.unique(image.reshape(-1, 3), axis=0)
        assert len(colors) == 2
        field = (image == colors[0]).all(axis=-1)
        # Neighboring rows are equal or exactly inverted.
        for above, below in itertools.pairwise(field):
            assert (above == below).all() or (above != below).all()


def test_unknown_texture():
    with pytest.raises(ConfigError, match="gradient"):
        backgrounds.textures(jnp.arange(2), 0, 8, "gradeint")


def donor(color_left, color_right, alpha):
    image = np.zeros((1, 32, 32, 4), np.uint8)
    image[:, :, :16, :3], image[:, :, 16:, :3] = color_left, color_right
    image[..., 3] = alpha
    return image


def test_ground_of_a_donor_of_one_color_is_that_color_whatever_its_shape():
    alpha = np.zeros((32, 32), np.uint8)
    alpha[3:9, 20:30] = 255
    image = donor((250, 10, 90), (250, 10, 90), alpha)
    image[alpha[None] == 0] = (1, 255, 3, 0)  # colors nobody sees
    made = np.asarray(backgrounds.from_images(image, np.array([0])))
    np.testing.assert_allclose(made, np.broadcast_to(np.array([250, 10, 90]) / 255, made.shape), atol=1e-4)


def test_ground_keeps_the_donors_colors_where_they_were_but_not_its_edges():
    made = np.asarray(backgrounds.from_images(donor((255, 0, 0), (0, 0, 255), 255), jnp.array([0])))[0]
    assert made[16, 2, 0] > 0.75
    assert made[16, 2, 2] < 0.25
    assert made[16, 29, 2] > 0.75
    assert np.abs(np.diff(made, axis=1)).max() < 0.1
    np.testing.assert_allclose(made.mean(axis=(0, 1)), [0.5, 0, 0.5], atol=0.01)


def test_an_invisible_donor_gives_mid_gray():
    made = np.asarray(backgrounds.from_images(donor((255, 0, 0), (0, 9, 255), 0), np.array([0])))
    np.testing.assert_allclose(made, 0.5, atol=1e-3)


def test_donors_as_rows_or_as_images_are_the_same_and_fit_eval_view():
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 4), dtype=np.uint8)
    rows = np.array([1, 2, 3, 0])
    ground = backgrounds.from_images(images, rows)
    np.testing.assert_allclose(ground, backgrounds.from_images(images, images[rows]), atol=1e-6)
    config = default_config().augment
    config.update(size=8, mean=(0.0,) * 3, std=(1.0,) * 3)
    seen = jax.jit(lambda images, ground: eval_view(images, config, ground))
    assert seen(images, ground).shape == (4, 8, 8, 3)
    images[..., 3] = 0
    flat = jnp.asarray(np.random.default_rng(1).random((4, 1, 1, 3)), jnp.float32)
    np.testing.assert_allclose(seen(images, flat), np.broadcast_to(flat, (4, 8, 8, 3)), atol=1e-6)


GROUPS = np.array([5, 2, 5, 9, 2, 9, 9, 5, 2, 2])


@pytest.mark.parametrize("same", [True, False])
def test_donors_are_another_image_of_the_right_group(same):
    seen = [set() for _ in GROUPS]
    for seed in range(200):
        donors = backgrounds.choose_donors(GROUPS, same, seed)
        assert (donors != np.arange(10)).all()
        assert ((GROUPS[donors] == GROUPS) == same).all()
        for candidates, chosen in zip(seen, donors):
            candidates.add(int(chosen))
    # Every possible donor comes up.
    for k, candidates in enumerate(seen):
        possible = {j for j in range(10) if j != k and (GROUPS[j] == GROUPS[k]) == same}
        assert candidates == possible


def test_donors_are_uniform():
    chosen = np.array([backgrounds.choose_donors(GROUPS, False, seed)[3] for seed in range(3000)])
    counts = np.bincount(chosen, minlength=10)[GROUPS != 9]
    assert counts.min() > 340
    assert counts.max() < 520


def test_donors_are_a_function_of_the_seed():
    np.testing.assert_array_equal(
        backgrounds.choose_donors(GROUPS, True, 1), backgrounds.choose_donors(GROUPS, True, 1)
    )
    assert (backgrounds.choose_donors(GROUPS, True, 1) != backgrounds.choose_donors(GROUPS, True, 2)).any()


def test_impossible_donors_are_named():
    with pytest.raises(DataError, match=r"\[3\].*at least two images in every group"):
        backgrounds.choose_donors(np.array([1, 1, 3]), True, 0)
    with pytest.raises(DataError, match="at least two groups"):
        backgrounds.choose_donors(np.array([1, 1, 1]), False, 0)


def test_mixed_grounds_take_the_colors_of_the_right_group():
    colors = np.array([[255, 0, 0], [255, 0, 0], [0, 0, 255], [0, 0, 255]], np.uint8)
    images = np.full((4, 16, 16, 4), 255, np.uint8)
    images[..., :3] = colors[:, None, None]
    groups = np.array([0, 0, 1, 1])
    same, rand = (np.asarray(mix(images, groups, 0)) for mix in (backgrounds.mixed_same, backgrounds.mixed_rand))
    np.testing.assert_allclose(same[:, 8, 8], colors / 255, atol=1e-3)
    np.testing.assert_allclose(rand[:, 8, 8], colors[::-1] / 255, atol=1e-3)
