"""Our exports in the real libraries: strict=True, and the same features. Skipped where timm and open_clip are not.

`pip install timm open_clip_torch` brings them, with torch, which is too large for every environment of tests. Without
them test_import.py compares names, shapes and features with what these libraries gave (goldens.json).
"""

import json

import jax
import numpy as np
import pytest
from flax import nnx

from tests.weights.made import made_encoder, made_images
from xsample_jax.export import export_safetensors

torch = pytest.importorskip("torch")
pytest.importorskip("timm")
CLIP = pytest.importorskip("open_clip.model").CLIP

SIZE = 32
CONFIGS = {
    "resnet18": {"encoder": "resnet18"},
    "resnet50": {"encoder": "resnet50"},
    "convnext": {"encoder": "convnext_atto"},
    "convnextv2": {"encoder": "convnextv2_tiny"},
    "vit_plain": {"encoder": "vit_ti", "layout": "plain"},
    "vit_timm": {"encoder": "vit_ti", "layout": "timm"},
    "vit_big_vision": {"encoder": "vit_s", "layout": "big_vision"},
    "vit_dinov2": {"encoder": "vit_ti", "layout": "dinov2"},
    "vit_dinov2_reg": {"encoder": "vit_ti", "layout": "dinov2_reg"},
    "vit_dinov3": {"encoder": "vit_ti", "layout": "dinov3"},
    "vit_splus_dinov2": {"encoder": "vit_splus", "layout": "dinov2"},
    "vit_splus_dinov3_qkvb": {"encoder": "vit_splus", "layout": "dinov3_qkvb"},
    "vit_deit3": {"encoder": "vit_ti", "layout": "deit3"},
    "vit_siglip": {"encoder": "vit_ti", "layout": "siglip"},
    "vit_open_clip": {"encoder": "vit_ti", "layout": "open_clip"},
    "vit_openai_clip": {"encoder": "vit_ti", "layout": "openai_clip"},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_real_library_loads_it_and_gives_the_same_features(name, tmp_path):
    """faults D4."""
    from safetensors import safe_open
    from safetensors.torch import load_file

    encoder = made_encoder({"patch_size": 8, **CONFIGS[name]}, SIZE)
    path = tmp_path / "e.safetensors"
    export_safetensors(encoder, path)
    graph, weights = nnx.split(encoder.module)
    expected = np.asarray(jax.jit(lambda weights, x: nnx.merge(graph, weights)(x))(weights, made_images(SIZE)))
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    state = load_file(path)
    if metadata["family"] == "open_clip_vit":
        vision = {"layers": 12, "width": 192, "head_width": 64, "patch_size": 8, "image_size": SIZE}
        text = {"context_length": 4, "vocab_size": 11, "width": 16, "heads": 2, "layers": 1}
        quick = json.loads(metadata["model"])["layout"] == "openai_clip"
        model = CLIP(12, vision, text, quick_gelu=quick).visual
        model.proj = None
        state = {key.removeprefix("visual."): value for key, value in state.items()}
    else:
        model = eval(metadata["load"], {"timm": pytest.importorskip("timm")})
    model.load_state_dict(state, strict=True)
    with torch.no_grad():
        features = model.eval()(torch.from_numpy(made_images(SIZE).transpose(0, 3, 1, 2).copy())).numpy()
    np.testing.assert_allclose(features, expected, atol=1e-4 * np.abs(expected).max())
