"""Weights of the real libraries: our encoder gives their features (goldens.json, made by make_goldens.py)."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from tests.quick import quick_jit
from tests.tiny import tiny_config
from tests.weights.made import made_images, made_state
from xsample_jax.errors import ConfigError, Problems
from xsample_jax.export import family_of, timm_dinov3, timm_vit
from xsample_jax.models import resnet, vit
from xsample_jax.models.convnext import ConvNeXt, Variant
from xsample_jax.models.resnet import BasicBlock, Bottleneck, ResNet
from xsample_jax.models.vit import Layout, Shape, ViT
from xsample_jax.state import to_flat
from xsample_jax.weights.families import FAMILIES
from xsample_jax.weights.name_map import resized_positions, to_ours, to_theirs

GOLDENS = json.loads((Path(__file__).parent / "goldens.json").read_text())
GATED = Shape(32, 2, 4, 48, gated=True)
NARROW = Variant((1, 1, 2, 1), (8, 16, 24, 32))
CASES = {
    "torchvision_basic": ("resnet", 18),
    "torchvision_bottleneck": ("resnet", 50),
    "timm_basic": ("resnet", 18),
    "timm_bottleneck": ("resnet", 50),
    "timm_convnext": ("convnext", NARROW),
    "timm_convnext_convolutions": ("convnext", dataclasses.replace(NARROW, epsilon=1e-5, convolutions=True)),
    "timm_convnextv2": ("convnext", dataclasses.replace(NARROW, response=True)),
    "timm_vit_token": ("timm_vit", "timm"),
    "timm_vit_mean": ("timm_vit", Layout("learned")),
    "timm_vit_mean_tanh": ("timm_vit", "big_vision"),
    "timm_dinov2": ("timm_vit", "dinov2"),
    "timm_dinov2_reg": ("timm_vit", "dinov2_reg"),
    "timm_dinov2_giant": ("timm_vit", ("dinov2", GATED)),
    "timm_dinov3": ("timm_dinov3", "dinov3"),
    "timm_dinov3_plus_qkvb": ("timm_dinov3", ("dinov3_qkvb", GATED)),
    "timm_deit3": ("timm_vit", "deit3"),
    "timm_siglip": ("timm_vit", "siglip"),
    "open_clip_vit": ("open_clip_vit", "open_clip"),
    "openai_clip_vit": ("open_clip_vit", "openai_clip"),
    "big_vision": ("big_vision_vit", "big_vision"),
    "big_vision_sincos": ("big_vision_vit", "big_vision_sincos"),
    "big_vision_token": ("big_vision_vit", "big_vision_token"),
}


@pytest.fixture(autouse=True)
def shallow(monkeypatch):
    """ResNets with one block per stage, as the goldens have."""
    monkeypatch.setitem(resnet.LAYOUTS, 18, (BasicBlock, (1, 1, 1, 1)))
    monkeypatch.setitem(resnet.LAYOUTS, 50, (Bottleneck, (1, 1, 1, 1)))


def build(variant):
    if isinstance(variant, int):
        return ResNet(variant, rngs=nnx.Rngs(0))
    if isinstance(variant, Variant):
        return ConvNeXt(variant, "conv", rngs=nnx.Rngs(0))
    hidden = 120 if variant == "siglip" else None  # of the golden: so400m is not four times as wide inside either
    layout, shape = variant if isinstance(variant, tuple) else (variant, Shape(32, 2, 4, hidden))
    return ViT(shape, 8, 24, layout=layout, rngs=nnx.Rngs(0))


def abstract(variant):
    encoder = nnx.eval_shape(lambda: build(variant))
    encoder.eval()
    return encoder, {path: leaf.shape for path, leaf in to_flat(nnx.state(encoder)).items()}


def imported(name, theirs=None, variant=None):
    family, usual = CASES[name]
    variant = variant or usual
    encoder, shapes = abstract(variant)
    theirs = made_state(GOLDENS["cases"][name]["shapes"]) if theirs is None else theirs
    return encoder, to_ours(FAMILIES[family], encoder, shapes, theirs, "a file")


def run(encoder, arrays, images):
    graph, state = nnx.split(encoder)
    leaves, structure = jax.tree.flatten(state)
    state = jax.tree.unflatten(structure, [arrays[path] for path in to_flat(state)])
    assert len(leaves) == len(arrays)
    return np.asarray(quick_jit(lambda state, images: nnx.merge(graph, state)(images))(state, images))


@pytest.mark.parametrize("name", CASES)
def test_features_are_those_of_the_library(name):
    golden = GOLDENS["cases"][name]
    features = run(*imported(name), made_images(golden["size"]))
    expected = np.array(golden["features"])
    assert features.shape == expected.shape
    assert expected.std(axis=0).mean() > 0.01  # the two images differ
    # Another epsilon of the layer norms of a ConvNeXt makes 3.5e-5.
    tolerance = {"rtol": 0, "atol": 1e-5} if CASES[name][0] == "convnext" else {"rtol": 2e-5, "atol": 2e-5}
    np.testing.assert_allclose(features, expected, **tolerance)


@pytest.mark.parametrize("side", [3, 10])
def test_positions_for_images_of_another_size_are_those_of_timm(side):
    found = made_images(5, 10).reshape(-1)[: 50 * 12].reshape(1, 50, 12)
    resized = resized_positions(found, side * side + 1, "a file")
    np.testing.assert_allclose(resized[0], np.array(GOLDENS["positions"][str(side)]), atol=2e-4)
    np.testing.assert_array_equal(resized[0, 0], found[0, 0])  # of the class token
    assert resized_positions(found, 50, "a file") is found
    assert resized_positions(found, 51, "a file") is found  # no square: the shapes tell


@pytest.mark.parametrize("layout", ["dinov2", "dinov2_reg", "deit3", "siglip"])
def test_a_layout_without_its_parts_says_which(layout):
    with pytest.raises(Problems, match=r"only in the layout"):
        imported(f"timm_{layout}", variant="plain")


@pytest.mark.parametrize(("name", "other"), [("timm_convnext", "V2"), ("timm_convnextv2", "V1")])
def test_a_convnext_of_the_other_version_is_named(name, other):
    variant = CASES[name][1]
    with pytest.raises(Problems, match=rf"a ConvNeXt {other}, without"):
        imported(name, variant=dataclasses.replace(variant, response=not variant.response))


def test_the_other_dinov3_is_named():
    with pytest.raises(Problems, match=r"q_bias.*only in the layout dinov3_qkvb"):
        imported("timm_dinov3_plus_qkvb", variant=("dinov3", GATED))
    with pytest.raises(Problems, match="vit_splus and vit_hplus have SwiGLU"):
        imported("timm_dinov3_plus_qkvb", variant="dinov3_qkvb")
    with pytest.raises(Problems, match=r"attn\.q_bias.*to be there"):
        imported("timm_dinov3", variant="dinov3_qkvb")


@pytest.mark.parametrize(
    ("encoder", "layout", "inside"),
    [("so400m", "siglip", 4304), ("g", "dinov2", 2 * 4096), ("g", "dinov3", 4096), ("hplus", "dinov3_qkvb", 5120)],
)
def test_timm_is_asked_for_the_width_inside_the_mlps(encoder, layout, inside):
    config = tiny_config(model__encoder=f"vit_{encoder}", model__layout=layout)
    family = timm_vit if family_of(config) == "timm_vit" else timm_dinov3
    assert (family is timm_dinov3) == layout.startswith("dinov3")
    name, options = family(config)
    assert name.endswith(layout) or layout == "siglip"
    assert int(vit.VARIANTS[encoder].width * options["mlp_ratio"]) == inside  # as timm counts it


def test_a_wrong_activation_is_seen():
    golden = GOLDENS["cases"]["timm_vit_mean"]  # GELU, where the layout of big_vision has its approximation
    features = run(*imported("timm_vit_mean", variant="big_vision"), made_images(golden["size"]))
    assert np.abs(features - np.array(golden["features"])).max() > 1e-4


@pytest.mark.parametrize("name", CASES)
def test_export_undoes_import(name):
    family, _ = CASES[name]
    shapes = GOLDENS["cases"][name]["shapes"]
    theirs = made_state(shapes)
    encoder, ours = imported(name, theirs)
    back = to_theirs(FAMILIES[family], encoder, ours)
    prepared = FAMILIES[family].prepare(theirs)
    assert set(back) <= set(prepared)
    for key, value in back.items():
        np.testing.assert_array_equal(value, prepared[key], err_msg=key)


def test_every_problem_is_reported_at_once():
    theirs = made_state(GOLDENS["cases"]["timm_vit_token"]["shapes"])
    del theirs["blocks.0.norm1.weight"]
    theirs["norm.bias"] = np.zeros(7, np.float32)
    theirs["blocks.7.surplus"] = np.zeros(3, np.float32)
    theirs["fc_norm.weight"] = np.zeros(3, np.float32)
    with pytest.raises(Problems) as caught:
        imported("timm_vit_token", theirs)
    assert {problem.field for problem in caught.value.problems} == {
        "blocks.0.norm1.weight",
        "norm.bias",
        "blocks.7.surplus",
        "fc_norm.weight",
    }
    assert "averages first" in str(caught.value)
    assert "(7,): expected shape (32,)" in str(caught.value)


def test_another_family_is_named_as_such():
    theirs = made_state(GOLDENS["cases"]["timm_vit_token"]["shapes"])
    family, variant = CASES["open_clip_vit"]
    encoder, shapes = abstract(variant)
    with pytest.raises(ConfigError, match=r"init_family.*blocks\.0\.attn\.qkv"):
        to_ours(FAMILIES[family], encoder, shapes, theirs, "x.safetensors")


def test_modified_resnet_of_clip_is_refused_with_a_reason():
    shapes = GOLDENS["cases"]["open_clip_vit"]["shapes"]
    theirs = made_state(shapes) | {"visual.attnpool.q_proj.weight": np.zeros((4, 4), np.float32)}
    with pytest.raises(Problems, match=r"attnpool.*are not among our encoders") as caught:
        imported("open_clip_vit", theirs)
    assert len(caught.value.problems) == 1


def test_positions_of_the_fixed_table_are_checked():
    encoder, shapes = abstract("plain")
    family = FAMILIES["timm_vit"]
    ours = {path: np.ones(shape, np.float32) for path, shape in shapes.items()}
    theirs = to_theirs(family, encoder, ours)
    assert theirs["pos_embed"].shape == (1, 9, 32)
    assert set(to_ours(family, encoder, shapes, theirs, "x")) == set(ours)
    theirs["pos_embed"] = theirs["pos_embed"] + 0.01
    with pytest.raises(Problems, match=r"pos_embed.*the fixed table of this layout.*--config\.model\.layout=timm"):
        to_ours(family, encoder, shapes, theirs, "x")


def test_old_and_stacked_names_of_big_vision():
    theirs = made_state(GOLDENS["cases"]["big_vision_token"]["shapes"])
    _, today = imported("big_vision_token", theirs)
    old = {}
    for name, value in theirs.items():
        name = name.removeprefix("params/").replace("LayerNorm_1/", "LayerNorm_2/")
        name = name.replace("MultiHeadDotProductAttention_0", "MultiHeadDotProductAttention_1")
        old[name.replace("MlpBlock_0", "MlpBlock_3")] = value
    positions = old.pop("pos_embedding")
    old["Transformer/posembed_input/pos_embedding"] = np.concatenate([positions[:, :1] * 0, positions], axis=1)
    blocks = "params/Transformer/encoderblock"
    stacked = {name: value for name, value in theirs.items() if not name.startswith(blocks)}
    for name in theirs:
        if name.startswith(f"{blocks}_0/"):
            pair = [theirs[name], theirs[name.replace("encoderblock_0", "encoderblock_1")]]
            stacked[name.replace("encoderblock_0", "encoderblock")] = np.stack(pair)
    two_towers = {name.replace("params/", "params/img/"): value for name, value in theirs.items()}
    two_towers |= {"params/txt/head/kernel": np.zeros((2, 2)), "params/t": np.zeros(1)}
    for other in (old, stacked, two_towers):
        _, found = imported("big_vision_token", other)
        for path, value in today.items():
            np.testing.assert_array_equal(found[path], value)


@pytest.mark.parametrize("name", GOLDENS["names"])
def test_export_has_exactly_the_names_of_timm(name, monkeypatch):
    """Names and shapes of the whole models, which is what strict=True compares."""
    monkeypatch.undo()
    if name.startswith("resnet"):
        encoder = nnx.eval_shape(lambda: ResNet(int(name.removeprefix("resnet")), rngs=nnx.Rngs(0)))
        family = FAMILIES["resnet"]
    elif name.startswith("convnext"):
        encoder = nnx.eval_shape(lambda: ConvNeXt(name, rngs=nnx.Rngs(0)))
        family = FAMILIES["convnext"]
    else:
        encoder = nnx.eval_shape(lambda: ViT(name.removeprefix("vit_"), rngs=nnx.Rngs(0)))
        family = FAMILIES["timm_vit"]
    ours = {path: np.broadcast_to(np.float32(0), leaf.shape) for path, leaf in to_flat(nnx.state(encoder)).items()}
    shapes = {key: list(value.shape) for key, value in to_theirs(family, encoder, ours).items()}
    expected = {key: shape for key, shape in GOLDENS["names"][name].items() if "num_batches" not in key}
    assert shapes == expected
