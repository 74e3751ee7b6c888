"""Types of parameters and moments: what is kept in bfloat16, what stays float32, and rounding without bias."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives.synthetic import LinearEncoder
from tests.tiny import random_batch, tiny_config, tiny_parts
from xsample_jax.models import towers
from xsample_jax.objectives.learned_state import LOG_SCALE
from xsample_jax.optim import make_optimizer
from xsample_jax.sharding import fetch_scalars, to_global
from xsample_jax.state import stochastic_round, updated

KEY = jax.random.key(0)


@pytest.fixture
def _linear_encoder(monkeypatch):
    monkeypatch.setitem(towers.ENCODERS, "resnet18", lambda config, rngs: LinearEncoder(rngs))


def test_rounding_gives_a_neighbor_with_the_right_probability():
    low, high = np.float32(1.0), np.float32(1.0 + 2**-7)  # neighbors in bfloat16
    for share in (0.1, 0.5, 0.85):
        value = low + np.float32(share) * (high - low)
        for sign in (1, -1):
            rounded = np.asarray(stochastic_round(jnp.full(20_000, sign * value), KEY), np.float32) * sign
            assert set(np.unique(rounded)) == {low, high}
            assert np.mean(rounded == high) == pytest.approx(share, abs=0.02)  # 5 standard deviations


def test_rounding_keeps_what_a_bfloat16_can_say():
    exact = jnp.array([0.0, -0.0, 1.0, -2.5, 2.0**-120, 3e38, jnp.inf, -jnp.inf, jnp.nan], jnp.bfloat16)
    rounded = stochastic_round(exact.astype(jnp.float32), KEY)
    np.testing.assert_array_equal(rounded.astype(jnp.float32), exact.astype(jnp.float32))


def test_small_updates_are_not_lost():
    """1,000 updates of 1e-4 on 1: rounding to nearest would leave 1."""
    params = {"a": jnp.ones(500, jnp.bfloat16), "b": jnp.ones(500, jnp.float32)}
    change = {name: jnp.full(500, 1e-4) for name in params}

    def one(params, key):
        return updated(params, change, key), None

    params, _ = jax.lax.scan(one, params, jax.random.split(KEY, 1000))
    assert params["a"].dtype == jnp.bfloat16
    assert np.mean(np.asarray(params["a"], np.float32)) == pytest.approx(1.1, abs=0.005)
    np.testing.assert_allclose(params["b"], 1.1, rtol=1e-4)
    spread = np.std(np.asarray(params["a"], np.float32))
    assert 0.005 < spread < 0.1  # every entry is rounded by a number of its own


@pytest.mark.usefixtures("_linear_encoder")
def test_bfloat16_parameters_in_the_whole_step():
    config = tiny_config(
        objective__preset="momentum_distillation",
        precision__params="bfloat16",
        precision__moments="bfloat16",
        optimizer__ema=0.9,
        optimizer__warmup=0.0,
        objective__teacher=0.9,
    )
    states, losses = [], []
    for devices in (1, 4):
        parts = tiny_parts(config, jax.devices()[:devices])
        state = parts.new_state()
        for step in range(2):
            batch = {name: random_batch(config, step)[name] for name in parts.abstract_batch}
            state, metrics = parts.train_step(state, to_global(batch, parts.mesh))
        states.append(jax.device_get(state))
        losses.append(fetch_scalars(metrics)["loss"])
        assert metrics["loss"].dtype == jnp.float32
    one = states[0]
    assert {name for name, leaf in one.params.items() if leaf.dtype != jnp.bfloat16} == {LOG_SCALE}
    adam = one.opt_state[0]
    assert {leaf.dtype for leaf in jax.tree.leaves(adam.mu)} == {jnp.dtype(jnp.bfloat16)}
    assert {leaf.dtype for leaf in jax.tree.leaves(adam.nu)} == {np.dtype(np.float32)}
    for kept in (one.statistics, one.ema, one.memory):
        floats = {leaf.dtype for leaf in kept.values() if jnp.issubdtype(leaf.dtype, jnp.floating)}
        # The captions of a queue stay float16, as they are stored.
        assert floats - {np.dtype(np.float16)} == {np.dtype(np.float32)}
    # The random rounding does not depend on the number of devices either.
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    full = tiny_parts(tiny_config(objective__preset="momentum_distillation"), jax.devices()[:1]).abstract_state
    size = lambda tree: sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))  # noqa: E731
    assert size(one.params) == pytest.approx(size(full.params) / 2, rel=0.01)
    assert size(one.opt_state) == pytest.approx(size(full.opt_state) * 3 / 4, rel=0.01)


@pytest.mark.parametrize("name", ["lars", "adamw"])
def test_moments_in_bfloat16_change_the_update_by_their_rounding_only(name):
    params = {"kernel": jnp.linspace(-1, 1, 64).reshape(8, 8), "bias": jnp.linspace(0, 1, 8)}
    gradient = jax.tree.map(lambda leaf: jnp.sin(7 * leaf) + 0.3, params)
    found = {}
    for moments in ("float32", "bfloat16"):
        config = tiny_config(optimizer__name=name, optimizer__warmup=0.0, precision__moments=moments)
        transformation, _ = make_optimizer(config, 10)
        state = transformation.init(params)
        for _ in range(3):
            updates, state = transformation.update(gradient, state, params)
        found[moments] = updates
        kinds = {leaf.dtype for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating)}
        assert (jnp.dtype(jnp.bfloat16) in kinds) == (moments == "bfloat16")
        assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype(jnp.float32)}
    for exact, coarse in zip(*(jax.tree.leaves(updates) for updates in found.values()), strict=True):
        scale = np.abs(exact).max()
        np.testing.assert_allclose(coarse, exact, atol=0.01 * scale)
        assert np.abs(coarse - exact).max() > 1e-5 * scale
