"""What the real libraries make of made-up weights: tests/weights/goldens.json. Run where they are, not by the tests:

    uv venv libraries && VIRTUAL_ENV=libraries uv pip install torch torchvision timm open_clip_torch flax scipy
    libraries/bin/python -m tests.weights.make_goldens [--big_vision=FOLDER]

FOLDER is a checkout of github.com/google-research/big_vision. Every case has the names and shapes of a small model, and
its features for weights and images of made.py; `names` has the names and shapes of whole models. torch.pth is what
torch.save writes.
"""

import argparse
import json
import sys
import types
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch

from tests.weights.made import made_images, made_state

HERE = Path(__file__).parent


def shapes_of(module: torch.nn.Module) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in module.state_dict().items()}


def filled(module: torch.nn.Module) -> torch.nn.Module:
    state = {name: torch.from_numpy(np.array(value)) for name, value in made_state(shapes_of(module)).items()}
    module.load_state_dict(state, strict=True)
    return module.eval()


def case(module: torch.nn.Module, size: int, features=lambda module, images: module(images)) -> dict:
    images = torch.from_numpy(made_images(size).transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        rows = features(filled(module), images)
    return {"size": size, "shapes": shapes_of(module), "features": rows.double().numpy().round(6).tolist()}


def resnets() -> dict:
    import timm
    import torchvision

    theirs = torchvision.models.resnet
    tv = {
        "torchvision_basic": theirs.ResNet(theirs.BasicBlock, [1, 1, 1, 1]),
        "torchvision_bottleneck": theirs.ResNet(theirs.Bottleneck, [1, 1, 1, 1]),
    }
    blocks = timm.models.resnet
    tm = {
        "timm_basic": blocks.ResNet(blocks.BasicBlock, (1, 1, 1, 1), num_classes=0),
        "timm_bottleneck": blocks.ResNet(blocks.Bottleneck, (1, 1, 1, 1), num_classes=0),
    }
    cases = {name: case(module, 48) for name, module in tm.items()}
    for name, module in tv.items():
        classifier = {key: list(value.shape) for key, value in module.fc.state_dict(prefix="fc.").items()}
        module.fc = torch.nn.Identity()
        cases[name] = case(module, 48)
        cases[name]["shapes"] |= classifier  # a file of torchvision has it
    return cases


def vits() -> dict:
    from functools import partial

    import timm
    from torch import nn

    make = partial(
        timm.models.vision_transformer.VisionTransformer, img_size=24, patch_size=8, embed_dim=32, depth=2, num_heads=4
    )
    mean = {"class_token": False, "global_pool": "avg", "fc_norm": False, "num_classes": 0}
    swiglu = {"mlp_layer": timm.layers.SwiGLUPacked, "act_layer": nn.SiLU}
    dinov3 = {"rope_type": "dinov3", "rope_temperature": 100, "rope_rotate_half": True, "use_rot_pos_emb": True}
    dinov3 |= {"use_abs_pos_emb": False, "num_reg_tokens": 4, "use_fc_norm": False, "dynamic_img_size": True}
    dinov3 |= {"global_pool": "token", "init_values": 1e-5, "norm_layer": partial(timm.layers.LayerNorm, eps=1e-5)}
    shape = {"img_size": 24, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 0}
    eva = partial(timm.models.eva.Eva, **shape, **dinov3)
    gelu_tanh = partial(nn.GELU, approximate="tanh")
    return {
        "timm_vit_token": case(make(), 24, lambda m, x: m.forward_head(m.forward_features(x), pre_logits=True)),
        "timm_vit_mean": case(make(**mean), 24),
        "timm_vit_mean_tanh": case(make(**mean, act_layer=gelu_tanh), 24),
        "timm_dinov2": case(make(num_classes=0, init_values=1e-5), 24),
        "timm_dinov2_reg": case(make(num_classes=0, init_values=1e-5, reg_tokens=4, no_embed_class=True), 24),
        "timm_deit3": case(make(num_classes=0, init_values=1e-6, no_embed_class=True), 24),
        "timm_dinov2_giant": case(make(**swiglu, num_classes=0, init_values=1e-5, mlp_ratio=3), 24),
        "timm_dinov3": case(eva(qkv_bias=False), 24),
        "timm_dinov3_plus_qkvb": case(eva(qkv_bias=True, mlp_ratio=1.5, swiglu_mlp=True, swiglu_align_to=8), 24),
        "timm_siglip": case(make(num_classes=0, class_token=False, global_pool="map", mlp_ratio=3.75), 24),
    }


def convnexts() -> dict:
    from timm.models.convnext import ConvNeXt

    shape = {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32), "num_classes": 0}
    return {
        "timm_convnext": case(ConvNeXt(**shape), 48),
        "timm_convnext_convolutions": case(ConvNeXt(**shape, conv_mlp=True, norm_eps=1e-5), 48),
        "timm_convnextv2": case(ConvNeXt(**shape, use_grn=True, ls_init_value=None), 48),
    }


def resized_positions() -> dict:
    """Learned positions of 7 x 7 patches and a class token, as timm resamples them for other images."""
    from timm.layers import resample_abs_pos_embed

    found = torch.from_numpy(made_images(5, 10)[None].reshape(1, -1)[:, : 50 * 12].reshape(1, 50, 12))
    return {str(side): resample_abs_pos_embed(found, (side, side))[0].numpy().round(6).tolist() for side in (3, 10)}


def clips() -> dict:
    from open_clip.model import CLIP

    def tower(quick: bool) -> torch.nn.Module:
        vision = {"layers": 2, "width": 32, "head_width": 8, "patch_size": 8, "image_size": 24}
        text = {"context_length": 4, "vocab_size": 11, "width": 16, "heads": 2, "layers": 1}
        return CLIP(12, vision, text, quick_gelu=quick)

    def features(module, images):
        module.visual.proj = None
        return module.visual(images)

    return {
        "open_clip_vit": case(tower(False), 24, features),
        "openai_clip_vit": case(tower(True), 24, features),
    }


def big_visions(folder: str) -> dict:
    import jax
    import jax.numpy as jnp
    from flax.traverse_util import flatten_dict, unflatten_dict

    sys.path.insert(0, folder)
    for name in ("big_vision.utils", "big_vision.models.common"):  # only its loading of files needs them
        sys.modules[name] = types.ModuleType(name)
    import big_vision
    import big_vision.models

    big_vision.utils, big_vision.models.common = (
        sys.modules[name] for name in ("big_vision.utils", "big_vision.models.common")
    )
    from big_vision.models import vit

    cases = {}
    options = {
        "big_vision": {},
        "big_vision_sincos": {"posemb": "sincos2d"},
        "big_vision_token": {"pool_type": "tok"},
    }
    for layout, option in options.items():
        model = vit.Model(None, patch_size=(8, 8), width=32, depth=2, num_heads=4, **option)
        images = jnp.asarray(made_images(24))
        params = jax.eval_shape(lambda model=model: model.init(jax.random.key(0), jnp.zeros((1, 24, 24, 3))))["params"]
        shapes = {f"params/{name}": list(leaf.shape) for name, leaf in flatten_dict(params, sep="/").items()}
        values = {name.removeprefix("params/"): value for name, value in made_state(shapes).items()}
        rows, _ = jax.jit(lambda p, x, model=model: model.apply({"params": p}, x))(
            unflatten_dict(values, sep="/"), images
        )
        cases[layout] = {"size": 24, "shapes": shapes, "features": np.asarray(rows, np.float64).round(6).tolist()}
    return cases


def whole_models() -> dict:
    """Names and shapes of what our exports have to be loaded into with strict=True."""
    import timm

    mean = {"class_token": False, "global_pool": "avg", "fc_norm": False}
    made = {name: timm.create_model(name, num_classes=0) for name in ("resnet18", "resnet34", "resnet50", "resnet101")}
    sizes = {"vit_ti": "tiny", "vit_s": "small", "vit_b": "base", "vit_l": "large"}
    made |= {name: timm.create_model(f"vit_{size}_patch16_224", num_classes=0, **mean) for name, size in sizes.items()}
    made |= {name: timm.create_model(name, num_classes=0) for name in ("convnextv2_atto",)}
    return {name: shapes_of(module) for name, module in made.items()}


def write_torch_file() -> None:
    """A training checkpoint as scripts write it: weights beside other things, a view, a shared storage, odd types."""
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    weights = OrderedDict(
        {
            "module.plain": base,
            "module.transposed": base.T,
            "module.column": base[:, 2],
            "module.half": base.half(),
            "module.brain": base.bfloat16(),
            "module.count": torch.tensor(5),
            "module.parameter": torch.nn.Parameter(base + 1),
            "module.empty": torch.zeros(0, 3),
        }
    )
    options = argparse.Namespace(rate=0.1, layers=[1, 2])
    state = {"step": torch.tensor(3.0), "betas": (0.9, 0.95)}
    torch.save({"epoch": 3, "args": options, "optimizer": state, "state_dict": weights}, HERE / "torch.pth")


def lines(entries: dict) -> str:
    """One line for each entry."""
    return ",\n".join(f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in entries.items())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--big_vision", help="checkout of big_vision; without: its cases stay as they are")
    flags = parser.parse_args()
    path = HERE / "goldens.json"
    before = json.loads(path.read_text()) if path.exists() else {"cases": {}}
    cases = {name: found for name, found in before["cases"].items() if name.startswith("big_vision")}
    cases |= resnets() | convnexts() | vits() | clips()
    if flags.big_vision:
        cases |= big_visions(flags.big_vision)
    versions = {name: sys.modules[name].__version__ for name in ("torch", "torchvision", "timm", "open_clip")}
    parts = {"versions": versions, "cases": cases, "names": whole_models(), "positions": resized_positions()}
    text = ",\n".join(f"{json.dumps(name)}: {{\n{lines(found)}\n}}" for name, found in parts.items())
    path.write_text(f"{{{text}}}\n")
    write_torch_file()


if __name__ == "__main__":
    main()
