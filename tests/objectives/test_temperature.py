"""Temperature rules by their closed forms, and the learned temperature at its bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xsample_jax.objectives.slots import TEMPERATURES, initial_log_scale, learned_temperature

RNG = np.random.default_rng(6)
SIMILARITY, TARGET = RNG.uniform(-1, 1, (3, 4)), np.array([[1.0, 0, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 0, 0]])
U = {"class_temperature": jnp.asarray([0.5, 1.0, 2.0]), "anchor_temperature": jnp.asarray([0.1, 0.2, 0.3])}


def rule(name, base=0.4, progress=0.0, **options):
    return TEMPERATURES[name](base, U, jnp.asarray(SIMILARITY), jnp.asarray(TARGET), progress, **options)


def test_base_is_what_it_was():
    assert rule("base") == 0.4


@pytest.mark.parametrize(("progress", "expected"), [(0, 1.0), (1 / 12, 0.55), (1 / 6, 0.1), (1 / 3, 1.0), (1, 1.0)])
def test_schedule_swings_between_low_and_base(progress, expected):
    assert rule("schedule", 1.0, progress, low=0.1, periods=3.0) == pytest.approx(expected, abs=1e-5)


def test_per_class_and_per_anchor_are_columns():
    np.testing.assert_allclose(rule("per_class"), [[0.2], [0.4], [0.8]])
    np.testing.assert_allclose(rule("per_anchor"), [[0.1], [0.2], [0.3]])


def test_model_aware_is_the_mean_positive_similarity():
    mean = (SIMILARITY[0, 0] + 0.5 * SIMILARITY[1, 1] + 0.5 * SIMILARITY[1, 2]) / 2
    assert rule("model_aware", alpha=0.5, center=0.2) == pytest.approx(0.4 * (1 + 0.5 * (mean - 0.2)), rel=1e-5)
    gradient = jax.grad(lambda s: TEMPERATURES["model_aware"](0.4, U, s, jnp.asarray(TARGET), 0.0))
    np.testing.assert_array_equal(gradient(jnp.asarray(SIMILARITY)), 0)


def test_every_rule_is_tested_here():
    assert set(TEMPERATURES) == {"base", "schedule", "per_class", "per_anchor", "model_aware"}


@pytest.mark.parametrize(("start", "expected"), [(0.07, 0.07), (0.001, 0.01), (5.0, 1.0)])
def test_learned_temperature_starts_at_its_value_and_is_clamped(start, expected):
    assert learned_temperature(initial_log_scale(start)) == pytest.approx(expected, rel=1e-5)


def test_learned_temperature_has_a_gradient_only_within_its_bounds():
    slope = jax.grad(learned_temperature)
    assert slope(jnp.log(1 / 0.07)) == pytest.approx(-0.07, rel=1e-5)
    assert slope(jnp.log(1 / 0.001)) == 0
    assert slope(jnp.log(1 / 5.0)) == 0
