"""GradCache: the gradient of the whole batch without batch norm, with less memory; with it, means of statistics."""

import jax
import numpy as np
import pytest

from tests.tiny import random_batch, tiny_config, tiny_parts
from xsample_jax.config import load_config
from xsample_jax.errors import ConfigError
from xsample_jax.models.resnet import LAYOUTS, BasicBlock
from xsample_jax.models.vit import VARIANTS, Shape
from xsample_jax.sharding import fetch_scalars, to_global

ONE_BLOCK = Shape(192, 1, 3)


def one_step(config, devices=1):
    parts = tiny_parts(config, jax.devices()[:devices])
    batch = {name: random_batch(config)[name] for name in parts.abstract_batch}
    state, metrics = parts.train_step(parts.new_state(), to_global(batch, parts.mesh))
    return parts, state, fetch_scalars(metrics)


def vit(**changes):
    return tiny_config(
        model__encoder="vit_ti", model__patch_size=16, model__head__batch_norm=False, batch_size=16, **changes
    )


@pytest.fixture(scope="module")
def reference():
    """One step of the whole batch, (state, metrics), which those in parts are compared with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, "ti", ONE_BLOCK)
        return one_step(vit())[1:]


@pytest.mark.parametrize("devices", [1, 4])
def test_layer_norm_encoder_has_the_gradient_of_the_whole_batch(monkeypatch, reference, devices):
    monkeypatch.setitem(VARIANTS, "ti", ONE_BLOCK)
    whole, reference = reference
    _, state, metrics = one_step(vit(loss__grad_cache=4), devices)
    assert metrics["loss"] == pytest.approx(reference["loss"], rel=1e-5)
    assert metrics["gradient_norm"] == pytest.approx(reference["gradient_norm"], rel=1e-4)
    # AdamW's first moment after one step is (1 - b1) times the gradient, of every parameter.
    moments = jax.tree.leaves_with_path(state.opt_state)
    expected = dict(jax.tree.leaves_with_path(whole.opt_state))
    for path, moment in moments:
        if ".mu" in jax.tree_util.keystr(path):
            scale = np.abs(expected[path]).max() + 1e-9
            np.testing.assert_allclose(moment, expected[path], atol=1e-3 * scale, err_msg=str(path))


def test_batch_norm_statistics_are_means_over_the_parts(monkeypatch):
    monkeypatch.setitem(LAYOUTS, 18, (BasicBlock, (1,)))
    config = tiny_config(batch_size=16)
    _, whole, _ = one_step(config)
    _, parted, metrics = one_step(tiny_config(batch_size=16, loss__grad_cache=2))
    assert np.isfinite(metrics["loss"])
    first = next(name for name in whole.statistics if "stem" in name and name.endswith("mean"))
    # The mean over equal parts is the mean over the batch; the variance within parts is smaller.
    np.testing.assert_allclose(parted.statistics[first], whole.statistics[first], rtol=1e-3, atol=1e-5)
    variance = first.removesuffix("mean") + "var"
    assert np.mean(np.asarray(parted.statistics[variance])) < np.mean(np.asarray(whole.statistics[variance]))


@pytest.mark.usefixtures("shallow_vit")
def test_more_parts_need_less_memory():
    def temporaries(parts):
        config = vit(loss__grad_cache=parts)
        config.batch_size = 128
        made = tiny_parts(config, jax.devices()[:1])
        lowered = made.train_step.lower(made.abstract_state, made.abstract_batch)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    assert temporaries(16) < 0.5 * temporaries(1)


def test_gradient_accumulation_is_refused_with_the_reason():
    with pytest.raises(ConfigError, match=r"couples all rows(.|\n)*loss.grad_cache"):
        load_config("configs/quickstart.py", ["--config.optimizer.accumulation_steps=4"])


def test_parts_must_divide_the_batch():
    with pytest.raises(ConfigError, match="divisor of batch_size"):
        load_config("configs/quickstart.py", ["--config.loss.grad_cache=7"])
