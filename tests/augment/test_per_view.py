"""Views that are augmented each in its own way, and solarization."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.augment.views import plain, section, some_images, views_of
from xsample_jax.augment.views import PER_VIEW, draw_numbers
from xsample_jax.config import default_config, find_problems

BYOL = ({"blur": 1.0}, {"blur": 0.1, "solarize": 0.2})


def test_every_view_is_that_of_its_own_section():
    images = some_images()
    several = views_of(images, section(per_view=BYOL), views=3).reshape(6, 3, 16, 16, 3)
    for view, changes in enumerate((*BYOL, BYOL[1])):  # the last entry serves the third view, too
        alone = views_of(images, section(**changes), views=3).reshape(6, 3, 16, 16, 3)
        np.testing.assert_allclose(several[:, view], alone[:, view], atol=1e-6)
    assert np.abs(several - views_of(images, section(), views=3).reshape(several.shape)).max() > 0.01


def test_a_crop_of_ones_own():
    images = some_images()
    changes = {"crop_scale": [], "flip": 0.0, "jitter": 0.0, "gray": 0.0}  # a list, as JSON gives tuples back
    whole = views_of(images, plain(), views=2).reshape(6, 2, 16, 16, 3)
    several = views_of(images, plain(crop_scale=(0.2, 0.5), per_view=({}, changes)), views=2).reshape(whole.shape)
    np.testing.assert_allclose(several[:, 1], whole[:, 1], atol=1e-6)
    assert np.abs(several[:, 0] - whole[:, 0]).max() > 0.1


def test_solarization_inverts_what_is_bright():
    images = some_images()
    before = views_of(images, plain())
    np.testing.assert_allclose(
        views_of(images, plain(solarize=1.0)), np.where(before >= 0.5, 1 - before, before), atol=1e-6
    )
    many = np.repeat(images[:1], 400, axis=0)
    views = views_of(many, plain(solarize=0.25), ids=np.arange(400), views=1)
    share = np.mean([not np.allclose(view, before[0]) for view in views])
    assert 0.17 < share < 0.33


def test_random_numbers_of_earlier_runs_are_the_same():
    """A run that was stopped before there was solarization, or RandAugment, is resumed with the same views."""
    numbers = draw_numbers(3, jnp.int32(5), jnp.array([7]), 2)
    assert list(numbers)[-2:] == ["solarize", "rand_augment"]
    key = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(jax.random.key(3, impl="threefry2x32"), 5), 7), 1)
    for newer in (["solarize", "rand_augment"], ["rand_augment"]):
        earlier = np.concatenate([value[0, 1] for name, value in numbers.items() if name not in newer])
        np.testing.assert_array_equal(earlier, jax.random.uniform(key, (len(earlier),), jnp.float32))


@pytest.mark.parametrize(
    ("per_view", "field"),
    [
        (({"blurr": 1.0},), "augment.per_view[0].blurr"),
        (({"size": 16},), "augment.per_view[0].size"),
        (({}, {"blur": 1.5}), "augment.per_view[1].blur"),
        (({"blur": "much"},), "augment.per_view[0].blur"),
        (({"crop_scale": (0.9, 0.1)},), "augment.per_view[0].crop_scale"),
        (({"jitter_strength": (0.4, 0.4, 0.4, 0.9)},), "augment.per_view[0].jitter_strength"),
        (({}, {}, {}), "augment.per_view"),
    ],
)
def test_what_is_no_change_of_a_view_is_refused(per_view, field):
    config = default_config()
    config.steps = 1
    config.augment.per_view = per_view
    (problem,) = find_problems(config)
    assert problem.field == field
    config.augment.per_view = BYOL
    assert find_problems(config) == []
    assert set(PER_VIEW) <= set(config.augment)
