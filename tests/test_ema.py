"""The moving average of the model: its arithmetic, its place in checkpoints, and that evaluations look at it."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.tiny import random_batch, tiny_config, tiny_parts
from xsample_jax.checkpoint import Checkpoints
from xsample_jax.objectives.learned_state import TEACHER
from xsample_jax.sharding import fetch_scalars, to_global
from xsample_jax.state import Progress, warm_up

pytestmark = pytest.mark.usefixtures("shallow_resnet18")


def run(config, steps=3, devices=1):
    parts = tiny_parts(config, jax.devices()[:devices])
    state = parts.new_state()
    states, metrics = [jax.device_get(state)], []
    for step in range(steps):
        batch = {name: random_batch(config, step)[name] for name in parts.abstract_batch}
        state, found = parts.train_step(state, to_global(batch, parts.mesh))
        states.append(jax.device_get(state))
        metrics.append(fetch_scalars(found))
    return parts, state, states, metrics


def test_averages_parameters_and_statistics_with_a_warm_up(tmp_path):
    config = tiny_config(optimizer__ema=0.25, optimizer__warmup=0.0)
    parts, state, states, metrics = run(config)
    decays = [min(0.25, (1 + t) / (10 + t)) for t in (1, 2, 3)]
    assert decays[0] < decays[1] == decays[2] == 0.25
    assert [found["ema_decay"] for found in metrics] == pytest.approx(decays)
    everything = lambda state: state.params | state.statistics  # noqa: E731
    average = everything(states[0])
    assert states[0].ema.keys() == average.keys()
    for decay, state_ in zip(decays, states[1:]):
        average = {name: decay * old + (1 - decay) * everything(state_)[name] for name, old in average.items()}
        for name, value in average.items():
            np.testing.assert_allclose(state_.ema[name], value, rtol=1e-5, atol=1e-7, err_msg=name)
    last = states[-1]
    assert np.abs(last.ema["encoder/stem/norm/mean"] - last.statistics["encoder/stem/norm/mean"]).max() > 1e-4

    # Evaluations look at it, statistics included.
    images = random_batch(config)["image"]
    seen, _ = parts.encode(state, images)
    plain = dataclasses.replace(state, ema={})
    of_average = dataclasses.replace(
        plain,
        params={name: state.ema[name] for name in state.params},
        statistics={name: state.ema[name] for name in state.statistics},
    )
    np.testing.assert_array_equal(seen, parts.encode(of_average, images)[0])
    assert np.abs(seen - parts.encode(plain, images)[0]).max() > 1e-3

    # A checkpoint has it.
    checkpoints = Checkpoints(tmp_path, config.checkpoint)
    checkpoints.save(state, Progress(3, 48), "{}")
    checkpoints.wait()
    restored, _ = checkpoints.restore(parts.abstract_state)
    checkpoints.close()
    for name, value in last.ema.items():
        np.testing.assert_array_equal(restored.ema[name], value, err_msg=name)


@pytest.mark.parametrize("end", [1.0, 0.2, None])
def test_the_momentum_of_the_teacher_moves_to_its_end_by_half_a_cosine(end):
    """objective.teacher_end, BYOL's 1 - (1 - m) (cos(pi k / K) + 1) / 2 where it is 1."""
    changes = {} if end is None else {"objective__teacher_end": end}
    config = tiny_config(objective__preset="moco", objective__queue=16, objective__teacher=0.5, steps=4, **changes)
    _, _, states, metrics = run(config, steps=4)
    half = [(math.cos(math.pi * k / 4) + 1) / 2 for k in range(4)]
    momenta = [0.5 if end is None else end - (end - 0.5) * share for share in half]
    assert [found["teacher_momentum"] for found in metrics] == pytest.approx(momenta, rel=1e-6)
    for momentum, before, after in zip(momenta, states, states[1:]):
        for name in [name for name in after.memory if name.startswith(TEACHER)][:5]:
            expected = momentum * before.memory[name] + (1 - momentum) * after.params[name.removeprefix(TEACHER)]
            np.testing.assert_allclose(after.memory[name], expected, rtol=1e-5, atol=1e-7, err_msg=name)


def test_without_a_decay_there_is_none_and_training_is_the_same():
    _, state, _, metrics = run(tiny_config(), steps=1)
    assert state.ema == {}
    assert "ema_decay" not in metrics[0]
    assert state.averaged().params is not None
    _, with_average, _, other = run(tiny_config(optimizer__ema=0.9), steps=1)
    assert other[0]["loss"] == pytest.approx(metrics[0]["loss"], rel=1e-6)
    for name, value in state.params.items():
        np.testing.assert_allclose(value, with_average.params[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_warm_up_reaches_the_decay():
    assert float(warm_up(0.9999, jnp.int32(0))) == pytest.approx(0.1)
    assert float(warm_up(0.99, jnp.int32(10_000))) == pytest.approx(0.99)


def test_it_is_split_over_devices_as_the_parameters_are():
    config = tiny_config(optimizer__ema=0.9, mesh__fsdp=4, model__width=32, model__head__hidden=(256,))
    state = tiny_parts(config, jax.devices()[:4]).abstract_state
    split = [name for name, leaf in state.params.items() if not leaf.sharding.is_fully_replicated]
    assert split
    for name, leaf in state.params.items():
        assert state.ema[name].sharding == leaf.sharding, name
