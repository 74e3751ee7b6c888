"""Memory through the whole train step: the EMA encoder, the queue, and numbers of single images."""

import jax
import numpy as np
import pytest

from tests.objectives.synthetic import LinearEncoder
from tests.tiny import random_batch, tiny_config, tiny_parts
from xsample_jax.models import towers
from xsample_jax.objectives.learned_state import UNSEEN, Average
from xsample_jax.sharding import fetch_scalars, to_global


@pytest.fixture(autouse=True)
def _linear_encoder(monkeypatch):
    monkeypatch.setitem(towers.ENCODERS, "resnet18", lambda config, rngs: LinearEncoder(rngs))


def run(preset, batches, **changes):
    """Config, [state at every step] and [metrics] of a run with plain views on the given batches."""
    config = tiny_config(
        objective__preset=preset,
        augment__crop_scale=(),
        augment__jitter=0.0,
        augment__gray=0.0,
        augment__flip=0.0,
        optimizer__learning_rate=0.1,
        optimizer__warmup=0.0,
        **changes,
    )
    parts = tiny_parts(config, jax.devices()[:2])
    state = parts.new_state()
    states, metrics = [jax.device_get(state)], []
    for batch in batches(config):
        batch = {name: batch[name] for name in parts.abstract_batch}
        state, found = parts.train_step(state, to_global(batch, parts.mesh))
        states.append(jax.device_get(state))
        metrics.append(fetch_scalars(found))
    assert parts.train_step._cache_size() == 1
    return config, states, metrics


def three(config):
    return [random_batch(config, step) for step in range(3)]


def test_teacher_and_queue_over_three_steps():
    momentum = 0.7
    config, states, metrics = run("moco", three, objective__teacher=momentum, objective__queue=32)
    first = states[0]
    named = [name for name in first.params if not name.startswith("objective/")]
    for name in named:
        np.testing.assert_array_equal(first.memory[f"teacher/{name}"], first.params[name])
        average = first.params[name]
        for state in states[1:]:
            average = momentum * average + (1 - momentum) * state.params[name]
            np.testing.assert_allclose(state.memory[f"teacher/{name}"], average, rtol=1e-5, atol=1e-7)
    assert any(np.abs(states[3].params[name] - states[3].memory[f"teacher/{name}"]).max() > 1e-3 for name in named)
    # 16 images a step, 32 places: two steps fill it, the third takes the place of the first.
    assert [int(state.memory["queue/filled"].sum()) for state in states] == [0, 16, 32, 32]
    assert [int(state.memory["queue/next"]) for state in states] == [0, 16, 0, 16]
    one, two, three_ = (state.memory["queue/z"] for state in states[1:])
    np.testing.assert_array_equal(one[16:], 0)
    np.testing.assert_array_equal(two[:16], one[:16])
    np.testing.assert_array_equal(three_[16:], two[16:])
    assert not np.allclose(three_[:16], two[:16])
    np.testing.assert_allclose(np.linalg.norm(three_, axis=1), 1, rtol=1e-5)
    # Side information moves with its rows.
    labels = [random_batch(config, step)["label"] for step in (2, 1)]
    np.testing.assert_array_equal(states[3].memory["queue/label"], np.concatenate(labels))
    assert all(np.isfinite(found["loss"]) for found in metrics)


def test_averages_belong_to_images_and_only_those_of_the_batch_move():
    def batches(config):
        first, second = random_batch(config, 0), random_batch(config, 1)
        first["index"], second["index"] = np.arange(16, dtype=np.int32), np.arange(8, 24, dtype=np.int32)
        return [first, second]

    _, states, metrics = run("isogclr", batches)
    zero, one, two = (state.memory for state in states)
    assert (zero["image/log_average"] == UNSEEN).all()
    assert (one["image/log_average"][16:] == UNSEEN).all()
    assert (two["image/log_average"][24:] == UNSEEN).all()
    np.testing.assert_array_equal(two["image/log_average"][:8], one["image/log_average"][:8])
    assert (two["image/log_average"][8:16] != one["image/log_average"][8:16]).all()
    # A moving average cannot fall faster than by the share that is forgotten.
    assert (two["image/log_average"][8:16] > one["image/log_average"][8:16] + np.log(1 - Average().gamma) - 1e-5).all()
    np.testing.assert_allclose(zero["image/temperature"], 0.07)
    moved = np.flatnonzero(two["image/temperature"] != np.float32(0.07))
    np.testing.assert_array_equal(moved, np.arange(24))
    assert all(np.isfinite(found["loss"]) for found in metrics)
