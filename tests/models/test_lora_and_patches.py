"""Low-rank factors beside frozen maps, and patches that training leaves out, on their own and in a train step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import xsample_jax
from tests.quick import quick_jit
from tests.test_grad_cache import one_step, vit
from tests.tiny import tiny_config
from xsample_jax.encoder import read_initial
from xsample_jax.errors import Problems
from xsample_jax.models import vit as vit_module
from xsample_jax.models.vit import LORA, Shape, ViT, add_lora, draw_patches, lora_paths, merge_lora
from xsample_jax.state import to_flat

SMALL = Shape(width=16, depth=2, heads=2)
FROZEN = ({"parameters": "^encoder/(?!.*/lora/)", "freeze": True},)


@pytest.fixture
def one_block(monkeypatch):
    monkeypatch.setitem(vit_module.VARIANTS, "ti", Shape(192, 1, 3))


def small_vit(**options):
    return ViT(SMALL, 4, 16, rngs=nnx.Rngs(0), **options)


def images(seed=0, n=3):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((n, 16, 16, 3)), jnp.float32)


def with_arrays(model, arrays):
    graph, state = nnx.split(model)
    return nnx.merge(graph, jax.tree.unflatten(jax.tree.structure(state), [arrays[path] for path in to_flat(state)]))


def test_factors_start_at_nothing_and_merge_into_their_maps(monkeypatch):
    plain = small_vit()
    with_factors = add_lora(small_vit(), 3, nnx.Rngs(1))
    before, names = to_flat(nnx.state(plain)), to_flat(nnx.state(with_factors))
    assert sum(LORA in name for name in names) == 2 * 2 * 4  # two blocks of four maps
    monkeypatch.setitem(vit_module.VARIANTS, "ti", SMALL)
    kernels, factors = lora_paths("ti")
    assert {f"encoder/{name}" for name in names if LORA in name} == set(factors)
    assert set(kernels) <= {f"encoder/{name}" for name in names}
    np.testing.assert_array_equal(with_factors(images()), plain(images()))
    rng = np.random.default_rng(2)
    arrays = {
        name: rng.normal(0, 0.3, value.shape).astype(np.float32) if LORA in name else np.asarray(value)
        for name, value in names.items()
    }
    changed = with_arrays(with_factors, arrays)(images())
    merged = merge_lora(arrays)
    assert merged.keys() == before.keys()
    as_one = with_arrays(plain, merged)(images())
    np.testing.assert_allclose(as_one, changed, rtol=1e-4, atol=1e-5)
    assert np.abs(np.asarray(changed) - np.asarray(plain(images()))).max() > 0.1


@pytest.mark.parametrize("layout", ["plain", "dinov2_reg", "siglip", "dinov3_qkvb"])
def test_patches_that_are_left_out_are_not_seen(layout):
    small, pictures = small_vit(layout=layout), images()
    model = quick_jit(lambda pictures, keep=None: small(pictures, keep))
    everything = jnp.stack([np.random.default_rng(row).permutation(16) for row in range(3)])
    np.testing.assert_allclose(model(pictures, everything), model(pictures), rtol=1e-5, atol=1e-6)
    keep = jnp.asarray([[0, 5, 7, 15], [1, 2, 3, 4], [0, 1, 8, 9]])
    features = np.asarray(model(pictures, keep))
    # Patch 5 covers rows 4 to 8 and columns 4 to 8: only the first image keeps it.
    other = np.asarray(model(pictures.at[:, 4:8, 4:8].add(1.0), keep))
    np.testing.assert_array_equal(other[1:], features[1:])
    assert np.abs(other[0] - features[0]).max() > 1e-5  # LayerScale starts near nothing


def test_which_patches_is_a_function_of_the_image_and_its_view():
    key, ids = jax.random.key(0), jnp.asarray([7, 3, 7, 9])
    copies = jnp.asarray([0, 0, 1, 0])
    drawn = np.asarray(draw_patches(key, ids, copies, (2, 100), 0.75)).reshape(4, 2, 25)
    assert all(len(set(row)) == 25 for row in drawn.reshape(8, 25))
    assert drawn.min() >= 0 > drawn.max() - 100
    assert len({tuple(row) for row in drawn.reshape(8, 25)}) == 8
    order = np.array([3, 2, 1, 0])
    again = draw_patches(key, ids[order], copies[order], (2, 100), 0.75)
    np.testing.assert_array_equal(np.asarray(again).reshape(4, 2, 25), drawn[order])


@pytest.mark.usefixtures("one_block")
def test_a_step_trains_the_factors_alone_and_leaves_out_the_same_patches_in_parts(tmp_path):
    both = {"model__patch_dropout": 0.5, "model__lora": 2, "optimizer__rules": FROZEN}
    parts, state, whole = one_step(vit(**both))
    _, _, parted = one_step(vit(loss__grad_cache=4, **both), 4)
    assert parted["loss"] == pytest.approx(whole["loss"], rel=1e-5)
    assert parted["gradient_norm"] == pytest.approx(whole["gradient_norm"], rel=1e-3)
    new = parts.new_state().params
    moved = {name for name, value in state.params.items() if not np.array_equal(value, new[name])}
    factors = {name for name in new if LORA in name}
    assert {name for name in factors if name.endswith("b")} <= {name for name in moved if "encoder/" in name} <= factors


@pytest.mark.usefixtures("one_block", "no_report")
def test_a_run_with_factors_loads_without_them(tmp_path):
    config = tiny_config(
        model__encoder="vit_ti", model__lora=2, optimizer__rules=FROZEN, steps=1, name="lora", eval__suite="none"
    )
    xsample_jax.train(config, tmp_path / "run")
    encoder = xsample_jax.load_encoder(tmp_path / "run")
    assert encoder.config.model.lora == 0
    assert not any("lora" in name for name in encoder.arrays)
    assert encoder.encode(np.zeros((2, 32, 32, 3), np.uint8)).shape == (2, 192)
    again = tiny_config(
        model__encoder="vit_ti", model__lora=3, optimizer__rules=FROZEN, model__init_from=str(tmp_path / "run")
    )
    found = read_initial(again)
    assert {name.removeprefix("encoder/") for name in found} == set(encoder.arrays)


def test_what_they_need():
    with pytest.raises(Problems, match=r"freezes what model\.lora adds to"):
        tiny_config(model__encoder="vit_ti", model__lora=2)
    with pytest.raises(Problems, match="it is for a ViT"):
        tiny_config(model__patch_dropout=0.5)
