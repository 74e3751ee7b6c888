"""The generalized contrastive loss (arXiv 2011.02803): goldens through the presets, formula, draws and resume."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives import synthetic
from tests.objectives.golden_inputs import Z1, Z2
from tests.objectives.test_build import problems
from tests.quick import quick_jit
from tests.tiny import random_batch, tiny_config, tiny_parts
from xsample_jax.errors import ConfigError
from xsample_jax.models.heads import unit_rows
from xsample_jax.objectives import feature_losses
from xsample_jax.objectives.blocks import image_block
from xsample_jax.objectives.feature_losses import random_directions, sliced_wasserstein
from xsample_jax.objectives.objective import objective_loss
from xsample_jax.objectives.presets import PRESETS
from xsample_jax.objectives.terms import StepValues
from xsample_jax.sharding import to_global

GOLDENS = {
    case["name"].removeprefix("Intriguing: sliced Wasserstein to "): case
    for case in json.loads((pathlib.Path(__file__).parent / "goldens_priors.json").read_text())["cases"]
}
GOLDEN_OF = {"sphere": "the uniform sphere", "cube": "the uniform cube", "normal": "a normal"}
KEY = jax.random.key(3)


def block_of(first, second):
    """Head outputs of two views as the image block of a step."""
    raw = jnp.stack([first, second], axis=1).reshape(-1, first.shape[1])
    return {"image": image_block(unit_rows(raw), {"id": jnp.arange(len(first))}, 2, raw=raw)}


@pytest.mark.parametrize("prior", GOLDEN_OF)
def test_the_preset_gives_the_golden_for_its_projection_and_samples(prior, monkeypatch):
    """The whole preset less its attraction, which is written out here; value and gradient."""
    golden = GOLDENS[GOLDEN_OF[prior]]
    directions, samples = (jnp.asarray(golden["extra"][name], jnp.float32) for name in ("W", "prior"))
    monkeypatch.setattr(feature_losses, "random_directions", lambda key, width: directions)
    monkeypatch.setattr(feature_losses, "prior_samples", lambda key, shape, of: samples.reshape(shape))
    objective = PRESETS[f"generalized_swd_{prior}"].objective
    scale = 1.0 if prior == "sphere" else 3.0  # the goldens of the cube and the normal are of rows of length 3

    def distance(first, second):
        z = (first, second) if prior == "sphere" else (scale * first, scale * second)
        blocks = block_of(*z)
        if prior == "sphere":  # the golden's gradient does not pass a normalization
            blocks["image"]["z"] = blocks["image"]["raw"]
        loss, metrics = objective_loss(objective, blocks, 12, 1.0, StepValues(key=KEY))
        attraction = 0.5 * jnp.mean((z[0] - z[1]) ** 2)
        return (loss - attraction) / 5.0, metrics

    (value, metrics), slopes = quick_jit(jax.value_and_grad(distance, (0, 1), has_aux=True))(
        *map(jnp.float32, (Z1, Z2))
    )
    assert value == pytest.approx(golden["expected"], rel=2e-5)
    assert metrics["feature_sliced_wasserstein"] == pytest.approx(5 * golden["expected"], rel=2e-5)
    for slope, name in zip(slopes, ("z1", "z2"), strict=True):
        assert np.linalg.norm(slope) == pytest.approx(golden["extra"]["grad_norm"][name], rel=1e-4)


@pytest.mark.parametrize("prior", GOLDEN_OF)
def test_distance_is_that_of_sorted_projections_in_numpy(prior):
    rows = np.random.default_rng(0).normal(size=(10, 6)).astype(np.float32)
    if prior == "sphere":
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    value = sliced_wasserstein(jnp.asarray(rows), rows, KEY, prior=prior)
    for_directions, for_samples = jax.random.split(KEY)
    directions = np.asarray(random_directions(for_directions, 6), np.float64)
    samples = np.asarray(feature_losses.prior_samples(for_samples, (10, 6), prior), np.float64)
    if prior == "sphere":
        samples /= np.linalg.norm(samples, axis=1, keepdims=True)
    expected = np.mean([(np.sort(rows @ column) - np.sort(samples @ column)) ** 2 for column in directions.T])
    assert value == pytest.approx(expected, rel=1e-5)


def test_projections_are_orthogonal_and_samples_are_of_the_prior():
    directions = np.asarray(random_directions(KEY, 16))
    np.testing.assert_allclose(directions @ directions.T, np.eye(16), atol=1e-5)
    cube = np.asarray(feature_losses.prior_samples(KEY, (4000, 3), "cube"))
    assert np.abs(cube).max() <= 1
    np.testing.assert_allclose(cube.var(axis=0), 1 / 3, rtol=0.06)
    normal = np.asarray(feature_losses.prior_samples(KEY, (4000, 3), "normal"))
    np.testing.assert_allclose(normal.var(axis=0), 1.0, rtol=0.08)
    assert np.abs(normal).max() > 3


def test_rows_of_the_prior_are_nearer_than_collapsed_ones_and_than_rows_of_another_prior():
    rng = np.random.default_rng(1)
    rows = {"cube": rng.uniform(-1, 1, (512, 8)), "normal": rng.normal(size=(512, 8))}
    rows["sphere"] = rows["normal"] / np.linalg.norm(rows["normal"], axis=1, keepdims=True)
    rows["collapsed"] = np.tile(rows["sphere"][:1], (512, 1))
    for prior in GOLDEN_OF:
        far = {name: float(sliced_wasserstein(jnp.float32(z), None, KEY, prior=prior)) for name, z in rows.items()}
        own = far.pop(prior)
        assert own < 0.5 * min(far.values()), (prior, own, far)


@pytest.mark.parametrize("prior", GOLDEN_OF)
def test_draws_are_new_for_every_key_and_the_same_for_one(prior):
    objective = PRESETS[f"generalized_swd_{prior}"].objective
    blocks = block_of(jnp.float32(Z1), jnp.float32(Z2))
    value = lambda key: float(objective_loss(objective, blocks, 12, 1.0, StepValues(key=key))[0])  # noqa: E731
    assert value(KEY) == value(KEY)
    assert value(KEY) != value(jax.random.fold_in(KEY, 1))


def test_lengths_matter_where_the_prior_asks_and_nowhere_else():
    """Head outputs twice as long: the sphere and the log-sum-exp see the same rows, the cube and the normal others."""
    for name, same in {"lse": True, "swd_sphere": True, "swd_cube": False, "swd_normal": False}.items():
        objective = PRESETS[f"generalized_{name}"].objective
        losses = [
            float(
                objective_loss(
                    objective, block_of(c * jnp.float32(Z1), c * jnp.float32(Z2)), 12, 1.0, StepValues(key=KEY)
                )[0]
            )
            for c in (1.0, 2.0)
        ]
        assert (losses[0] == pytest.approx(losses[1], rel=1e-5)) == same, name
        assert objective.raw != same


def test_a_step_gives_the_gradient_of_the_head_outputs_to_the_encoder():
    """Steps of the cube prior pull the head outputs into the cube, whatever their length was."""
    objective = PRESETS["generalized_swd_cube"].objective
    inputs = synthetic.inputs_of(objective)
    inputs["trained"]["images"] = 4 * inputs["trained"]["images"]
    step = quick_jit(lambda i: synthetic.loss_and_gradient(objective, i))
    before = np.square(inputs["trained"]["images"]).mean()
    for _ in range(40):
        (_, _), gradient = step(inputs)
        inputs["trained"]["images"] = inputs["trained"]["images"] - 4.0 * np.asarray(gradient["images"])
    after = np.square(inputs["trained"]["images"]).mean()
    assert before > 10
    assert after < 1.0


@pytest.mark.usefixtures("linear_encoder")
@pytest.mark.parametrize("preset", ["generalized_swd_cube", "generalized_lse"])
def test_a_state_saved_between_steps_goes_on_bit_for_bit_and_steps_draw_anew(preset):
    """All that is random comes from the step in the state, so a copy of the state is all that a resumed run needs."""
    config = tiny_config(objective__preset=preset, model__head__batch_norm=False)
    parts = tiny_parts(config, jax.devices()[:2])
    batch = {name: random_batch(config)[name] for name in parts.abstract_batch}
    state, _ = parts.train_step(parts.new_state(), to_global(batch, parts.mesh))
    saved = jax.device_get(state)
    ends = []
    for _ in range(2):
        again = jax.device_put(saved, jax.tree.map(lambda leaf: leaf.sharding, parts.abstract_state))
        end, metrics = parts.train_step(again, to_global(batch, parts.mesh))
        ends.append(jax.device_get((end, metrics["loss"])))
    jax.tree.map(np.testing.assert_array_equal, *ends)
    if preset == "generalized_swd_cube":
        later = dataclasses.replace(saved, step=saved.step + 1)
        later = jax.device_put(later, jax.tree.map(lambda leaf: leaf.sharding, parts.abstract_state))
        _, metrics = parts.train_step(later, to_global(batch, parts.mesh))
        assert metrics["feature_sliced_wasserstein"] != ends[0][1]


def test_bad_input_is_one_message():
    blocks = block_of(jnp.float32(Z1), jnp.float32(Z2))
    del blocks["image"]["raw"]
    cube, sphere = (PRESETS[f"generalized_swd_{prior}"].objective for prior in ("cube", "sphere"))
    with pytest.raises(ConfigError, match="raw"):
        objective_loss(cube, blocks, 12, 1.0, StepValues(key=KEY))
    with pytest.raises(ConfigError, match="draws"):
        objective_loss(sphere, blocks, 12, 1.0)


@pytest.mark.parametrize(
    ("term", "field", "words"),
    [
        ({"name": {"name": "sliced_wasserstein", "prior": "ball"}}, "prior", "one of sphere, cube, normal"),
        ({"name": {"name": "sliced_wasserstein", "projections": 5}}, "projections", "an option of"),
        (
            {"name": {"name": "sliced_wasserstein", "prior": "cube"}, "x": "text", "y": "text"},
            "objective.feature_terms[0].x",
            "head outputs",
        ),
        ({"name": {"name": "mean_square", "raw": 1}}, "raw", "true or false"),
    ],
)
def test_wrong_choices_are_refused_by_the_check(term, field, words):
    found = problems(preset="clip_frozen_text", terms=(term,))
    assert any(field in problem.field and words in str(problem) for problem in found), found
