"""Temperature rules by their closed forms, and the learned temperature at its bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from xsample_jax.graphs.targets import Graph
from xsample_jax.models.heads import unit_rows
from xsample_jax.objectives.blocks import image_block
from xsample_jax.objectives.learned_state import BIAS, LOG_SCALE, clamped, init_objective_parameters, temperature_of
from xsample_jax.objectives.logits import TEMPERATURES, TemperatureInputs, initial_log_scale, learned_temperature
from xsample_jax.objectives.objective import Objective, objective_loss
from xsample_jax.objectives.terms import Term

RNG = np.random.default_rng(6)
SIMILARITY, TARGET = RNG.uniform(-1, 1, (3, 4)), np.array([[1.0, 0, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 0, 0]])
U = {"class_temperature": jnp.asarray([0.5, 1.0, 2.0]), "anchor_temperature": jnp.asarray([0.1, 0.2, 0.3])}
U["head_temperature"] = jnp.asarray([0.4, 0.5, 0.6])


def rule(name, base=0.4, progress=0.0, **options):
    given = TemperatureInputs(base, U, jnp.asarray(SIMILARITY), jnp.asarray(TARGET), progress)
    return TEMPERATURES[name](given, **options)


def test_base_is_what_it_was():
    assert rule("base") == 0.4


@pytest.mark.parametrize(("progress", "expected"), [(0, 1.0), (1 / 12, 0.55), (1 / 6, 0.1), (1 / 3, 1.0), (1, 1.0)])
def test_schedule_swings_between_low_and_base(progress, expected):
    assert rule("schedule", 1.0, progress, low=0.1, periods=3.0) == pytest.approx(expected, abs=1e-5)


def test_per_class_and_per_anchor_are_columns():
    np.testing.assert_allclose(rule("of_head"), [[0.4], [0.5], [0.6]])
    np.testing.assert_allclose(rule("per_class"), [[0.2], [0.4], [0.8]])
    np.testing.assert_allclose(rule("per_anchor"), [[0.1], [0.2], [0.3]])


def test_model_aware_is_the_mean_positive_similarity():
    mean = (SIMILARITY[0, 0] + 0.5 * SIMILARITY[1, 1] + 0.5 * SIMILARITY[1, 2]) / 2
    assert rule("model_aware", alpha=0.5, center=0.2) == pytest.approx(0.4 * (1 + 0.5 * (mean - 0.2)), rel=1e-5)
    given = TemperatureInputs(0.4, U, jnp.asarray(SIMILARITY), jnp.asarray(TARGET), 0.0)
    gradient = jax.grad(lambda s: TEMPERATURES["model_aware"](given._replace(similarity=s)))
    np.testing.assert_array_equal(gradient(jnp.asarray(SIMILARITY)), 0)


def test_every_rule_is_tested_here():
    assert set(TEMPERATURES) == {"base", "schedule", "per_class", "per_anchor", "of_head", "model_aware"}


@pytest.mark.parametrize(("start", "expected"), [(0.07, 0.07), (0.001, 0.01), (5.0, 1.0)])
def test_learned_temperature_starts_at_its_value_and_is_clamped(start, expected):
    assert learned_temperature(initial_log_scale(start)) == pytest.approx(expected, rel=1e-5)


def test_a_parameter_out_of_bounds_is_read_at_the_bound_and_keeps_its_gradient():
    """faults A4: a weight file may bring such a parameter; the loss must be able to bring it back."""
    slope = jax.grad(learned_temperature)
    for tau, read in ((0.07, 0.07), (0.001, 0.01), (0.01, 0.01), (1.0, 1.0), (5.0, 1.0)):
        parameter = -jnp.log(tau)
        assert learned_temperature(parameter) == pytest.approx(read, rel=1e-5)
        assert slope(parameter) == pytest.approx(-read, rel=1e-5)


def test_only_the_learned_temperature_is_clamped():
    params = {LOG_SCALE: jnp.float32(9.0), BIAS: jnp.float32(-30.0), "encoder/log_scale": jnp.float32(9.0)}
    assert clamped(params) == {**params, LOG_SCALE: pytest.approx(np.log(100), rel=1e-6)}
    assert clamped({LOG_SCALE: jnp.float32(-2.0)})[LOG_SCALE] == 0.0


@pytest.mark.parametrize("start", [1e-4, 0.01, 0.07, 1.0, 50.0])
@pytest.mark.parametrize("optimizer", [optax.adam(0.05), optax.sgd(0.05, momentum=0.9)], ids=["adam", "momentum"])
def test_a_temperature_that_starts_at_or_beyond_its_clamp_reaches_its_optimum(start, optimizer):
    """faults A4: the embeddings are the captions, tau_s is 0.2: the loss is H(T), its least, at tau = 0.2 only."""
    objective = Objective((Term(Graph("caption", "softmax")),), start, target_temperature=0.2, learn_temperature=True)
    rng = np.random.default_rng(0)
    z = unit_rows(jnp.asarray(rng.normal(size=(12, 4)), jnp.float32))
    block = image_block(z, {"id": jnp.arange(6)}, 2, caption_embedding=z)
    params = init_objective_parameters(objective, 4, 0, 0)

    def loss(params):
        return objective_loss(objective, {"image": block}, 6, temperature_of(objective, params))[0]

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state)
        params = clamped(optax.apply_updates(params, updates))
        return (params, state), params[LOG_SCALE]

    (params, _), seen = jax.jit(lambda c: jax.lax.scan(step, c, None, 400))((params, optimizer.init(params)))
    assert float(temperature_of(objective, params)) == pytest.approx(0.2, rel=0.02)
    assert 0 <= seen.min() <= seen.max() <= np.log(100) + 1e-5
