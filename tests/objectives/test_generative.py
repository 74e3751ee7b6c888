"""Captioning and latents as terms: goldens with gradients, what is refused, and what training does."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives.golden_inputs import CASES, Z1, Z3, extra, images, texts
from tests.objectives.test_build import problems
from tests.quick import quick_jit
from tests.tiny import random_batch, tiny_config, tiny_parts
from xsample_jax.config.check import find_problems
from xsample_jax.evals.captioning import caption_losses, partners_in
from xsample_jax.models.decoder import cross_entropies
from xsample_jax.models.heads import unit_rows
from xsample_jax.objectives.cross_entropy import mean_negatives, own
from xsample_jax.objectives.from_config import needed_views
from xsample_jax.objectives.generative import caption_numbers, latent_values, noise
from xsample_jax.objectives.objective import objective_loss
from xsample_jax.objectives.presets import PRESETS
from xsample_jax.sharding import fetch_scalars, to_global
from xsample_jax.step import make_inputs, make_loss

COCA, COSMO = CASES["CoCa: CLIP + 2 x captioning"], PRESETS["cosmo"].objective
A_MIM, CMIM = CASES["A-MIM latent terms"], CASES["cMIM contrastive term"]


def norms(slopes):
    return {name: float(np.linalg.norm(slope)) for name, slope in slopes.items()}


def test_coca_has_the_gradient_and_the_parts_of_the_published_code():
    tokens = extra(COCA["name"], "tokens").astype(int)[:, 1:]
    objective = PRESETS["coca"].objective

    def loss(given):
        side = {"token_loss": cross_entropies(given["logits"], jnp.asarray(tokens)).sum(axis=1)}
        side["token_count"] = np.sum(tokens != 0, axis=1)
        return objective_loss(objective, {"image": images(given["z1"], **side), "text": texts(given["z3"])}, 12, 1 / 5)

    given = {"z1": Z1, "z3": Z3, "logits": extra(COCA["name"], "logits")}
    (value, metrics), slopes = quick_jit(jax.value_and_grad(loss, has_aux=True))(jax.tree.map(jnp.float32, given))
    assert value == pytest.approx(COCA["expected"], rel=1e-5)
    assert metrics["feature_captioning"] == pytest.approx(COCA["extra"]["also"]["caption_times_2"], rel=1e-5)
    assert norms(slopes) == pytest.approx(COCA["extra"]["grad_norm"], rel=1e-4)


def contrast_of_cosmo(numbers):
    """(value, gradients) of the contrastive term at its own temperature."""
    objective = dataclasses.replace(COSMO, feature_terms=())

    def loss(given):
        side = {"caption_number": jnp.asarray(numbers)}
        blocks = {"image": images(given["z1"], **side), "text": texts(given["z3"], **side)}
        return objective_loss(objective, blocks, 12, objective.temperature)[0]

    return quick_jit(jax.value_and_grad(loss))({"z1": jnp.float32(Z1), "z3": jnp.float32(Z3)})


def test_cosmo_has_the_published_temperature_and_no_pairs_of_equal_captions():
    golden = CASES["COSMO contrastive term (scale e^temperature, temperature .2 at the start)"]
    value, slopes = contrast_of_cosmo(np.arange(12))
    assert value == pytest.approx(golden["expected"], rel=1e-5)
    assert norms(slopes) == pytest.approx(golden["extra"]["grad_norm"], rel=1e-4)
    numbers = np.array([0, 0, 2, 3, 2, 2, *range(6, 12)])
    logits, total = Z1 @ Z3.T * math.exp(0.2), 0.0
    for i in range(12):
        others = [k for k in range(12) if k == i or numbers[k] != numbers[i]]
        for row in (logits[i], logits[:, i]):
            total += (np.log(np.exp(row[others]).sum()) - row[i]) / 24
    assert contrast_of_cosmo(numbers)[0] == pytest.approx(total, rel=1e-5)
    tokens = np.array([[1, 5, 2, 0], [1, 6, 2, 0], [1, 5, 2, 0], [1, 5, 5, 2]])
    assert caption_numbers(jnp.asarray(tokens)).tolist() == [0, 1, 0, 3]


LATENTS = [jnp.float32(A_MIM["extra"][name]) for name in ("mu", "logvar", "eps")]


def test_latent_terms_are_those_of_public_code():
    def loss(given):
        mean, log_variance, drawn = given["mu"], given["logvar"], LATENTS[2]
        return latent_values(mean, log_variance, mean + jnp.exp(log_variance / 2) * drawn).mean()

    value, slopes = quick_jit(jax.value_and_grad(loss))({"mu": LATENTS[0], "logvar": LATENTS[1]})
    assert value == pytest.approx(A_MIM["expected"], rel=1e-5)
    assert norms(slopes) == pytest.approx(A_MIM["extra"]["grad_norm"], rel=1e-4)


def contrast_of_cmim(rows):
    objective = dataclasses.replace(PRESETS["cmim"].objective, feature_terms=())
    ids = np.arange(len(rows))
    return objective_loss(objective, {"image": images(rows, id=ids, label=ids)}, len(rows), objective.temperature)[0]


def test_the_contrast_of_cmim_and_that_it_is_flat_in_the_batch():
    """The golden's formula is from memory."""

    def loss(given):
        return contrast_of_cmim(unit_rows(given["mu"] + jnp.exp(given["logvar"] / 2) * LATENTS[2]))

    value, slopes = quick_jit(jax.value_and_grad(loss))({"mu": LATENTS[0], "logvar": LATENTS[1]})
    assert value == pytest.approx(CMIM["expected"], rel=1e-4)
    assert norms(slopes) == pytest.approx(CMIM["extra"]["grad_norm"], rel=1e-3)
    rows = np.random.default_rng(0).normal(size=(512, 8))
    logits = 2 * rows @ rows.T / np.linalg.norm(rows, axis=1) / np.linalg.norm(rows, axis=1)[:, None]
    means, sums = (
        [float(jnp.diagonal(f(logits[:n, :n], 1 - np.eye(n), None) - logits[:n, :n]).mean()) for n in (32, 512)]
        for f in (mean_negatives, own)
    )
    assert means[1] == pytest.approx(means[0], rel=0.1)
    assert sums[1] > sums[0] + 2


def test_noise_is_of_the_image_its_copy_and_the_view():
    ids = np.array([5, 9, 5, 7], np.int32)
    drawn = noise(jax.random.key(1), {"id": jnp.asarray(ids)}, (8, 3)).reshape(4, 2, 3)
    order = np.array([3, 0, 1, 2])
    again = noise(jax.random.key(1), {"id": jnp.asarray(ids[order])}, (8, 3)).reshape(4, 2, 3)
    np.testing.assert_array_equal(again, drawn[order])
    assert len(np.unique(np.asarray(drawn).round(6))) == 24


@pytest.mark.parametrize("preset", ["coca", "cosmo", "a_mim", "cmim"])
def test_one_view_is_enough(preset):
    assert needed_views(PRESETS[preset].objective) == 1


TEXT = {"model__text__layers": 1, "model__text__multimodal": 1}


def test_what_does_not_go_together_is_said_at_once():
    config = tiny_config(objective__preset="coca", **TEXT)
    config.model.update(encoder="mlp1", patch_dropout=0.5)
    config.model.text.update(multimodal=0)
    config.loss.grad_cache = 2
    config.data.caption = "mean"
    wrong = {problem.field: str(problem) for problem in find_problems(config)}
    assert {"model.encoder", "model.text.multimodal", "loss.grad_cache", "data.caption"} <= set(wrong)
    assert "Set --config.model.text.multimodal=2" in wrong["model.text.multimodal"]
    config = tiny_config(objective__preset="clip", model__text__layers=1)
    config.model.text.multimodal = 1
    assert [problem.field for problem in find_problems(config)] == ["model.text.multimodal"]
    config = tiny_config(objective__preset="cmim", views=1)
    config.data.source = "vectors"
    assert "data.source" in {problem.field for problem in find_problems(config)}
    config = tiny_config(objective__preset="cmim", views=1)
    config.objective.widths = (8, 4)
    assert [problem.field for problem in find_problems(config)] == ["objective.widths"]
    captioning = {"name": "captioning", "x": "image", "y": "image"}
    (problem,) = problems(preset="clip", terms=(captioning,))
    assert "an objective with a decoder" in str(problem)
    assert "coca, cosmo" in str(problem)


COLORS = 4  # tokens 3 to 6 name the colors of images


def colored(config, seed):
    """A batch of images of one color each, whose captions are one word for all and the word of the color."""
    rng, batch = np.random.default_rng(seed), random_batch(config, seed)
    color = rng.integers(0, COLORS, config.batch_size)
    palette = np.array([[230, 20, 20], [20, 230, 20], [20, 20, 230], [230, 230, 20]], np.uint8)
    batch["image"] = np.broadcast_to(palette[color][:, None, None], batch["image"].shape).copy()
    batch["caption_tokens"] = np.zeros((config.batch_size, config.model.text.length), np.int32)
    batch["caption_tokens"][:, :4] = np.stack([np.full_like(color, 1), 7 + 0 * color, 3 + color, 0 * color + 2], axis=1)
    return batch


def on_one_device(config, parts, state, batch):
    """(loss, {loss, caption_loss, contrastive_loss}) of a step."""
    inputs = make_inputs(config, parts.objective, state, batch, parts.steps)
    loss_of = make_loss(config, parts.model, parts.objective, None)
    loss, (_, _, metrics, *_) = loss_of(state.params, state.statistics, inputs)
    return loss, {name: metrics[name] for name in ("loss", "caption_loss", "contrastive_loss")}


@pytest.mark.usefixtures("linear_encoder")
def test_a_decoder_learns_to_look_at_the_image_on_any_number_of_devices():
    config = tiny_config(
        objective__preset="coca", views=1, optimizer__learning_rate=1e-2, steps=40, augment__crop_scale=(),
        augment__jitter=0.0, augment__gray=0.0, optimizer__warmup=0.0, optimizer__schedule="constant", **TEXT,
    )  # fmt: skip
    parts = tiny_parts(config, jax.devices()[:2])
    state = parts.new_state()
    batch = {name: random_batch(config)[name] for name in parts.abstract_batch}
    on_one = jax.device_put(jax.device_get(state), jax.devices()[0])
    _, whole = quick_jit(lambda state, batch: on_one_device(config, parts, state, batch))(on_one, batch)
    state, metrics = parts.train_step(state, to_global(batch, parts.mesh))
    first = fetch_scalars(metrics)
    for name, value in whole.items():
        assert first[name] == pytest.approx(float(value), rel=2e-5), name
    assert first["loss"] == pytest.approx(first["contrastive_loss"] + 2 * first["caption_loss"], rel=1e-5)
    assert first["perplexity"] == pytest.approx(math.exp(first["caption_loss"]), rel=1e-5)
    for step in range(40):
        batch = {name: colored(config, step)[name] for name in parts.abstract_batch}
        state, metrics = parts.train_step(state, to_global(batch, parts.mesh))
    assert fetch_scalars(metrics)["perplexity"] < 1.2
    batch = colored(config, 99)
    partner = partners_in(batch["caption_tokens"], np.ones(config.batch_size, bool))
    assert (batch["caption_tokens"][partner] != batch["caption_tokens"]).any(axis=1).all()
    sums = np.asarray(caption_losses(parts)(state, batch["image"], batch["caption_tokens"], partner))
    assert (sums[:, 1] > sums[:, 0] + 1).all()  # nats: the word is another


def test_partners_have_other_captions_and_rows_without_are_left_out():
    tokens = np.array([[1, 3], [1, 3], [1, 4], [1, 5], [1, 3]])
    assert partners_in(tokens, np.array([True, True, True, False, True])).tolist() == [2, 2, 4, -1, 2]
    assert partners_in(tokens[:2], np.ones(2, bool)).tolist() == [-1, -1]
    assert partners_in(tokens, np.zeros(5, bool)).tolist() == [-1] * 5
