"""Every optimizer of the table: its first updates by hand, split over devices, saved and restored."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.objectives.synthetic import LinearEncoder
from tests.tiny import random_batch, tiny_config, tiny_parts
from xsample_jax import sharding
from xsample_jax.checkpoint import Checkpoints, with_shardings
from xsample_jax.config import find_problems
from xsample_jax.models import towers
from xsample_jax.optim import OPTIMIZERS, SCHEDULE_FREE, averaged, make_optimizer
from xsample_jax.state import Progress, TrainState

RNG = np.random.default_rng(0)
MATRIX, BIAS, FIRST = "encoder/blocks/0/mlp/kernel", "encoder/blocks/0/mlp/bias", "encoder/stem/kernel"
SHAPES = {MATRIX: (8, 16), BIAS: (16,), FIRST: (3, 3, 2, 8)}
PARAMETERS = {name: RNG.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
GRADIENTS = [{name: RNG.normal(size=s).astype(np.float32) for name, s in SHAPES.items()} for _ in range(4)]
RATE, DECAY = 0.05, 0.1


def config_for(name, **changes):
    plain = {"schedule": "constant", "warmup": 0.0, "learning_rate": RATE, "weight_decay": DECAY, "name": name}
    return tiny_config(**{f"optimizer__{key}": value for key, value in (plain | changes).items()})


def run(config, gradients=GRADIENTS, parameters=PARAMETERS):
    """Parameters after each update, and the last state."""
    optimizer, _ = make_optimizer(config, len(gradients))
    parameters = jax.tree.map(jnp.asarray, parameters)
    state, history = optimizer.init(parameters), []
    update = jax.jit(optimizer.update)
    for gradient in gradients:
        updates, state = update(gradient, state, parameters)
        parameters = optax.apply_updates(parameters, updates)
        history.append(parameters)
    return history, state


def by_hand(step):
    """The parameters after all GRADIENTS, where step(t, name, p, g, memory) returns the new p, all float64."""
    out = {}
    for name, start in PARAMETERS.items():
        p, memory = start.astype(np.float64), {"m": 0.0, "v": 0.0}
        for t, gradient in enumerate(GRADIENTS, 1):
            p = step(t, name, p, gradient[name].astype(np.float64), memory)
        out[name] = p
    return out


def agree(config, step, rtol=2e-5):
    history, _ = run(config)
    for name, value in by_hand(step).items():
        np.testing.assert_allclose(history[-1][name], value, rtol=rtol, atol=2e-6, err_msg=name)


def decay_of(name, p):
    return 0.0 if name == BIAS else DECAY * p


def test_sgd():
    def step(t, name, p, g, memory):
        memory["m"] = 0.8 * memory["m"] + g + decay_of(name, p)
        return p - RATE * memory["m"]

    agree(config_for("sgd", momentum=0.8), step)


def test_lamb():
    """Algorithm 2 of the paper; biases are not rescaled."""

    def step(t, name, p, g, memory):
        memory["m"], memory["v"] = 0.9 * memory["m"] + 0.1 * g, 0.95 * memory["v"] + 0.05 * g**2
        r = memory["m"] / (1 - 0.9**t) / (np.sqrt(memory["v"] / (1 - 0.95**t)) + 1e-6) + decay_of(name, p)
        ratio = 1.0 if name == BIAS else math.sqrt((p**2).sum()) / math.sqrt((r**2).sum())
        return p - RATE * ratio * r

    agree(config_for("lamb", b1=0.9, b2=0.95), step)


def test_lion():
    """Algorithm 2 of the paper: the sign is of a mixture that the momentum has not seen yet."""

    def step(t, name, p, g, memory):
        direction = np.sign(0.9 * memory["m"] + 0.1 * g)
        memory["m"] = 0.99 * memory["m"] + 0.01 * g
        return p - RATE * (direction + decay_of(name, p))

    agree(config_for("lion", b1=0.9, b2=0.99), step)


def test_adafactor():
    """Algorithm 4 for arrays below the size that is factored: clipped by root mean square, then the momentum."""

    def step(t, name, p, g, memory):
        beta = 1 - t**-0.8
        memory["v"] = beta * memory["v"] + (1 - beta) * (g**2 + 1e-30)
        u = g / np.sqrt(memory["v"])
        u = u / max(1.0, math.sqrt((u**2).mean()))
        memory["m"] = 0.9 * memory["m"] + 0.1 * u
        return p - RATE * (memory["m"] + decay_of(name, p))

    agree(config_for("adafactor", b1=0.9), step)


def test_adafactor_keeps_rows_and_columns_of_large_matrices():
    large = {"a/kernel": np.ones((256, 128), np.float32)}
    state = make_optimizer(config_for("adafactor", b1=0.0), 4)[0].init(large)
    assert sum(leaf.size for leaf in jax.tree.leaves(state)) < 500


def test_muon_makes_matrices_orthogonal_and_leaves_the_rest_to_adam():
    history, _ = run(config_for("muon", weight_decay=0.0, momentum=0.0, b1=0.0), GRADIENTS[:1])
    moved = (np.asarray(history[0][MATRIX]) - PARAMETERS[MATRIX]) / -RATE
    # Five steps of Newton-Schulz with these coefficients bring singular values to 0.7 .. 1.2 of one another's.
    values = np.linalg.svd(moved, compute_uv=False)
    assert values.max() / values.min() < 1.8
    assert values.mean() == pytest.approx(0.2 * math.sqrt(16), rel=0.25)  # 0.2 per element, as sqrt(max(8, 16))
    u, _, vt = np.linalg.svd(GRADIENTS[0][MATRIX], full_matrices=False)
    assert (moved * (u @ vt)).sum() / np.linalg.norm(moved) / np.linalg.norm(u @ vt) > 0.97
    for name in (BIAS, FIRST):  # the first step of Adam is the sign of the gradient
        moved = (np.asarray(history[0][name]) - PARAMETERS[name]) / -RATE
        np.testing.assert_allclose(moved, np.sign(GRADIENTS[0][name]), rtol=1e-3)


def test_muon_takes_a_convolution_for_one_matrix():
    conv = {"encoder/stages/0/0/conv1/kernel": RNG.normal(size=(3, 3, 4, 8)).astype(np.float32)}
    config = config_for("muon", weight_decay=0.0, momentum=0.0)
    (after,), _ = run(config, [jax.tree.map(np.sin, conv)], conv)
    (path,) = conv
    values = np.linalg.svd(((np.asarray(after[path]) - conv[path]) / RATE).reshape(36, 8), compute_uv=False)
    assert values.max() / values.min() < 1.8
    assert values.mean() == pytest.approx(0.2 * math.sqrt(36), rel=0.25)


def test_schedule_free():
    """Equations 3 to 5 of the paper with AdamW's steps, where all weights of the mean are equal."""
    z = {name: p.astype(np.float64) for name, p in PARAMETERS.items()}
    x, v, y = dict(z), dict.fromkeys(z, 0.0), dict(z)
    history, state = run(config_for(SCHEDULE_FREE, b1=0.8, b2=0.95))
    for t, gradient in enumerate(GRADIENTS, 1):
        for name in z:
            g = gradient[name].astype(np.float64)
            v[name] = 0.95 * v[name] + 0.05 * g**2
            z[name] = z[name] - RATE * (g / (np.sqrt(v[name] / (1 - 0.95**t)) + 1e-8) + decay_of(name, y[name]))
            x[name] = (1 - 1 / t) * x[name] + z[name] / t
            y[name] = 0.2 * z[name] + 0.8 * x[name]
            np.testing.assert_allclose(history[t - 1][name], y[name], rtol=1e-4, atol=1e-5)
    for name, value in averaged(state, history[-1]).items():
        np.testing.assert_allclose(value, x[name], rtol=1e-4, atol=1e-5)
    assert averaged(run(config_for("adamw"))[1], history[-1]) is None


def test_sam_moves_by_the_gradient_further_up():
    """By hand, on a quadratic with another curvature of each matrix; frozen parameters count for nothing."""
    rules = ({"parameters": "bias$", "freeze": True},)
    config = config_for("sgd", sam=0.3, momentum=0.0, weight_decay=0.0, rules=rules, clip_norm=0.5)
    optimizer, _ = make_optimizer(config, 4)
    curvature = {MATRIX: 1.0, BIAS: 0.0, FIRST: 4.0}
    gradient_of = lambda params, _: {name: curvature[name] * value for name, value in params.items()}  # noqa: E731
    gradient = gradient_of(PARAMETERS, 0)
    updates, _ = optimizer.update(gradient, optimizer.init(PARAMETERS), PARAMETERS, grad_fn=gradient_of)
    length = np.sqrt(sum((value**2).sum() for value in gradient.values()))
    there = gradient_of({name: PARAMETERS[name] + 0.3 * gradient[name] / length for name in PARAMETERS}, 0)
    clip = 0.5 / np.sqrt(sum((value**2).sum() for value in there.values()))
    for name, value in updates.items():
        np.testing.assert_allclose(value, -RATE * clip * there[name], rtol=1e-5, atol=1e-8)
    still = {name: np.zeros_like(value) for name, value in PARAMETERS.items()}
    updates, _ = optimizer.update(still, optimizer.init(still), still, grad_fn=gradient_of)
    assert all((value == 0).all() for value in updates.values())


def test_a_step_of_sam_is_the_step_from_further_up_but_for_what_the_first_pass_gives(monkeypatch):
    monkeypatch.setitem(towers.ENCODERS, "resnet18", lambda config, rngs: LinearEncoder(rngs))

    def stepped(state=None, **changes):
        config = config_for("sgd", momentum=0.0, weight_decay=0.0, learning_rate=1.0, **changes)
        parts = parts_of.setdefault(str(changes), tiny_parts(config, jax.devices()[:1]))
        state = parts.new_state() if state is None else state
        batch = {name: value for name, value in random_batch(config).items() if name in parts.abstract_batch}
        before = jax.tree.map(np.asarray, state.params)
        new, metrics = parts.train_step(state, batch)
        return before, jax.tree.map(np.asarray, new.params), new.statistics, metrics["loss"], parts

    parts_of = {}
    start, plain, statistics, loss, parts = stepped()
    gradient = {name: start[name] - plain[name] for name in start}
    length = np.sqrt(sum((value**2).sum() for value in gradient.values()))
    up = {name: jnp.asarray(start[name] + 0.5 * gradient[name] / length) for name in start}
    above, below, *_ = stepped(dataclasses.replace(parts.new_state(), params=up))
    _, found, of_sam, loss_of_sam, _ = stepped(sam=0.5)
    for name in start:
        expected = start[name] + below[name] - above[name]
        np.testing.assert_allclose(found[name], expected, rtol=1e-3, atol=1e-5, err_msg=name)
    assert max(np.abs(found[name] - plain[name]).max() for name in start) > 1e-3
    assert statistics
    assert float(loss_of_sam) == pytest.approx(float(loss), rel=1e-6)
    for name, value in statistics.items():
        np.testing.assert_allclose(of_sam[name], value, rtol=1e-5, atol=1e-6)


def test_evaluations_see_the_mean_of_schedule_free(monkeypatch):
    monkeypatch.setitem(towers.ENCODERS, "resnet18", lambda config, rngs: LinearEncoder(rngs))
    config = config_for(SCHEDULE_FREE, learning_rate=1.0)
    parts = tiny_parts(config, jax.devices()[:1])
    state = parts.new_state()
    for seed in range(2):
        batch = random_batch(config, seed)
        state, _ = parts.train_step(state, {name: batch[name] for name in parts.abstract_batch})
    expected, seen = averaged(state.opt_state, state.params), state.averaged()
    for name, value in expected.items():
        np.testing.assert_allclose(seen.params[name], value, rtol=1e-5, atol=1e-6)
    assert any(np.abs(seen.params[name] - state.params[name]).max() > 1e-3 for name in expected)
    assert seen.statistics.keys() == state.statistics.keys()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_split_over_devices_saved_and_restored(name, monkeypatch, tmp_path):
    """8 devices with fsdp = 2 do what one does, and a restored state goes on with the same bits."""
    monkeypatch.setattr(sharding, "SMALLEST_SHARDED", 16)
    config = config_for(name, layer_decay=0.5, rules=({"parameters": "bias$", "freeze": True},))
    optimizer, _ = make_optimizer(config, 4)
    mesh = sharding.make_mesh(tiny_config(mesh__fsdp=2).mesh, 16, jax.devices())

    def start():
        params = jax.tree.map(jnp.asarray, PARAMETERS)
        return TrainState(jnp.int32(0), params, {}, optimizer.init(params), {}, {})

    def step(state, gradient):
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        return TrainState(state.step + 1, optax.apply_updates(state.params, updates), {}, opt_state, {}, {})

    shapes = jax.eval_shape(start)
    places = sharding.state_shardings(shapes, mesh, tiny_config().mesh.rules)
    split = jax.jit(start, out_shardings=places)()
    assert "fsdp" in split.params[MATRIX].sharding.spec
    of_matrix = [leaf for leaf in jax.tree.leaves(split.opt_state) if leaf.shape == SHAPES[MATRIX]]
    assert all("fsdp" in leaf.sharding.spec for leaf in of_matrix)
    update = jax.jit(step, in_shardings=(places, None), out_shardings=places)
    for gradient in GRADIENTS[:2]:
        split = update(split, gradient)
    checkpoints = Checkpoints(tmp_path, config.checkpoint)
    checkpoints.save(split, Progress(2, 32), "{}")
    checkpoints.wait()
    restored, _ = checkpoints.restore(with_shardings(shapes, places))
    checkpoints.close()
    for gradient in GRADIENTS[2:]:
        split, restored = update(split, gradient), update(restored, gradient)
    jax.tree.map(np.testing.assert_array_equal, restored, split)
    np.testing.assert_array_equal(split.params[BIAS], PARAMETERS[BIAS])  # frozen
    mean = averaged(split.opt_state, split.params)
    assert mean is None or np.array_equal(mean[BIAS], PARAMETERS[BIAS])
    whole, _ = run(config)
    for path, value in whole[-1].items():
        np.testing.assert_allclose(split.params[path], value, rtol=1e-4, atol=1e-5, err_msg=path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "sam"}, "sgd, lars, lamb"),
        ({"schedule": "wsd", "warmup": 0.5, "cooldown": 0.6}, "at most 0.5"),
        ({"schedule": "rsqrt", "warmup": 0.0}, "more than 0 with rsqrt"),
        ({"schedule": "constant", "final_rate": 0.1}, "0 with a constant schedule"),
        ({"final_weight_decay": -1.0}, "number >= 0"),
        ({"name": SCHEDULE_FREE, "schedule": "cosine"}, "constant with schedule_free"),
        ({"name": SCHEDULE_FREE, "schedule": "constant", "ema": 0.9}, "average of its own"),
        ({"name": SCHEDULE_FREE, "schedule": "constant", "b1": 0.0}, "more than 0"),
    ],
)
def test_bad_input(changes, message):
    config = tiny_config().copy_and_resolve_references().unlock()
    config.optimizer.update(changes)
    (problem,) = find_problems(config)
    assert message in str(problem)


def schedule_of(steps=100, **changes):
    return make_optimizer(config_for("adamw", learning_rate=2.0, **changes), steps)[1]


def test_linear_and_cosine_end_at_the_final_rate():
    linear = schedule_of(schedule="linear", warmup=0.2, final_rate=0.25)
    assert [float(linear(t)) for t in (0, 19, 20, 60, 100)] == pytest.approx([0.1, 2.0, 2.0, 1.25, 0.5])
    cosine = schedule_of(schedule="cosine", warmup=0.2, final_rate=0.25)
    assert [float(cosine(t)) for t in (20, 60, 100)] == pytest.approx([2.0, 1.25, 0.5])
    assert float(cosine(40)) == pytest.approx(2 * (0.25 + 0.75 * (1 + math.cos(math.pi / 4)) / 2))


def test_wsd_is_level_and_then_falls_on_a_line():
    rate = schedule_of(schedule="wsd", warmup=0.1, cooldown=0.2, final_rate=0.1)
    assert [float(rate(t)) for t in (4, 10, 50, 80)] == pytest.approx([1.0, 2.0, 2.0, 2.0])
    assert [float(rate(t)) for t in (90, 95, 100)] == pytest.approx([1.1, 0.65, 0.2])


def test_rsqrt_falls_with_the_root_and_cools_down_from_there():
    rate = schedule_of(schedule="rsqrt", warmup=0.1, cooldown=0.2)
    assert [float(rate(t)) for t in (4, 9, 39, 79)] == pytest.approx([1.0, 2.0, 1.0, 2 * math.sqrt(10 / 80)])
    start = 2 * math.sqrt(10 / 81)
    assert [float(rate(t)) for t in (80, 90, 100)] == pytest.approx([start, start / 2, 0.0], abs=1e-6)


def test_weight_decay_has_a_schedule_of_its_own():
    """SGD without gradient: each update shrinks a matrix by rate * decay(t)."""
    zeros = [jax.tree.map(np.zeros_like, PARAMETERS)] * 4
    history, _ = run(config_for("sgd", momentum=0.0, weight_decay=0.4, final_weight_decay=0.8), zeros)
    decays = [0.8 - 0.4 * 0.5 * (1 + math.cos(math.pi * t / 4)) for t in range(4)]
    shrunk = np.prod([1 - RATE * decay for decay in decays])
    np.testing.assert_allclose(history[-1][MATRIX], PARAMETERS[MATRIX] * shrunk, rtol=1e-6)
    np.testing.assert_array_equal(history[-1][BIAS], PARAMETERS[BIAS])
