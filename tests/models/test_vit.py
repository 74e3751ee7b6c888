import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.models.filled import filled, normal, run
from tests.tiny import tiny_config
from xsample_jax.errors import ConfigError, Problems
from xsample_jax.models.vit import Layout, Shape, ViT, add_lora, rotary_angles, sincos_positions

SMALL = Shape(width=16, depth=2, heads=2)
LEARNED = Layout("learned")


def _count(model):
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


# Totals that timm publishes for vit_*_patch16_224: with class token, 197 learned positions and 1000-way classifier.
@pytest.mark.parametrize(
    ("variant", "width", "published"), [("ti", 192, 5_717_416), ("s", 384, 22_050_664), ("b", 768, 86_567_656)]
)
def test_parameter_counts_follow_the_published_ones(variant, width, published):
    learned = nnx.eval_shape(lambda: ViT(variant, 16, 224, layout=LEARNED, rngs=nnx.Rngs(0)))
    class_token_and_its_position, classifier = 2 * width, 1000 * width + 1000
    assert _count(learned) == published - class_token_and_its_position - classifier
    fixed = nnx.eval_shape(lambda: ViT(variant, 16, 224, rngs=nnx.Rngs(0)))
    assert _count(fixed) == _count(learned) - 14 * 14 * width


def test_rotary_positions_are_of_any_grid_and_reach_every_way_through_the_blocks():
    model, images = filled(lambda: ViT(SMALL, 4, 8, layout="dinov3", rngs=nnx.Rngs(0))), normal(0, (2, 8, 12, 3))
    features, found, cells, maps = run(model, images, call=lambda m, x: (m(x), *m.with_map(x), m.maps(x)))
    assert cells.shape == (2, 2, 3, 16)
    np.testing.assert_allclose(found, features, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.norm(maps["block 2"]), cells, rtol=1e-4, atol=1e-5)
    angles = rotary_angles(2, 3, 8).reshape(2, 3, 4)
    np.testing.assert_allclose(angles[:, 0, :2], np.pi * np.array([[-1, -0.1], [1, 0.1]]), rtol=1e-6)
    np.testing.assert_allclose(angles[0, :, 2], 2 * np.pi * np.array([-2 / 3, 0, 2 / 3]), atol=1e-6)
    add_lora(model, 2, nnx.Rngs(1))  # maps without a bias stay so
    assert model.blocks[0].attention.qkv.bias is None
    assert nnx.eval_shape(lambda x: model(x), images).shape == (2, 16)


def test_where_rotary_positions_and_gates_do_not_fit():
    with pytest.raises(ConfigError, match="that 4 divides"):
        ViT(Shape(12, 1, 2), 4, 8, layout="dinov3", rngs=nnx.Rngs(0))
    with pytest.raises(Problems, match=r"model\.layout = 'open_clip': expected one of dinov2, dinov2_reg.*SwiGLU"):
        tiny_config(model__encoder="vit_g", model__layout="open_clip")


def _layer_norm(x, scale=1.0, bias=0.0):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * scale + bias


def _by_hand(model, images, patch, heads):
    """The whole network in float64 numpy, patches and heads taken one at a time."""
    state = {"/".join(map(str, p)): np.asarray(v[...], np.float64) for p, v in nnx.to_flat_state(nnx.state(model))}

    def linear(x, name):
        return x @ state[f"{name}/kernel"] + state[f"{name}/bias"]

    features = []
    for image in np.asarray(images, np.float64):
        side = image.shape[0] // patch
        tokens = [
            image[r * patch : (r + 1) * patch, c * patch : (c + 1) * patch].reshape(-1)
            for r in range(side)
            for c in range(side)
        ]
        x = linear(np.stack(tokens), "patch") + state["position"]
        width = x.shape[1] // heads
        for b in range(SMALL.depth):
            norm = _layer_norm(x, state[f"blocks/{b}/norm1/scale"], state[f"blocks/{b}/norm1/bias"])
            mixed = []
            for head in np.split(linear(norm, f"blocks/{b}/attention/qkv"), heads, axis=1):
                q, k, v = np.split(head, 3, axis=1)
                scores = np.exp(q @ k.T / np.sqrt(width))
                mixed.append(scores / scores.sum(1, keepdims=True) @ v)
            x = x + linear(np.concatenate(mixed, 1), f"blocks/{b}/attention/out")
            norm = _layer_norm(x, state[f"blocks/{b}/norm2/scale"], state[f"blocks/{b}/norm2/bias"])
            hidden = linear(norm, f"blocks/{b}/mlp/expand")
            x = x + linear(hidden * (1 + np.vectorize(math.erf)(hidden / np.sqrt(2))) / 2, f"blocks/{b}/mlp/contract")
        features.append(_layer_norm(x, state["norm/scale"], state["norm/bias"]).mean(0))
    return np.stack(features)


def test_forward_pass_is_the_definition():
    model = filled(lambda: ViT(SMALL, 4, 12, layout=LEARNED, rngs=nnx.Rngs(0)))
    images = normal(1, (2, 12, 12, 3))
    features = run(model, images)
    assert features.dtype == jnp.float32
    np.testing.assert_allclose(features, _by_hand(model, images, 4, SMALL.heads), rtol=1e-4, atol=1e-4)


def test_sincos_positions():
    table = sincos_positions(2, 3, 8)
    assert table.shape == (6, 8)
    row, column = 1, 2
    low = 1 / 10_000
    expected = [np.sin(column), np.sin(column * low), np.cos(column), np.cos(column * low)]
    expected += [np.sin(row), np.sin(row * low), np.cos(row), np.cos(row * low)]
    np.testing.assert_allclose(table[row * 3 + column], expected, rtol=1e-6)
    assert len(np.unique(sincos_positions(14, 14, 192), axis=0)) == 196


def test_fixed_positions_take_any_image_that_the_patches_divide():
    model = filled(lambda: ViT(SMALL, 4, 8, rngs=nnx.Rngs(0)))
    assert run(model, jnp.zeros((1, 16, 8, 3))).shape == (1, 16)
    image = normal(0, (1, 8, 8, 3))
    moved = jnp.roll(image, 4, axis=1)  # the same patches in other places
    assert np.abs(run(model, image) - run(model, moved)).max() > 1e-3


def test_bfloat16_is_close_and_parameters_stay_float32():
    images = normal(1, (2, 8, 8, 3))
    single = run(filled(lambda: ViT(SMALL, 4, 8, rngs=nnx.Rngs(0))), images)
    model = filled(lambda: ViT(SMALL, 4, 8, jnp.bfloat16, rngs=nnx.Rngs(0)))
    features = run(model, images)
    assert features.dtype == jnp.float32
    abstract = nnx.eval_shape(lambda: ViT(SMALL, 4, 8, jnp.bfloat16, rngs=nnx.Rngs(0)))
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(abstract))} == {jnp.dtype("float32")}
    error = np.abs(features - single).max() / np.abs(single).max()
    assert 0 < error < 0.03


def test_image_size_must_be_a_multiple_of_the_patch():
    with pytest.raises(ConfigError, match=r"augment\.size = 36.*model\.patch_size = 16.*augment\.size to 32"):
        ViT(SMALL, 16, 36, rngs=nnx.Rngs(0))
    with pytest.raises(ConfigError, match="patch_size"):
        run(filled(lambda: ViT(SMALL, 4, 8, rngs=nnx.Rngs(0))), jnp.zeros((1, 10, 8, 3)))


def test_attention_starts_as_three_xavier_maps():
    model = nnx.jit(lambda: ViT(Shape(96, 1, 2), 4, 8, rngs=nnx.Rngs(0)))()
    kernel = np.asarray(model.blocks[0].attention.qkv.kernel[...])
    assert kernel.shape == (96, 288)
    np.testing.assert_allclose(kernel.var(), 1 / 96, rtol=0.05)


def test_unknown_variant_is_a_config_error():
    with pytest.raises(ConfigError, match="one of b, g, h, hplus, l, s, so400m, splus, ti"):
        ViT("xl", rngs=nnx.Rngs(0))
