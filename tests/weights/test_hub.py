"""Weights by name: what configs of timm and open_clip ask for, where they come from, and what does not fit."""

import json
from pathlib import Path

import huggingface_hub
import jax
import numpy as np
import pytest
from flax import nnx

from tests.quick import quick_jit
from tests.tiny import tiny_config
from tests.weights.made import made_images, made_state
from xsample_jax.config import default_config, find_problems
from xsample_jax.encoder import read_initial
from xsample_jax.errors import ConfigError, DataError
from xsample_jax.models import vit
from xsample_jax.models.vit import ViT
from xsample_jax.state import to_flat
from xsample_jax.weights.files import write_safetensors
from xsample_jax.weights.hub import find_published, is_published

GOLDENS = json.loads((Path(__file__).parent / "goldens.json").read_text())["cases"]
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
CLIP = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}


def write_timm(folder, architecture, shapes=None, size=24, **changes):
    """A repository of timm with made-up weights."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "architecture": architecture,
        "num_classes": 0,
        "pretrained_cfg": {"input_size": [3, size, size], **IMAGENET},
    }
    (folder / "config.json").write_text(json.dumps(content | changes))
    write_safetensors(folder / "model.safetensors", made_state(shapes or {"a": [2]}))
    return folder


def write_open_clip(folder, vision, images=CLIP, **model):
    folder.mkdir(parents=True, exist_ok=True)
    content = {"model_cfg": {"embed_dim": 8, "vision_cfg": vision, **model}, "preprocess_cfg": images}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    write_safetensors(folder / "open_clip_model.safetensors", made_state({"a": [2]}))
    return folder


def config_for(folder, **changes):
    changes = {"model__encoder": "vit_ti", "model__layout": "dinov2_reg", "model__patch_size": 8} | changes
    changes = {"augment__size": 24, "model__init_from": str(folder)} | changes
    changes |= {"augment__mean": tuple(IMAGENET["mean"]), "augment__std": tuple(IMAGENET["std"])}
    return tiny_config(**changes)


@pytest.fixture
def small(monkeypatch):
    """vit_ti with the shape of the goldens."""
    monkeypatch.setitem(vit.VARIANTS, "ti", vit.Shape(32, 2, 4))


def test_a_folder_of_timm_gives_timms_features(small, tmp_path):
    golden = GOLDENS["timm_dinov2_reg"]
    folder = write_timm(tmp_path / "weights", "vit_tiny_patch8_reg4_dinov2", golden["shapes"])
    arrays = read_initial(config_for(folder))
    encoder = nnx.eval_shape(lambda: ViT("ti", 8, 24, layout="dinov2_reg", rngs=nnx.Rngs(0)))
    graph, state = nnx.split(encoder)
    _, structure = jax.tree.flatten(state)
    state = jax.tree.unflatten(structure, [arrays[f"encoder/{path}"] for path in to_flat(state)])
    features = quick_jit(lambda state, images: nnx.merge(graph, state)(images))(state, made_images(24))
    np.testing.assert_allclose(features, np.array(golden["features"]), rtol=2e-5, atol=2e-5)
    # Other sizes of images: the positions of 3 x 3 patches become those of 2 x 2, and nothing else changes.
    smaller = read_initial(config_for(folder, augment__size=16))
    assert smaller["encoder/position"].shape == (4, 32)
    assert [name for name in arrays if not np.array_equal(arrays[name], smaller[name])] == ["encoder/position"]


def test_what_the_encoder_must_be_is_named_as_flags(small, tmp_path):
    folder = write_timm(tmp_path / "weights", "vit_tiny_patch8_reg4_dinov2", GOLDENS["timm_dinov2_reg"]["shapes"])
    config = config_for(folder, model__layout="timm", model__patch_size=4)
    config.augment.mean = (0.5, 0.5, 0.5)
    with pytest.raises(ConfigError) as caught:
        read_initial(config)
    flags = "--config.model.layout=dinov2_reg --config.model.patch_size=8 --config.augment.mean=0.485,0.456,0.406"
    assert caught.value.fix == flags
    assert "model.layout = timm, model.patch_size = 4" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "encoder", "layout", "patch"),
    [
        ("vit_small_patch14_dinov2", "vit_s", "dinov2", 14),
        ("vit_large_patch14_reg4_dinov2", "vit_l", "dinov2_reg", 14),
        ("vit_base_patch16_siglip_224", "vit_b", "siglip", 16),
        ("vit_so400m_patch14_siglip_384", "vit_so400m", "siglip", 14),
        ("vit_huge_patch14_224", "vit_h", "timm", 14),
        ("vit_giant_patch14_dinov2", "vit_g", "dinov2", 14),
        ("vit_giant_patch14_reg4_dinov2", "vit_g", "dinov2_reg", 14),
        ("vit_small_plus_patch16_dinov3", "vit_splus", "dinov3", 16),
        ("vit_base_patch16_dinov3_qkvb", "vit_b", "dinov3_qkvb", 16),
        ("deit_tiny_patch16_224", "vit_ti", "timm", 16),
        ("deit3_base_patch16_384", "vit_b", "deit3", 16),
    ],
)
def test_architectures_of_timm(tmp_path, name, encoder, layout, patch):
    found = find_published(str(write_timm(tmp_path / "w", name, size=448)))
    expected = {"model.encoder": encoder, "model.layout": layout, "model.patch_size": patch}
    assert {key: value for key, value in found.keys.items() if key.startswith("model.")} == expected
    family = "timm_dinov3" if "dinov3" in name else "timm_vit"
    assert (found.family, found.size, found.keys["augment.std"]) == (family, 448, tuple(IMAGENET["std"]))


def test_resnets_convnexts_and_towers_of_open_clip(tmp_path):
    found = find_published(str(write_timm(tmp_path / "r", "resnet101")))
    assert (found.family, found.keys["model.encoder"], found.keys["model.width"]) == ("resnet", "resnet101", 64)
    found = find_published(str(write_timm(tmp_path / "x", "convnextv2_nano")))
    assert (found.family, found.keys["model.encoder"]) == ("convnext", "convnextv2_nano")
    vision = {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32}
    found = find_published(str(write_open_clip(tmp_path / "c", vision, quick_gelu=True)))
    assert found.family == "open_clip_vit"
    assert (found.keys["model.encoder"], found.keys["model.layout"]) == ("vit_b", "openai_clip")
    huge = {"image_size": 224, "layers": 32, "width": 1280, "head_width": 80, "patch_size": 14}
    found = find_published(str(write_open_clip(tmp_path / "h", huge)))
    assert (found.keys["model.encoder"], found.keys["model.layout"]) == ("vit_h", "open_clip")


@pytest.mark.parametrize(
    "name",
    ["vit_base_patch16_clip_224", "vit_base_patch16_siglip_gap_224", "deit_base_distilled_patch16_224", "resnet50d",
     "vit_giant_patch14_224", "vit_7b_patch16_dinov3", "convnext_tiny_hnf", "convnext_large_mlp", ""],
)  # fmt: skip
def test_what_we_have_no_encoder_for_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="DINOv3 or SigLIP of timm"):
        find_published(str(write_timm(tmp_path / "w", name)))


def test_odd_arguments_and_damage_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="resnet18 with act_layer"):
        find_published(str(write_timm(tmp_path / "a", "resnet18", model_args={"act_layer": "silu"})))
    with pytest.raises(ConfigError, match="vit_base"):
        find_published(str(write_open_clip(tmp_path / "b", {"timm_model_name": "vit_base", "image_size": 224})))
    vision = {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32, "mlp_ratio": 100 / 768}
    with pytest.raises(ConfigError, match=r"\(768, 12, 12, 100\)"):
        find_published(str(write_open_clip(tmp_path / "c", vision)))
    for number, content in enumerate(('{"a"', "[]", "{}", '{"architecture": 3, "pretrained_cfg": {"input_size": []}}')):
        folder = write_timm(tmp_path / f"d{number}", "resnet18")
        (folder / "config.json").write_text(content)
        with pytest.raises(DataError, match="a config of timm or open_clip"):
            find_published(str(folder))
    (folder / "model.safetensors").unlink()
    assert not is_published(str(folder))
    with pytest.raises(DataError, match=r"model\.safetensors or pytorch_model\.bin beside config\.json"):
        find_published(str(folder))


def test_a_name_is_fetched_with_its_revision(tmp_path, monkeypatch):
    folder, asked = write_timm(tmp_path / "w", "resnet18"), []

    def fetch(name, *, revision, allow_patterns):
        asked.append((name, revision, "model.safetensors" in allow_patterns))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert find_published("hf:timm/resnet18.a1_in1k@v2").file == folder / "model.safetensors"
    find_published("hf:timm/resnet18.a1_in1k")
    assert asked == [("timm/resnet18.a1_in1k", "v2", True), ("timm/resnet18.a1_in1k", None, True)]


def test_without_a_network_both_ways_out_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DataError) as caught:
        find_published("hf:timm/resnet18.a1_in1k")
    assert "hf download timm/resnet18.a1_in1k --local-dir resnet18.a1_in1k" in str(caught.value)
    assert "in the cache" in str(caught.value)
    assert len(str(caught.value)) <= 500
    for wrong in ("hf:resnet18", "hf:a/b/c", "hf:", "hf:../x"):
        with pytest.raises(ConfigError, match="hf:ORGANIZATION/NAME"):
            find_published(wrong)


def test_a_family_beside_a_name_is_a_config_error():
    config = default_config()
    config.steps = 1
    config.model.init_from, config.model.init_family = "hf:timm/resnet18.a1_in1k", "resnet"
    (problem,) = find_problems(config)
    assert problem.field == "model.init_family"
    config.model.init_family = None
    assert find_problems(config) == []
