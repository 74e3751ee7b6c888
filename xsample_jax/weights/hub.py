"""Weights by name, as timm and open_clip publish them: a folder, or a repository of the Hugging Face hub.

`model.init_from = "hf:timm/vit_small_patch14_dinov2.lvd142m"`, or a folder with the same files: config.json (timm) or
open_clip_config.json, and the weights beside it. What the encoder must be follows from the first; nothing is guessed.
"""

import dataclasses
import json
import math
import re
from collections.abc import Iterable
from pathlib import Path

from xsample_jax.errors import ConfigError, DataError
from xsample_jax.io.files import CHECKPOINTS
from xsample_jax.io.paths import as_path
from xsample_jax.models import convnext, vit

SCHEME = "hf:"
KEPT = "xsample_jax.npz"  # beside weights that this package published: config, head and text side (encoder.py)
TIMM, OPEN_CLIP = "config.json", "open_clip_config.json"
# The first of these that is there is read.
WEIGHTS = {
    TIMM: ("model.safetensors", "pytorch_model.bin"),
    OPEN_CLIP: ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
}
# All that a layout of a published folder consists of, so that none of it stays beside another layout.
LAYOUT_FILES = (
    *(name for about, weights in WEIGHTS.items() for name in (about, *weights)),
    KEPT,
    "tokenizer.json",
    "tokenizer_config.json",
)
_VIT = r"vit_(?P<size>tiny|small|base|large|huge|so400m)_patch(?P<patch>\d+)"
_DEIT = r"_(?P<size>tiny|small|base|large|huge)_patch(?P<patch>\d+)_\d+"
_DINOV3 = r"vit_(?P<size>tiny|small|small_plus|base|large|huge_plus)_patch(?P<patch>16)_dinov3"
# Architectures of timm whose forward pass a layout of ours computes; the rest of the name is the size of the images.
TIMM_VITS = {
    rf"{_VIT}_reg4_dinov2": "dinov2_reg",
    rf"{_VIT}_dinov2": "dinov2",
    r"vit_(?P<size>giant)_patch(?P<patch>14)_reg4_dinov2": "dinov2_reg",
    r"vit_(?P<size>giant)_patch(?P<patch>14)_dinov2": "dinov2",
    _DINOV3: "dinov3",
    rf"{_DINOV3}_qkvb": "dinov3_qkvb",
    rf"{_VIT}_siglip_\d+": "siglip",
    rf"{_VIT}_\d+": "timm",
    rf"deit{_DEIT}": "timm",
    rf"deit3{_DEIT}": "deit3",
}
# In a config.json that this package wrote: the family of the names, and our keys of the architecture.
OWN = "xsample_jax"
OWN_KEYS = {
    "resnet": ("model.encoder", "model.stem", "model.width"),
    "convnext": ("model.encoder",),
    "timm_vit": ("model.encoder", "model.layout", "model.patch_size"),
    "timm_dinov3": ("model.encoder", "model.layout", "model.patch_size"),
    "open_clip_vit": ("model.encoder", "model.layout", "model.patch_size"),
}
SIZES = {"tiny": "ti", "small": "s", "base": "b", "large": "l", "huge": "h", "so400m": "so400m"}
SIZES |= {"giant": "g", "small_plus": "splus", "huge_plus": "hplus"}
RESNETS = r"resnet(18|34|50|101|152)"


@dataclasses.dataclass(frozen=True)
class Published:
    """Published weights.

    Attributes:
      file: with the weights.
      family: whose names it has (FAMILIES).
      keys: {config key: value} that they ask for.
      size: side of the images that they were trained on.
    """

    file: Path
    family: str
    keys: dict[str, object]
    size: int


def is_published(path: str) -> bool:
    """Whether `model.init_from` names weights of this kind, and not a file or a run folder.

    A folder with checkpoints is a run, whatever was exported into it.
    """
    if path.startswith(SCHEME):
        return True
    folder = as_path(path)
    if (folder / CHECKPOINTS).is_dir():
        return False
    weights = (name for names in WEIGHTS.values() for name in names)
    return (folder / OPEN_CLIP).is_file() or any((folder / name).is_file() for name in weights)


def check_replaceable(out: Path, names: Iterable[str]) -> None:
    """Raises ConfigError where files of a model with these names would replace those of a folder that has no model."""
    there = [name for name in names if (out / name).exists()]
    if there and not is_published(str(out)):
        fix = "Choose another folder, or move them away."
        raise ConfigError(
            "--out", str(out), f"a new folder, or one with a model: {', '.join(there)} would be lost", fix
        )


def find_published(path: str) -> Published:
    """Downloads or finds the weights and reads what they need.

    Raises:
      DataError: they are not there and cannot be fetched, or their config is damaged.
      ConfigError: an architecture that none of our encoders is.
    """
    folder = _fetched(path) if path.startswith(SCHEME) else as_path(path)
    about = next((name for name in (OPEN_CLIP, TIMM) if (folder / name).is_file()), None)
    if about is None:
        raise DataError("model.init_from", path, f"{TIMM} or {OPEN_CLIP} beside the weights")
    file = next((folder / name for name in WEIGHTS[about] if (folder / name).is_file()), None)
    if file is None:
        raise DataError("model.init_from", path, f"{' or '.join(WEIGHTS[about])} beside {about}")
    try:
        content = json.loads((folder / about).read_text(encoding="utf-8"))
        read = _read_open_clip if about == OPEN_CLIP else _read_timm
        family, keys, size, images = read(content)
        keys |= {"augment.mean": _three(images["mean"]), "augment.std": _three(images["std"])}
    except ConfigError:
        raise
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        found = f"{type(error).__name__}: {error}"[:100]
        raise DataError(about, str(folder), f"a config of timm or open_clip ({found})", "Fetch it again.") from error
    return Published(file, family, keys, size)


def check_fits(config, published: Published) -> None:
    """Raises ConfigError with all flags that are missing: the encoder and images that the weights are for."""
    found = {key: config[key.partition(".")[0]][key.partition(".")[2]] for key in published.keys}
    wrong = {key: value for key, value in published.keys.items() if not _same(found[key], value)}
    if wrong:
        as_flag = lambda value: ",".join(map(str, value)) if isinstance(value, tuple) else value  # noqa: E731
        flags = " ".join(f"--config.{key}={as_flag(value)}" for key, value in wrong.items())
        values = ", ".join(f"{key} = {found[key]}" for key in wrong)
        raise ConfigError(f"model.init_from = {config.model.init_from} with", values, "what it was trained for", flags)


def _same(found, wanted) -> bool:
    if isinstance(wanted, tuple):
        return len(found) == len(wanted) and all(abs(a - b) < 1e-3 for a, b in zip(found, wanted, strict=True))
    return found == wanted


def _fetched(path: str) -> Path:
    """The folder of a repository of the hub, "hf:ORGANIZATION/NAME[@REVISION]": from the network or the cache."""
    name, _, revision = path.removeprefix(SCHEME).partition("@")
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        raise ConfigError("model.init_from", path, "hf:ORGANIZATION/NAME, as hf:timm/resnet50.a1_in1k")
    import huggingface_hub

    wanted = [TIMM, OPEN_CLIP, KEPT, *(file for files in WEIGHTS.values() for file in files)]
    try:
        return Path(huggingface_hub.snapshot_download(name, revision=revision or None, allow_patterns=wanted))
    except Exception as error:  # of the network, the hub or its client, which have types of their own
        reason = str(error).strip().partition("\n")[0][:120] or type(error).__name__
        fix = (
            f"Where there is a network: hf download {name} --local-dir {name.partition('/')[2]}; "
            "then give that folder as model.init_from."
        )
        raise DataError(
            "model.init_from", path, f"weights that can be fetched or are in the cache ({reason})", fix
        ) from error


def _read_timm(content: dict) -> tuple[str, dict, int, dict]:
    """(family, config keys, image size, how images are normalized) of a config.json of timm."""
    name, images = content["architecture"], content["pretrained_cfg"]
    size = int(images["input_size"][-1])
    if OWN in content:
        return _read_own(content[OWN], size, images)
    odd = sorted(content.get("model_args", {}).keys() - {"img_size"})
    if odd:
        raise ConfigError("model.init_from", f"{name} with {', '.join(odd)}", "an architecture without other arguments")
    if re.fullmatch(RESNETS, name):
        return "resnet", {"model.encoder": name, "model.stem": "imagenet", "model.width": 64}, size, images
    if name in convnext.VARIANTS:
        return "convnext", {"model.encoder": name}, size, images
    for pattern, layout in TIMM_VITS.items():
        if match := re.fullmatch(pattern, name):
            encoder = f"vit_{SIZES[match['size']]}"
            keys = {"model.encoder": encoder, "model.layout": layout, "model.patch_size": int(match["patch"])}
            return "timm_dinov3" if layout.startswith("dinov3") else "timm_vit", keys, size, images
    expected = "a ResNet (18 to 152), ConvNeXt, ViT, DeiT, DeiT-III, DINOv2, DINOv3 or SigLIP of timm (docs/weights.md)"
    raise ConfigError("model.init_from", name, expected)


def _read_own(own: dict, size: int, images: dict) -> tuple[str, dict, int, dict]:
    """As `_read_timm`, of a config.json that this package wrote: it names its own architecture beside timm's."""
    family, keys = own["family"], dict(own["keys"])
    if family not in OWN_KEYS or keys.keys() != set(OWN_KEYS[family]):
        raise ValueError(f"{OWN}: {family} with {', '.join(keys)}")
    kinds = {"model.width": int, "model.patch_size": int}
    if any(type(value) is not kinds.get(name, str) for name, value in keys.items()):
        raise ValueError(f"{OWN}: {keys}")
    return family, keys, size, images


def _read_open_clip(content: dict) -> tuple[str, dict, int, dict]:
    """As `_read_timm`, of an open_clip_config.json."""
    model, images = content["model_cfg"], content["preprocess_cfg"]
    vision = model["vision_cfg"]
    expected = "a ViT image tower of open_clip's own, without attention pooling or LayerScale"
    if not isinstance(vision.get("layers"), int) or {"timm_model_name", "attentional_pool", "ls_init_value"} & {
        name for name, value in vision.items() if value
    }:
        raise ConfigError("model.init_from", vision.get("timm_model_name", "vision_cfg"), expected)
    heads = vision["width"] // vision.get("head_width", 64)
    hidden = round(vision["width"] * vision.get("mlp_ratio", 4))
    shape = (vision["width"], vision["layers"], heads, hidden)
    for name, known in vit.VARIANTS.items():
        if not known.gated and shape == (known.width, known.depth, known.heads, known.hidden or 4 * known.width):
            layout = "openai_clip" if model.get("quick_gelu") else "open_clip"
            keys = {"model.encoder": f"vit_{name}", "model.layout": layout, "model.patch_size": vision["patch_size"]}
            return "open_clip_vit", keys, int(vision["image_size"]), images
    raise ConfigError("model.init_from", f"width, layers, heads, MLP {shape}", f"those of {', '.join(vit.VARIANTS)}")


def _three(values) -> tuple[float, float, float]:
    first, second, third = (float(value) for value in values)
    if not all(map(math.isfinite, (first, second, third))):
        raise ValueError(f"mean or std {values}")
    return first, second, third
