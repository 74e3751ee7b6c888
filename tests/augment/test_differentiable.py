"""Augmentation for the discriminator: against plain loops, a function of (key, id), and with a gradient."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.quick import quick_jit
from xsample_jax.augment.differentiable import augment_differentiably, cut_out, moved, recolored

SIZE = 16


def planes(count=4, channels=4, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (count, SIZE, SIZE, channels)).astype(np.float32)


def test_moves_are_by_whole_pixels_up_to_an_eighth_and_bring_in_zeros():
    x = planes()
    draws = np.array([[0.0, 0.999], [0.5, 0.5], [0.21, 0.7], [0.999, 0.0]], np.float32)
    steps = [(-2, 2), (0, 0), (-1, 1), (2, -2)]
    expected = np.zeros_like(x)
    for row, (down, right) in enumerate(steps):
        for i in range(SIZE):
            for j in range(SIZE):
                if 0 <= i - down < SIZE and 0 <= j - right < SIZE:
                    expected[row, i, j] = x[row, i - down, j - right]
    np.testing.assert_allclose(moved(jnp.asarray(x), jnp.asarray(draws)), expected, atol=1e-6)


def test_the_hole_is_half_a_side_wide_and_is_cut_off_at_the_edge():
    found = np.asarray(cut_out(jnp.ones((2, SIZE, SIZE, 3)), jnp.array([[0.5, 0.5], [0.0, 0.99]])))
    middle = np.ones((SIZE, SIZE))
    middle[4:12, 4:12] = 0
    np.testing.assert_array_equal(found[0, :, :, 1], middle)
    corner = np.ones((SIZE, SIZE))
    corner[:4, 11:] = 0
    np.testing.assert_array_equal(found[1, :, :, 0], corner)


def test_colors_by_hand_and_alpha_left_alone():
    x = planes(2)
    draws = [np.full((2, 1, 1, 1), value, np.float32) for value in (0.8, 0.25, 0.9)]
    found = np.asarray(recolored(jnp.asarray(x), *draws))
    for row in range(2):
        colors = x[row, :, :, :3] + 0.3
        gray = colors.mean(axis=-1, keepdims=True)
        colors = gray + 0.5 * (colors - gray)
        expected = colors.mean() + 1.4 * (colors - colors.mean())
        np.testing.assert_allclose(found[row, :, :, :3], expected, atol=1e-5)
    np.testing.assert_array_equal(found[..., 3], x[..., 3])
    same = recolored(jnp.asarray(x), *[np.full((2, 1, 1, 1), 0.5, np.float32)] * 3)
    np.testing.assert_allclose(same, x, atol=1e-6)


def test_a_row_is_changed_by_key_and_id_whatever_its_place_and_a_gradient_comes_back():
    x, ids = planes(), jnp.array([7, -3, 12, 7])
    augment = quick_jit(augment_differentiably)
    found = np.asarray(augment(x, jax.random.key(1), ids))
    order = np.array([2, 0, 3, 1])
    np.testing.assert_allclose(augment(x[order], jax.random.key(1), ids[order]), found[order], atol=1e-6)
    assert np.abs(augment(x, jax.random.key(2), ids) - found).max() > 0.1
    twice = np.asarray(augment(np.stack([x[0]] * 4), jax.random.key(1), ids))
    np.testing.assert_allclose(twice[0], twice[3], atol=1e-6)  # one id, one change
    assert np.abs(twice[0] - twice[1]).max() > 0.1
    slope = jax.grad(lambda x: jnp.sum(augment_differentiably(x, jax.random.key(1), ids) ** 2))(jnp.asarray(x))
    seen = np.abs(np.asarray(slope)).sum(axis=(1, 2, 3))
    assert np.isfinite(seen).all()
    assert (seen > 0).all()
