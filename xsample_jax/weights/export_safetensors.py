"""An encoder as a .safetensors file under the names of timm (or, for the layouts of CLIP, of open_clip)."""

import json
from pathlib import Path

import numpy as np

from xsample_jax.encoder import Encoder
from xsample_jax.models.vit import LAYOUTS, VARIANTS
from xsample_jax.weights.families import FAMILIES
from xsample_jax.weights.name_map import to_theirs
from xsample_jax.weights.safetensors_file import write_safetensors

SHAPE = ("encoder", "layout", "width", "stem", "patch_size")
_TIMM_NAMES = {"ti": "tiny", "s": "small", "b": "base"}
_TIMM_ACTIVATIONS = {"gelu": {}, "gelu_tanh": {"act_layer": "gelu_tanh"}}


def export_safetensors(encoder: Encoder, out: str | Path) -> str:
    """Writes the file and returns, in words, how to load it; also in the file's metadata, with mean, std and size."""
    family = family_of(encoder.config)
    arrays = to_theirs(FAMILIES[family], encoder.module, encoder.arrays)
    if family == "resnet":  # what torch counts beside every running mean
        counters = [name.replace("running_mean", "num_batches_tracked") for name in arrays if "running_mean" in name]
        arrays |= {name: np.array(encoder.step, np.int64) for name in counters}
    config, loading = encoder.config, how_to_load(encoder.config)
    metadata = {
        "format": "pt",
        "load": loading,
        "family": family,
        "model": json.dumps({name: config.model[name] for name in SHAPE}),
        "images": json.dumps(
            {"size": config.augment.size, "mean": list(config.augment.mean), "std": list(config.augment.std)}
        ),
        "objective": config.objective.preset,
        "step": str(encoder.step),
    }
    write_safetensors(out, arrays, metadata)
    return loading


def family_of(config) -> str:
    """The family in whose names the encoder of a config is written."""
    if not config.model.encoder.startswith("vit"):
        return "resnet"
    return "open_clip_vit" if config.model.layout in FAMILIES["open_clip_vit"].layouts else "timm_vit"


def how_to_load(config) -> str:
    """The call that makes the same model elsewhere, to be followed by load_state_dict(..., strict=True)."""
    model, family = config.model, family_of(config)
    if family == "resnet":
        call = f"timm.create_model({model.encoder!r}, num_classes=0)"
        odd = []
        if model.width != 64:
            odd.append(f"its first stage {model.width} channels wide, not 64, and the others in proportion")
        if model.stem == "cifar":
            odd.append("a 3x3 stem of stride 1 without max-pool")
        return call + (f" but with {' and '.join(odd)}" if odd else "")
    layout, shape = LAYOUTS[model.layout], VARIANTS[model.encoder.removeprefix("vit_")]
    if family == "open_clip_vit":
        quick = model.layout == "openai_clip"
        return (
            f"the image tower of open_clip.model.CLIP with vision_cfg=dict(layers={shape.depth}, "
            f"width={shape.width}, head_width={shape.width // shape.heads}, patch_size={model.patch_size}, "
            f"image_size={config.augment.size}), "
            f"quick_gelu={quick}; its visual.proj is not in the file"
        )
    options = {"img_size": config.augment.size, "patch_size": model.patch_size, "num_classes": 0}
    if not layout.token:
        options |= {"class_token": False, "global_pool": "avg", "fc_norm": False}
    options |= _TIMM_ACTIVATIONS[layout.activation]
    name = f"vit_{_TIMM_NAMES[model.encoder.removeprefix('vit_')]}_patch16_224"
    return f"timm.create_model({name!r}, {', '.join(f'{key}={value!r}' for key, value in options.items())})"
