"""AutoAugment and RandAugment: the policy against the paper, and what the draws choose against PIL."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tests.augment.pil_reference import PIL, planes, sample_images
from xsample_jax.augment import autoaugment as aa
from xsample_jax.augment.autoaugment import OPERATIONS

auto_augment = jax.jit(aa.auto_augment)


def test_strengths_are_those_of_torchvision():
    assert [aa.strength("posterize", m) for m in range(10)] == [8, 8, 7, 7, 6, 6, 5, 5, 4, 4]
    assert [round(aa.strength("solarize", m), 6) for m in (0, 3, 9)] == [255, 170, 0]
    assert aa.strength("rotate", 9) == 30
    assert aa.strength("shear_x", 3) == pytest.approx(0.1)
    assert aa.strength("translate_y", 9) == pytest.approx(150 / 331)
    assert aa.strength("color", 8) == pytest.approx(0.8)
    assert aa.strength("equalize", None) == 0


def test_policy_has_the_published_shape():
    assert len(aa.POLICY) == 25
    names = [name for sub_policy in aa.POLICY for name, _, _ in sub_policy]
    assert set(names) <= set(OPERATIONS)
    # Counts over the 50 places of table 9.
    counts = {name: names.count(name) for name in set(names)}
    assert counts == {
        "equalize": 17,
        "rotate": 6,
        "solarize": 7,
        "posterize": 5,
        "color": 6,
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
    drawn = Image.fromarray(image)
    for (name, _, magnitude), do, sign in zip(sub_policy, applied, signs):
        if do:
            value = aa.strength(name, magnitude) * (sign if name in aa.SIGNED else 1)
            if name in ("brightness", "contrast", "color", "sharpness"):
                value += 1
            drawn = PIL[name](drawn, value)
    return np.asarray(drawn).astype(np.float32)


@pytest.mark.parametrize("signs", [(1, -1), (-1, 1)])
@pytest.mark.parametrize("applied", [(True, True), (True, False), (False, True), (False, False)])
def test_draws_choose_sub_policy_operations_and_signs(applied, signs):
    image = sample_images()[0]
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


@pytest.mark.parametrize("sign", [1, -1])
def test_rand_augment_does_every_operation_with_its_strength(sign):
    image, magnitude = sample_images()[0] // 2 + 40, 13  # no channel spans 0..255, which autocontrast would leave
    drawn = [name for name in OPERATIONS if name != "invert"]  # and the identity, the first of fourteen
    draws = np.zeros((14, aa.RANDOM_DRAWS), np.float32)
    draws[:, 0] = (np.arange(14) + 0.5) / 14
    draws[:, 1] = 0.01  # the second operation is the identity
    draws[:, aa.MOST_RANDOM] = 0.4 if sign == 1 else 0.6
    batch = planes(np.repeat(image[None], 14, axis=0))
    done = jax.jit(aa.rand_augment, static_argnums=2)(batch, jnp.asarray(draws), (2, magnitude))
    done = np.asarray(done).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(done[0], image)
    share = magnitude / 30
    strengths = {"posterize": 8 - round(4 * share), "solarize": 255 * (1 - share), "rotate": 30 * share * sign}
    strengths |= dict.fromkeys(("shear_x", "shear_y"), 0.3 * share * sign)
    strengths |= dict.fromkeys(("translate_x", "translate_y"), 150 / 331 * share * sign)
    strengths |= dict.fromkeys(("brightness", "contrast", "color", "sharpness"), 1 + 0.9 * share * sign)
    for k, name in enumerate(drawn):
        expected = np.asarray(PIL[name](Image.fromarray(image), strengths.get(name, 0.0))).astype(np.float32)
        assert (np.abs(done[k + 1] - expected) > 1).mean() < 0.01, name
        assert (done[k + 1] != image).any(), name


def test_all_sub_policies_are_drawn_equally_often():
    draws = np.random.default_rng(0).random(100_000, dtype=np.float32)
    chosen = np.minimum((draws * len(aa.POLICY)).astype(int), 24)
    assert np.bincount(chosen, minlength=25).min() > 3500
