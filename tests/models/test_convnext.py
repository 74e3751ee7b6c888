"""ConvNeXt: convolutions, what a block leaves out, maps, what a config may ask. Against timm: tests/weights/."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.models.filled import filled, normal
from tests.quick import quick_jit
from tests.tiny import random_batch, tiny_config
from xsample_jax.config import find_problems
from xsample_jax.errors import Problems
from xsample_jax.models import convnext
from xsample_jax.models.convnext import ConvNeXt, ResponseNorm, Variant, depthwise, draw_blocks
from xsample_jax.models.towers import ENCODERS, smallest_of_kind
from xsample_jax.objectives.from_config import build_objective
from xsample_jax.state import TrainState
from xsample_jax.step import make_inputs

SMALL = Variant((1, 1, 1, 1), (4, 4, 8, 8), response=True)


def small(**options):
    return filled(lambda: ConvNeXt(SMALL, "conv", rngs=nnx.Rngs(0), **options))


def test_shifted_sums_are_the_convolution():
    """Values and gradients; a map that is smaller than the kernel has its zeros too."""
    x, kernel, g = normal(0, (2, 5, 9, 3)), normal(1, (7, 7, 3)), normal(2, (2, 5, 9, 3))

    @quick_jit
    def both(x, kernel):
        of = {name: jax.vjp(lambda x, k: depthwise(x, k, name), x, kernel) for name in ("conv", "dot")}  # noqa: B023
        return {name: (value, *pull(g)) for name, (value, pull) in of.items()}

    found = both(x, kernel)
    for ours, theirs in zip(found["dot"], found["conv"], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_response_norm_is_that_of_the_paper():
    norm, x = ResponseNorm(3), np.random.default_rng(0).normal(size=(2, 4, 5, 3)).astype(np.float32)
    x[0, :, :, 1] = 0
    norm.scale[...], norm.bias[...] = np.float32([1, 2, 3]), np.float32([0.5, 0, -0.5])
    lengths = np.linalg.norm(x.reshape(2, 20, 3), axis=1)
    response = lengths / (lengths.mean(axis=1, keepdims=True) + 1e-6)
    expected = x + np.array([0.5, 0, -0.5]) + np.array([1, 2, 3]) * x * response[:, None, None]
    found, pull = quick_jit(lambda x: jax.vjp(norm, x))(x)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert np.isfinite(pull(found)[0]).all()


def test_rows_leave_out_blocks_and_what_is_kept_is_scaled():
    """The last block is left out of half of the rows, the first of none; every row for itself."""
    block = filled(lambda: convnext.Block(4, SMALL, "conv", dtype=jnp.float32, rngs=nnx.Rngs(0)))
    x = normal(0, (3, 2, 2, 4))
    whole, kept = quick_jit(lambda x: (block(x), block(x, np.float32([0, 1, 2]))))(x)
    factors = np.array([0, 1, 2])[:, None, None, None]
    np.testing.assert_allclose(kept, x + (np.asarray(whole) - x) * factors, rtol=1e-5, atol=1e-6)
    model, images = small(drop_path=0.5), normal(1, (2, 32, 32, 3))
    np.testing.assert_allclose(model.rates, [0, 1 / 6, 1 / 3, 1 / 2])

    seen = []
    model.run = lambda block, x, kept=None: seen.append(kept) or x

    @quick_jit
    def factors(draws):
        seen.clear()
        model(images, draws)
        return list(seen)

    found = factors(np.float32([[0.0, 0.1, 0.4, 0.6], [0.9, 0.2, 0.3, 0.4]]))
    np.testing.assert_allclose(found, [[1, 1], [0, 1.2], [1.5, 0], [2, 0]], rtol=1e-6)
    assert factors(None) == [None] * 4  # evaluation


def test_maps_and_sides_that_patches_do_not_divide():
    model = small()

    @quick_jit
    def all_of(images):
        return model(images), *model.with_map(images), model.maps(images)

    images = normal(0, (2, 39, 32, 3))
    features, again, cells, maps = all_of(images)
    assert {name: x.shape[1:] for name, x in maps.items()} == {
        "stage 1": (9, 8, 4), "stage 2": (4, 4, 4), "stage 3": (2, 2, 8), "stage 4": (1, 1, 8)
    }  # fmt: skip
    np.testing.assert_array_equal(features, again)
    np.testing.assert_allclose(cells, model.norm(maps["stage 4"]), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(features, model.norm(maps["stage 4"].mean(axis=(1, 2))), rtol=1e-5, atol=1e-6)
    changed = all_of(images.at[:, 36:].set(9.0))[0]  # 3 rows that no patch of the stem holds
    np.testing.assert_array_equal(changed, features)


def test_the_blocks_that_are_left_out_are_drawn_by_image_and_view():
    config = tiny_config(model__encoder="convnextv2_atto", model__drop_path=0.2)
    objective, batch = build_objective(config.objective), random_batch(config)
    state = TrainState(jnp.asarray(3), {}, {}, (), {}, {})
    shape = jax.eval_shape(lambda batch: make_inputs(config, objective, state, batch, 10).keep, batch)
    assert shape.shape == (config.views * config.batch_size, 12)
    key, ids, copies = jax.random.key(0), jnp.asarray([7, 3, 7]), jnp.asarray([0, 0, 1])
    draws = np.asarray(draw_blocks(key, ids, copies, 2, 50))
    assert len(np.unique(draws)) == 300
    order = np.array([2, 0, 1])
    again = np.asarray(draw_blocks(key, ids[order], copies[order], 2, 50)).reshape(3, 2, 50)
    np.testing.assert_array_equal(again, draws.reshape(3, 2, 50)[order])
    assert 0 <= draws.min() < 0.05 < 0.95 < draws.max() < 1


def test_the_smallest_of_a_kind_is_of_its_version():
    found = [smallest_of_kind(name) for name in ("convnextv2_huge", "convnext_xxlarge", "resnet50", "vit_b", "mlp3")]
    assert found == ["convnextv2_atto", "convnext_atto", "resnet18", "vit_ti", "mlp1"]


def test_a_config_builds_it_with_its_options(monkeypatch):
    monkeypatch.setitem(convnext.VARIANTS, "convnextv2_atto", SMALL)
    config = tiny_config(model__encoder="convnextv2_atto", model__drop_path=0.3, model__conv_impl="dot")
    encoder = nnx.eval_shape(lambda: ENCODERS["convnextv2_atto"](config, nnx.Rngs(0)))
    assert encoder.rates == pytest.approx((0, 0.1, 0.2, 0.3))
    assert encoder.stages[3].blocks[0].conv.implementation == "dot"
    features = nnx.eval_shape(lambda m, x: m(x), encoder, jax.ShapeDtypeStruct((6, 32, 32, 3), jnp.float32))
    assert (features.shape, features.dtype) == ((6, 8), jnp.float32)


def test_what_a_config_may_not_ask():
    with pytest.raises(Problems, match="it is for a ConvNeXt"):
        tiny_config(model__drop_path=0.1)
    with pytest.raises(Problems, match=r"augment\.size.*at least 32 for a ConvNeXt"):
        tiny_config(model__encoder="convnext_atto", augment__size=24)
    config = tiny_config(model__encoder="convnext_atto", model__drop_path=0.1)
    with config.unlocked():
        config.objective.preset = "swav"
    assert {problem.field for problem in find_problems(config)} == {"augment.local_size", "model.drop_path"}
    with pytest.raises(Problems, match=r"model\.drop_path.*0 for objective\.preset = 'pixpro_instance'"):
        tiny_config(model__encoder="convnext_atto", model__drop_path=0.1, objective__preset="pixpro_instance")
