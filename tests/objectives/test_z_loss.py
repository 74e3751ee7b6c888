"""The Z-loss (arXiv 1604.08859): goldens with gradients, what it does not change with, and its streamed form."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives.golden_inputs import CASES, IDS, Z1, Z2
from tests.objectives.test_build import problems
from tests.objectives.test_streamed import assert_streamed_is_dense
from tests.quick import quick_jit
from xsample_jax.graphs.targets import Graph
from xsample_jax.objectives.blocks import TEXT, Rows, image_block
from xsample_jax.objectives.links import z
from xsample_jax.objectives.objective import Objective, objective_loss
from xsample_jax.objectives.presets import PRESETS
from xsample_jax.objectives.streaming.loss import Streaming
from xsample_jax.objectives.terms import Term

IMAGE = Rows("image")


def preset(sharpness, location):
    """The preset with other constants."""
    objective = PRESETS["z_loss"].objective
    link = {"name": "z", "sharpness": sharpness, "location": location}
    return dataclasses.replace(objective, terms=(dataclasses.replace(objective.terms[0], link=link),))


@pytest.mark.parametrize(("sharpness", "location"), [(1.0, 0.0), (4.0, 2.0)])
@pytest.mark.parametrize("how", [None, Streaming("streaming", block_size=8)], ids=["dense", "streamed"])
def test_the_preset_gives_the_goldens_and_their_gradients(sharpness, location, how):
    golden = CASES[f"Z-loss a={sharpness:g} b={location:g}"]
    objective = preset(sharpness, location)

    def value(first):
        rows = jnp.stack([first, jnp.float32(Z2)], axis=1).reshape(-1, first.shape[1])
        block = image_block(rows, {"id": jnp.asarray(IDS)}, 2)
        return objective_loss(objective, {"image": block}, 12, 0.3, how=how)[0]

    loss, slope = quick_jit(jax.value_and_grad(value))(jnp.float32(Z1))
    assert loss == pytest.approx(golden["expected"], rel=1e-5)
    assert np.linalg.norm(slope) == pytest.approx(golden["also"]["gradient_norm_z1"], rel=1e-4)


def test_scale_and_shift_do_not_matter_and_the_gradient_changes_neither():
    """Gradient rows are orthogonal to 1 and to S: what the invariances mean to first order."""
    logits, target = jnp.float32(Z1 @ Z2.T), jnp.eye(12)
    value = lambda s: z(s, target, jnp.ones((12, 12), bool), sharpness=4.0, location=2.0)  # noqa: E731
    np.testing.assert_allclose(value(3 * logits + 7), value(logits), rtol=1e-4)
    slope = jax.grad(lambda s: value(s).sum())(logits)
    assert np.abs(slope).max() > 1e-2
    np.testing.assert_allclose(slope.sum(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose((slope * logits).sum(axis=1), 0, atol=1e-5)


def test_rows_of_equal_logits_have_a_finite_value_and_no_gradient():
    value, slope = jax.value_and_grad(lambda s: z(s, jnp.eye(5), jnp.ones((5, 5), bool)).sum())(jnp.full((5, 5), 0.7))
    assert value == pytest.approx(5 * np.log(2), rel=1e-6)
    np.testing.assert_array_equal(slope, 0)


@pytest.mark.parametrize(
    "term",
    [
        Term(link="z"),
        Term(Graph("label"), link={"name": "z", "sharpness": 2.0, "location": 1.0}),
        Term(Graph("label", "none"), IMAGE, TEXT, link="z"),
        Term(Graph("label"), Rows("image", 0), (Rows("teacher", 1), Rows("queue")), link="z"),
    ],
    ids=["own images", "classes", "texts", "a queue that is not full"],
)
@pytest.mark.parametrize("devices", [1, 8])
def test_streamed_is_dense(term, devices):
    assert_streamed_is_dense(Objective((term,), 0.2), 8, devices, 1e-5)


def test_what_it_has_no_meaning_for_is_refused():
    (problem,) = problems(
        preset="xclr", terms=({"graph": {"source": "caption", "normalizer": "softmax"}, "link": "z"},)
    )
    assert "a graph with zeros" in str(problem)
    (problem,) = problems(preset="simclr", terms=({"link": {"name": "z", "sharpness": 0}},))
    assert problem.field == "objective.terms[0].link.sharpness"
