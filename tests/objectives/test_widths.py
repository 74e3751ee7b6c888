"""Matryoshka: the loss of every objective over prefixes of the embedding; golden, gradient, streams, mistakes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives import synthetic
from tests.objectives.golden_inputs import CASES, IDS, Z1
from tests.objectives.test_build import problems
from tests.objectives.test_streamed import assert_streamed_is_dense
from tests.quick import quick_jit
from tests.tiny import tiny_config
from xsample_jax.config.check import find_problems
from xsample_jax.models.heads import unit_rows
from xsample_jax.objectives.blocks import Rows, image_block, key_block
from xsample_jax.objectives.objective import Objective, cut_rows, objective_loss
from xsample_jax.objectives.presets import PRESETS
from xsample_jax.objectives.terms import Term

WIDTHS = ((8, 1.0), (4, 0.5), (2, 0.25))


def test_the_golden_and_its_gradient():
    """Queries against three passages each, all of which are keys; widths 16, 8, 4 of weights 1, 0.3, 0.2."""
    golden = CASES["Matryoshka InfoNCE, dims 16/8/4"]
    passages = jnp.asarray(golden["extra"]["passages"], jnp.float32)
    own = jnp.asarray(np.where(np.arange(36) % 3 == 0, np.arange(36) // 3, -1))
    objective = Objective((Term(keys=Rows("queue")),), 0.05, widths=((16, 1.0), (8, 0.3), (4, 0.2)))
    keys = key_block(passages) | {"id": own}

    def value(z):
        blocks = {"image": image_block(z, {"id": jnp.asarray(IDS)}, 1), "queue": keys}
        return objective_loss(objective, blocks, 12, 0.05)[0]

    loss, slope = quick_jit(jax.value_and_grad(value))(jnp.float32(Z1))
    assert loss == pytest.approx(golden["expected"], rel=1e-5)
    assert np.linalg.norm(slope) == pytest.approx(golden["also"]["gradient_norm_z1"], rel=1e-4)


@pytest.mark.parametrize("name", ["xclr", "vicreg", "moco", "swav", "simlap", "generalized_swd_cube", "gram"])
def test_it_is_the_weighted_sum_of_the_losses_of_models_that_end_there(name):
    """A model whose embedding is the prefix has the loss of the prefix: a preset of every kind."""
    objective = synthetic.small(PRESETS[name].objective)
    inputs = jax.tree.map(jnp.asarray, synthetic.inputs_of(objective, queued=10 if objective.queue else 0))
    seen = {}

    def recorded(given, blocks, *rest):
        seen["blocks"], seen["rest"] = blocks, rest
        return objective_loss(given, blocks, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "objective_loss", recorded)
        synthetic.loss_of(objective, inputs)
    several = dataclasses.replace(objective, widths=WIDTHS)
    loss, metrics = objective_loss(several, seen["blocks"], *seen["rest"])
    alone = {}
    for width, _ in WIDTHS:
        cut = {block: dict(side) for block, side in seen["blocks"].items()}
        for side in cut.values():
            for entry in set(side) & {"z", "embedding", "other_view", "teacher", "text", "image", "view_0", "view_1"}:
                length = np.linalg.norm(side[entry][:, :width], axis=1, keepdims=True)
                side[entry] = jnp.asarray(side[entry][:, :width] / np.maximum(length, 1e-6))
            for entry in set(side) & {"raw", "gate"}:
                side[entry] = side[entry][:, :width]
        alone[width] = objective_loss(objective, cut, *seen["rest"])[0]
    rel = 1e-3 if name == "gram" else 1e-5  # small determinants are differences of products in float32
    assert loss == pytest.approx(float(sum(weight * alone[width] for width, weight in WIDTHS)), rel=rel)
    assert [float(metrics[f"loss_width_{width}"]) for width in alone] == pytest.approx(
        [float(value) for value in alone.values()], rel=rel
    )
    assert len({round(float(value), 4) for value in alone.values()}) == 3


def test_one_width_of_all_is_the_objective_itself():
    z = unit_rows(jax.random.normal(jax.random.key(0), (8, 6)))
    blocks = {"image": image_block(z, {"id": jnp.arange(4)}, 2)}
    plain = PRESETS["simclr"].objective
    loss, metrics = objective_loss(dataclasses.replace(plain, widths=((6, 1.0),)), blocks, 4, 0.1)
    expected, of_plain = objective_loss(plain, blocks, 4, 0.1)
    assert loss == pytest.approx(float(expected), rel=1e-6)
    for name, value in of_plain.items():
        assert metrics[name] == pytest.approx(float(value), rel=1e-5), name
    np.testing.assert_allclose(np.linalg.norm(cut_rows(blocks["image"], 3)["z"], axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize(("name", "devices"), [("xclr", 1), ("xclr", 8), ("clip", 8), ("z_loss", 8)])
def test_streamed_is_dense(name, devices):
    objective = dataclasses.replace(PRESETS[name].objective, widths=WIDTHS)
    assert_streamed_is_dense(objective, 16, devices, 2e-5)


def test_first_numbers_of_the_embedding_get_the_gradient_of_every_width():
    """Property: with all weight on the short prefix nothing else is trained; with both, the prefix more than before."""
    rows = unit_rows(jax.random.normal(jax.random.key(1), (16, 8)))
    plain = PRESETS["simclr"].objective

    def slopes(widths):
        def value(z):
            return objective_loss(
                dataclasses.replace(plain, widths=widths), {"image": image_block(z, {"id": jnp.arange(8)}, 2)}, 8, 0.1
            )[0]

        return np.abs(jax.grad(value)(rows)).sum(axis=0)

    short, both, whole = slopes(((2, 1.0),)), slopes(((8, 1.0), (2, 1.0))), slopes(((8, 1.0),))
    assert (short[:2] > 0).all()
    np.testing.assert_array_equal(short[2:], 0)
    assert both[:2].sum() > whole[:2].sum()
    np.testing.assert_allclose(both[2:], whole[2:], rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"widths": (4, 8)}, "objective.widths", "from the largest"),
        ({"widths": (8, 8)}, "objective.widths", "each once"),
        ({"widths": (8, 4), "width_weights": (0.0, 0.0)}, "objective.width_weights", "above 0"),
        ({"preset": "sogclr", "widths": (8, 4)}, "objective.widths", "kept per image|keeps per image"),
        ({"preset": "saf", "widths": (8, 4)}, "objective.widths", "an image's past"),
    ],
)
def test_mistakes_are_refused(changes, field, words):
    (problem,) = problems(**changes)
    assert problem.field == field
    assert any(word in str(problem) for word in words.split("|"))


@pytest.mark.parametrize(
    ("widths", "weights", "field"),
    [((64, 8), None, "objective.widths"), ((8, 4), (1.0,), "objective.width_weights")],
)
def test_widths_fit_the_head_and_the_weights(widths, weights, field):
    config = tiny_config()
    config.objective.widths, config.objective.width_weights = widths, weights
    (problem,) = find_problems(config)
    assert problem.field == field
