"""Rematerialization: the same numbers, running statistics moved once, less memory by every policy."""

import jax
import numpy as np
import pytest
from flax import nnx

from tests.models.filled import normal
from tests.quick import quick_jit
from tests.tiny import random_batch, tiny_config, tiny_parts
from xsample_jax.errors import ConfigError
from xsample_jax.models import resnet, vit
from xsample_jax.models.layers import block_runner
from xsample_jax.models.towers import TextTower
from xsample_jax.sharding import to_global

TOKENS = np.array([[5, 6, 7, 2, 0, 0], [8, 2, 0, 0, 0, 0]], np.int32)
MODELS = {
    "resnet": (lambda remat: resnet.ResNet(18, 4, "cifar", remat=remat, rngs=nnx.Rngs(0)), normal(0, (4, 8, 8, 3))),
    "vit": (
        lambda remat: vit.ViT(vit.Shape(16, 2, 2), 4, 8, remat=remat, rngs=nnx.Rngs(0)),
        normal(1, (4, 8, 8, 3)),
    ),
    "text": (lambda remat: TextTower(20, 16, 2, 2, 6, 8, remat=remat, rngs=nnx.Rngs(0)), TOKENS),
}


@pytest.fixture(autouse=True)
def _small_encoders(monkeypatch):
    monkeypatch.setitem(resnet.LAYOUTS, 18, (resnet.BasicBlock, (2, 2)))
    monkeypatch.setitem(vit.VARIANTS, "ti", vit.Shape(64, 4, 2))


def loss_and_states(build, remat, inputs):
    """Function of the parameters -> (sum of squares of the output, new statistics), and the parameters."""
    structure, params, statistics = nnx.split(build(remat), nnx.Param, ...)

    def loss(params):
        model = nnx.merge(structure, params, statistics, copy=True)
        value = (model(inputs) ** 2).sum()
        return value, nnx.split(model, nnx.Param, ...)[2]

    return loss, params, statistics


@pytest.mark.parametrize("name", MODELS)
def test_values_gradients_and_statistics_are_the_same(name):
    build, inputs = MODELS[name]
    found = {}
    for remat in ("none", "dots", "block"):
        loss, params, before = loss_and_states(build, remat, inputs)
        found[remat] = jax.device_get(quick_jit(jax.value_and_grad(loss, has_aux=True))(params))
    (value, statistics), gradients = found["none"]
    moved = [np.abs(new - old).max() for new, old in zip(jax.tree.leaves(statistics), jax.tree.leaves(before))]
    assert len(moved) == 2 * 10 * (name == "resnet")
    assert all(change > 1e-4 for change in moved)
    for remat in ("dots", "block"):
        (other, other_statistics), other_gradients = found[remat]
        np.testing.assert_allclose(other, value, rtol=1e-6)
        for new, old in zip(jax.tree.leaves(other_statistics), jax.tree.leaves(statistics), strict=True):
            np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-7)
        for (path, leaf), expected in zip(
            jax.tree.leaves_with_path(other_gradients), jax.tree.leaves(gradients), strict=True
        ):
            scale = np.abs(expected).max() + 1e-6
            np.testing.assert_allclose(leaf, expected, atol=2e-5 * scale, err_msg=jax.tree_util.keystr(path))


def kept_bytes(build, remat, inputs):
    """Bytes that the forward pass leaves for the backward pass, parameters aside."""
    loss, params, _ = loss_and_states(build, remat, inputs)
    backward = jax.eval_shape(lambda params: jax.vjp(lambda p: loss(p)[0], params)[1], params)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(backward)) - sum(
        leaf.nbytes for leaf in jax.tree.leaves(params)
    )


@pytest.mark.parametrize("name", MODELS)
def test_each_policy_keeps_less_than_the_one_before(name):
    build, inputs = MODELS[name]
    inputs = np.repeat(inputs, 64, axis=0)
    none, dots, block = (kept_bytes(build, remat, inputs) for remat in ("none", "dots", "block"))
    assert block < 0.75 * dots
    assert dots < 0.75 * none


@pytest.mark.parametrize("encoder", ["resnet18", "vit_ti"])
def test_the_compiled_step_needs_less_memory(encoder):
    temporaries = {}
    for remat in ("none", "dots", "block"):
        config = tiny_config(
            model__encoder=encoder, model__head__batch_norm=False, model__width=16, model__remat=remat, batch_size=32,
            augment__crop_scale=(), augment__jitter=0.0, augment__gray=0.0,
        )  # fmt: skip
        parts = tiny_parts(config, jax.devices()[:1])
        compiled = parts.train_step.lower(parts.abstract_state, parts.abstract_batch).compile()
        temporaries[remat] = compiled.memory_analysis().temp_size_in_bytes
    assert temporaries["dots"] < 0.75 * temporaries["none"]
    assert temporaries["block"] < 0.9 * temporaries["dots"]


def test_with_grad_cache_and_an_ema_teacher_in_one_step(monkeypatch):
    monkeypatch.setitem(resnet.LAYOUTS, 18, (resnet.BasicBlock, (1,)))
    found = []
    for remat in ("none", "block"):
        config = tiny_config(objective__preset="moco", objective__queue=32, model__remat=remat, loss__grad_cache=2)
        parts = tiny_parts(config, jax.devices()[:1])
        batch = {name: random_batch(config)[name] for name in parts.abstract_batch}
        found.append(jax.device_get(parts.train_step(parts.new_state(), to_global(batch, parts.mesh))[1]))
    assert found[1]["loss"] == pytest.approx(found[0]["loss"], rel=1e-5)
    assert found[1]["gradient_norm"] == pytest.approx(found[0]["gradient_norm"], rel=1e-3)


def test_an_unknown_policy_is_refused_with_the_right_names():
    with pytest.raises(ConfigError, match=r"model\.remat = 'dot'.*block.*Did you mean dots"):
        block_runner("dot")
    with pytest.raises(ConfigError):
        vit.ViT(vit.Shape(16, 1, 2), 4, 8, remat="all", rngs=nnx.Rngs(0))
    assert block_runner("block") is block_runner("block")
    assert block_runner("none")(lambda x: x + 1, 1) == 2
