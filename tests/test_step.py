"""The train step: the same on any number of devices, donated, learning, and with the documented metrics."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tiny import random_batch, run_steps, tiny_config, tiny_parts
from xsample_jax import setup
from xsample_jax.models import resnet
from xsample_jax.objectives.learned_state import LOG_SCALE, temperature_of
from xsample_jax.sharding import fetch_scalars, to_global


@pytest.fixture(autouse=True)
def _one_block(monkeypatch):
    monkeypatch.setitem(resnet.LAYOUTS, 18, (resnet.BasicBlock, (1,)))


PRESETS = ("xclr", "clip")  # objectives alone: objectives/test_presets.py


def preset_config(preset, **changes):
    return tiny_config(
        objective__preset=preset,
        model__text__layers=1 if preset == "clip" else 0,
        optimizer__learning_rate=1e-3,
        **changes,
    )


@pytest.mark.parametrize("preset", PRESETS)
def test_losses_and_parameters_do_not_depend_on_the_number_of_devices(preset):
    config = preset_config(preset)
    _, one_state, one = run_steps(config, 1)
    _, many_state, many = run_steps(config, 8)
    for a, b in zip(one, many, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=2e-5)
        assert a["gradient_norm"] == pytest.approx(b["gradient_norm"], rel=1e-3)
    for name, value in one_state.statistics.items():
        np.testing.assert_allclose(value, many_state.statistics[name], rtol=1e-3, atol=1e-4, err_msg=name)


def test_fsdp_splits_the_state_and_changes_no_loss():
    wide = {"model__width": 64, "model__head__hidden": (256,)}
    _, _, whole = run_steps(preset_config("xclr", **wide), 4)
    _, state, split = run_steps(preset_config("xclr", mesh__fsdp=4, **wide), 4)
    assert [m["loss"] for m in split] == pytest.approx([m["loss"] for m in whole], rel=2e-5)
    large = {name: leaf for name, leaf in state.params.items() if leaf.size >= 2**14}
    assert large
    for name, leaf in large.items():
        assert leaf.addressable_shards[0].data.size * 4 == leaf.size, name
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.size >= 2**14]
    assert len(moments) == 2 * len(large)
    assert all(leaf.addressable_shards[0].data.size * 4 == leaf.size for leaf in moments)


def test_metrics_and_learning_on_one_batch():
    config = preset_config("xclr", steps=30, augment__crop_scale=(), augment__jitter=0.0, augment__gray=0.0,
                           augment__flip=0.0)  # fmt: skip
    parts = tiny_parts(config, jax.devices()[:1])
    state = parts.new_state()
    batch = {name: random_batch(config)[name] for name in parts.abstract_batch}
    history = []
    for _ in range(30):
        state, metrics = parts.train_step(state, to_global(batch, parts.mesh))
        history.append(fetch_scalars(metrics))
    first, last = history[0], history[-1]
    assert last["kl"] < 0.5 * first["kl"]
    assert last["kl"] == pytest.approx(last["loss"] - last["target_entropy"], abs=1e-5)
    assert {"learning_rate", "temperature", "gradient_norm", "own_view_mass", "same_class_mass"} <= set(last)
    assert int(state.step) == 30
    assert parts.train_step._cache_size() == 1  # one compilation for all steps


@pytest.mark.usefixtures("linear_encoder")
def test_learned_temperature_is_trained_and_reported():
    _, state, history = run_steps(preset_config("clip_frozen_text"), 1, steps=3)
    assert history[0]["temperature"] == pytest.approx(0.07, rel=1e-5)
    assert history[2]["temperature"] != history[0]["temperature"]
    assert state.params[LOG_SCALE].shape == ()
    _, state, _ = run_steps(preset_config("xclr"), 1, steps=1)
    assert LOG_SCALE not in state.params


@pytest.mark.usefixtures("linear_encoder")
def test_a_step_brings_a_temperature_of_a_checkpoint_back_into_its_bounds():
    """faults A4: with an average for evaluation, a batch in parts and two devices; then the parameter moves on."""
    config = tiny_config(
        objective__preset="clip_frozen_text",
        steps=100,
        optimizer__ema=0.5,
        optimizer__learning_rate=0.1,
        optimizer__warmup=0.0,
        loss__grad_cache=2,
    )
    parts = tiny_parts(config, jax.devices()[:2])
    state = parts.new_state()
    scale = jax.device_put(jnp.float32(9.0), state.params[LOG_SCALE].sharding)
    state = dataclasses.replace(
        state, params={**state.params, LOG_SCALE: scale}, ema={**state.ema, LOG_SCALE: jnp.copy(scale)}
    )
    seen, read = [], []
    for step in range(3):
        batch = {name: random_batch(config, step)[name] for name in parts.abstract_batch}
        state, metrics = parts.train_step(state, to_global(batch, parts.mesh))
        seen.append(float(state.params[LOG_SCALE]))
        read.append(float(metrics["temperature"]))
        averaged = temperature_of(parts.objective, state.averaged().params)
        assert 0.01 - 1e-6 <= float(averaged) <= 1 + 1e-6
    assert read[0] == pytest.approx(0.01, rel=1e-5)
    assert all(0 <= scale <= np.log(100) + 1e-5 for scale in seen)
    assert seen[-1] < np.log(100) - 0.1  # it does not stay at its bound


@pytest.mark.usefixtures("linear_encoder")
def test_class_text_graph_reads_class_embeddings():
    config = preset_config("xclr", objective__graph="class_text")
    parts = tiny_parts(config, jax.devices()[:1])
    assert set(parts.abstract_batch) == {"image", "id", "label"}  # embeddings are looked up by label
    _, _, dense = run_steps(config, 1, steps=1)
    _, _, by_class = run_steps(preset_config("xclr", objective__graph="class_text", loss__impl="streaming"), 1, steps=1)
    assert dense[0]["target_entropy"] < np.log(2 * config.batch_size - 1)
    for name in ("loss", "target_entropy", "same_class_mass", "gradient_norm"):
        assert by_class[0][name] == pytest.approx(dense[0][name], rel=1e-4), name


def test_bfloat16_keeps_parameters_and_loss_in_float32():
    config = preset_config("xclr", precision__compute="bfloat16")
    parts, state, history = run_steps(config, 1)
    assert all(leaf.dtype == jnp.float32 for leaf in state.params.values())
    exact = run_steps(preset_config("xclr"), 1)[2]
    assert history[0]["loss"] == pytest.approx(exact[0]["loss"], rel=0.05)
    assert history[0]["loss"] != exact[0]["loss"]
    batch = {name: random_batch(config)[name] for name in parts.abstract_batch}
    shapes = jax.eval_shape(parts.train_step, parts.abstract_state, batch)
    assert shapes[1]["loss"].dtype == jnp.float32


def test_a_new_state_is_traced_once(linear_encoder, monkeypatch):
    """Its shapes, which are needed before it is made, and the state itself have one trace: seconds of a large start."""
    traced = []
    monkeypatch.setattr(
        setup,
        "init_state",
        lambda *args, init_state=setup.init_state, **kw: traced.append(1) or init_state(*args, **kw),
    )
    parts = tiny_parts(preset_config("xclr"), jax.devices()[:1])
    state = parts.new_state({})  # no file of weights
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(lambda leaf: leaf.shape, parts.abstract_state)
    assert traced == [1]
