"""Weights by the loss of a row (arXiv 2502.06733): goldens with weights and gradients, limits, warm-up, mistakes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives.golden_inputs import CASES, IDS, Z1, Z3
from tests.objectives.test_build import problems
from tests.quick import quick_jit
from xsample_jax.objectives.blocks import image_block
from xsample_jax.objectives.objective import objective_loss
from xsample_jax.objectives.presets import PRESETS
from xsample_jax.objectives.row_weights import WeightInputs, by_loss
from xsample_jax.objectives.terms import StepValues

PRESET = PRESETS["loss_reweighting"].objective
PLAIN = dataclasses.replace(PRESET, terms=(dataclasses.replace(PRESET.terms[0], row_weight=1.0),))


def value(first, objective=PRESET, progress=0.5):
    rows = jnp.stack([first, jnp.float32(Z3)], axis=1).reshape(-1, first.shape[1])
    block = image_block(rows, {"id": jnp.asarray(IDS)}, 2)
    return objective_loss(objective, {"image": block}, 12, objective.temperature, StepValues(progress=progress))[0]


def with_weights(**options):
    weights = {"name": "by_loss", **options}
    return dataclasses.replace(PRESET, terms=(dataclasses.replace(PRESET.terms[0], row_weight=weights),))


@pytest.mark.parametrize(("strategy", "r"), [("linupper", 0.4), ("extremes", 1.0), ("quadratic", 0.5)])
def test_the_preset_gives_the_goldens_their_weights_and_their_gradients(strategy, r):
    golden = CASES[f"dynamic reweighting: {strategy}, r={r:g}"]
    objective = with_weights(strategy=strategy, r=r, warm_up=0.1)
    loss, slope = quick_jit(jax.value_and_grad(lambda z: value(z, objective)))(jnp.float32(Z1))
    assert loss == pytest.approx(golden["expected"], rel=2e-5)
    assert np.linalg.norm(slope) == pytest.approx(golden["also"]["gradient_norm_z1"], rel=1e-4)
    logits = jnp.float32(Z1 @ Z3.T / 0.1)
    total = jax.nn.logsumexp(logits, axis=1, keepdims=True)
    weights = by_loss(
        WeightInputs(logits, jnp.eye(12), jnp.ones((12, 12)), total, {}, 0.1, 1.0), strategy=strategy, r=r
    )
    np.testing.assert_allclose(weights / 12, golden["also"]["weights"], rtol=1e-4)


@pytest.mark.parametrize(
    ("objective", "progress"), [(with_weights(r=1e6), 0.5), (PRESET, 0.05)], ids=["flat", "in the warm-up"]
)
def test_uniform_weights_are_the_plain_loss(objective, progress):
    assert value(jnp.float32(Z1), objective, progress) == pytest.approx(float(value(jnp.float32(Z1), PLAIN)), rel=1e-5)
    assert value(jnp.float32(Z1)) > 1.2 * value(jnp.float32(Z1), PLAIN)  # but for those, easy rows count less


def test_weights_of_the_upper_half_are_equal_and_lower_losses_weigh_less():
    losses = jnp.array([0.1, 0.5, 1.0, 3.0, 3.2, 6.1, 9.0])
    logits = jnp.stack([jnp.zeros(7), jnp.log(jnp.expm1(losses))], axis=1)  # of which the first key is positive
    target, total = jnp.tile(jnp.array([1.0, 0.0]), (7, 1)), jax.nn.logsumexp(logits, axis=1, keepdims=True)
    weights = np.asarray(by_loss(WeightInputs(logits, target, jnp.ones((7, 2)), total, {}, 1.0, 1.0), r=0.4))
    np.testing.assert_allclose(weights[-2:], weights[-1], rtol=1e-5)
    assert (np.diff(weights[:-1]) > 0).all()
    assert weights.sum() == pytest.approx(7, rel=1e-5)
    assert weights[-1] / weights[0] == pytest.approx(np.exp(1 / 0.4), rel=1e-4)


def test_rows_without_a_positive_have_no_weight_and_do_not_set_the_scale():
    logits = jnp.array([[5.0, 1.0, 0.0], [0.3, 0.1, 2.0], [9.0, -9.0, 0.0]])
    target = jnp.array([[1.0, 0, 0], [0, 0, 1.0], [0, 0, 0]])
    total = jax.nn.logsumexp(logits, axis=1, keepdims=True)
    weights = by_loss(WeightInputs(logits, target, jnp.ones((3, 3)), total, {}, 1.0, 1.0))
    alone = by_loss(WeightInputs(logits[:2], target[:2], jnp.ones((2, 3)), total[:2], {}, 1.0, 1.0))
    np.testing.assert_allclose(weights, [*alone, 0], rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"row_weight": {"name": "by_loss", "strategy": "upper"}}, "row_weight.strategy"),
        ({"row_weight": {"name": "by_loss", "r": 0.0}}, "row_weight.r"),
        ({"row_weight": "by_loss", "aggregate": "in"}, "aggregate"),
        ({"attraction": "by_loss"}, "attraction"),
    ],
)
def test_mistakes_are_refused(change, field):
    (problem,) = problems(preset="simclr", terms=(change,))
    assert problem.field == f"objective.terms[0].{field}"
