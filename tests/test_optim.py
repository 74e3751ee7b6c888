"""The update rule against arithmetic in numpy, written from the papers."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from xsample_jax.config import default_config
from xsample_jax.errors import ConfigError
from xsample_jax.optim import make_optimizer, peak_learning_rate, rescale_parameters

RNG = np.random.default_rng(0)
PARAMETERS = {
    "encoder/conv/kernel": RNG.normal(size=(3, 3, 2, 4)).astype(np.float32),
    "encoder/bn/scale": np.ones(4, np.float32),
    "text/position": RNG.normal(size=(5, 4)).astype(np.float32),
    "log_scale": np.float32(2.3),
}
RESCALED = {"encoder/conv/kernel"}


def config_with(**changes):
    config = default_config()
    config.batch_size = changes.pop("batch_size", 256)
    config.optimizer.update(changes)
    return config


def random_gradients(count):
    return [
        {name: np.asarray(RNG.normal(size=p.shape), np.float32) for name, p in PARAMETERS.items()} for _ in range(count)
    ]


def run(config, gradients, steps):
    """Parameters after each of the updates with the given gradients."""
    transformation, _ = make_optimizer(config, steps)
    parameters = jax.tree.map(jnp.asarray, PARAMETERS)
    state = transformation.init(parameters)
    history = []
    for gradient in gradients:
        updates, state = jax.jit(transformation.update)(gradient, state, parameters)
        parameters = optax.apply_updates(parameters, updates)
        history.append(parameters)
    return history


def test_lars_by_hand():
    config = config_with(
        name="lars", learning_rate=0.075, lr_scaling="sqrt", batch_size=1024, weight_decay=0.01, warmup=0.5
    )
    gradients = random_gradients(3)
    history = run(config, gradients, steps=6)  # three updates of warm-up: a third, two thirds, all of the peak
    rates = [2.4 / 3, 2.4 * 2 / 3, 2.4]
    for name, start in PARAMETERS.items():
        p, velocity = start.astype(np.float64), 0.0
        for rate, gradient, after in zip(rates, gradients, history, strict=True):
            g = gradient[name].astype(np.float64)
            if name in RESCALED:
                g = g + 0.01 * p
                g = g * 0.001 * np.sqrt((p**2).sum()) / np.sqrt((g**2).sum())
            velocity = 0.9 * velocity + rate * g
            p = p - velocity
            np.testing.assert_allclose(after[name], p, rtol=2e-5, atol=1e-6, err_msg=name)


def test_adamw_by_hand():
    config = config_with(name="adamw", learning_rate=0.01, weight_decay=0.1, b1=0.8, b2=0.95, warmup=0.0)
    gradients = random_gradients(3)
    history = run(config, gradients, steps=4)
    rates = [0.01 * 0.5 * (1 + math.cos(math.pi * t / 4)) for t in range(3)]
    for name, start in PARAMETERS.items():
        p, m, v = start.astype(np.float64), 0.0, 0.0
        for t, (rate, gradient, after) in enumerate(zip(rates, gradients, history, strict=True), 1):
            g = gradient[name].astype(np.float64)
            m, v = 0.8 * m + 0.2 * g, 0.95 * v + 0.05 * g**2
            step = (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.95**t)) + 1e-8)
            decay = 0.1 * p if name in RESCALED else 0.0
            p = p - rate * (step + decay)
            np.testing.assert_allclose(after[name], p, rtol=2e-5, atol=1e-6, err_msg=name)


def test_clipping_scales_all_gradients_by_one_factor():
    gradients = random_gradients(1)
    norm = math.sqrt(sum(float((g.astype(np.float64) ** 2).sum()) for g in gradients[0].values()))
    clipped = jax.tree.map(lambda g: (g / norm * 0.5).astype(np.float32), gradients[0])
    # epsilon would hide a missing clip in AdamW's first step, so the two moments are compared instead.
    transformation, _ = make_optimizer(config_with(clip_norm=0.5), 10)
    state = transformation.init(PARAMETERS)
    _, state = transformation.update(gradients[0], state, PARAMETERS)
    moments = optax.tree_utils.tree_get(state, "mu")
    for name, g in clipped.items():
        np.testing.assert_allclose(moments[name], 0.1 * g, rtol=1e-5)


@pytest.mark.parametrize(
    ("scaling", "batch", "peak"),
    [("none", 1024, 0.075), ("sqrt", 1024, 2.4), ("linear", 1024, 0.3), ("sqrt", 4096, 4.8), ("linear", 64, 0.01875)],
)
def test_peak_learning_rate(scaling, batch, peak):
    config = config_with(learning_rate=0.075, lr_scaling=scaling, batch_size=batch)
    assert peak_learning_rate(config) == pytest.approx(peak, rel=1e-12)
    _, schedule = make_optimizer(config, 100)
    assert max(float(schedule(t)) for t in range(100)) == pytest.approx(peak, rel=1e-6)


def test_warmup_then_cosine():
    _, schedule = make_optimizer(config_with(learning_rate=2.0, warmup=0.1), 100)
    rates = np.array([schedule(t) for t in range(101)])
    np.testing.assert_allclose(rates[:10], 2.0 * np.arange(1, 11) / 10, rtol=1e-6)
    np.testing.assert_allclose(rates[10:], 1 + np.cos(np.pi * np.arange(91) / 90), rtol=1e-5, atol=1e-6)
    assert rates[-1] == pytest.approx(0, abs=1e-6)
    assert rates[55] == pytest.approx(1.0, rel=1e-5)  # halfway down


def test_constant_after_warmup():
    _, schedule = make_optimizer(config_with(learning_rate=2.0, warmup=0.5, schedule="constant"), 4)
    assert [float(schedule(t)) for t in range(5)] == [1.0, 2.0, 2.0, 2.0, 2.0]


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.9])
def test_short_runs_move_at_every_step_and_reach_the_peak(steps, warmup):
    _, schedule = make_optimizer(config_with(learning_rate=0.5, warmup=warmup), steps)
    rates = [float(schedule(t)) for t in range(steps)]
    assert all(math.isfinite(rate) and rate > 0 for rate in rates)
    assert max(rates) == 0.5


def test_schedule_is_traceable():
    _, schedule = make_optimizer(config_with(), 50)
    traced = jax.jit(jax.vmap(schedule))(jnp.arange(50))
    assert traced.dtype == jnp.float32
    np.testing.assert_allclose(traced, [float(schedule(t)) for t in range(50)], rtol=1e-6)


def test_what_is_decayed():
    zeros = {
        "conv/kernel": jnp.zeros((3, 3, 2, 2)),
        "tokens/embedding": jnp.zeros((9, 2)),
        "conv/bias": jnp.zeros(2),
        "attention/bias": jnp.zeros((2, 2)),
        "bn/scale": jnp.zeros(2),
        "vit/position": jnp.zeros((4, 2)),
        "scaled_conv/kernel": jnp.zeros((2, 2)),  # only whole names exclude
        "log_scale": jnp.zeros(()),
    }
    decayed = {"conv/kernel", "tokens/embedding", "scaled_conv/kernel"}
    assert {name for name, yes in rescale_parameters(zeros).items() if yes} == decayed
    nested: dict = {}
    for name, value in zeros.items():
        *path, leaf = name.split("/")
        inner = nested
        for part in path:
            inner = inner.setdefault(part, {})
        inner[leaf] = value
    flat, _ = jax.tree_util.tree_flatten_with_path(rescale_parameters(nested))
    assert {"/".join(entry.key for entry in path) for path, yes in flat if yes} == decayed


def test_every_matrix_of_the_models_is_decayed_and_nothing_else():
    from flax import nnx

    from xsample_jax.config import smoke
    from xsample_jax.models.towers import build_model

    for encoder in ("resnet18", "vit_ti"):
        config = default_config()
        config.model.encoder = encoder
        config.model.text.layers = 1
        config = smoke(config)
        model = nnx.eval_shape(lambda config=config: build_model(config, "transformer", 20, rngs=nnx.Rngs(0)))
        parameters = nnx.to_pure_dict(nnx.state(model, nnx.Param))
        flat, _ = jax.tree_util.tree_flatten_with_path(rescale_parameters(parameters))
        decayed = {jax.tree_util.keystr(path[-1:]) for path, yes in flat if yes}
        kept = {jax.tree_util.keystr(path[-1:]) for path, yes in flat if not yes}
        assert decayed == {"['kernel']", "['embedding']"}
        assert kept <= {"['bias']", "['scale']", "['position']"}


def test_bad_input():
    with pytest.raises(ConfigError, match="at least one step"):
        make_optimizer(config_with(), 0)
    with pytest.raises(ConfigError, match="Did you mean adamw"):
        make_optimizer(config_with(name="adam"), 10)
