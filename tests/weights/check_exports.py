"""Our exports in the real libraries: strict=True, and the same features.

    python -m tests.weights.check_exports write FOLDER                here: encoders with made-up weights
    libraries/bin/python -m tests.weights.check_exports check FOLDER  where timm is (see make_goldens.py)

Two commands, as no environment has everything. ONNX: test_onnx.py.
"""

import json
import sys
from pathlib import Path

import numpy as np

from tests.weights.made import made_array, made_images

CONFIGS = {
    "resnet18": {"encoder": "resnet18"},
    "resnet50": {"encoder": "resnet50"},
    "vit_plain": {"encoder": "vit_ti", "layout": "plain"},
    "vit_timm": {"encoder": "vit_ti", "layout": "timm"},
    "vit_big_vision": {"encoder": "vit_s", "layout": "big_vision"},
    "vit_open_clip": {"encoder": "vit_ti", "layout": "open_clip"},
    "vit_openai_clip": {"encoder": "vit_ti", "layout": "openai_clip"},
}
SIZE = 32


def made_encoder(model: dict, size: int = SIZE):
    """An encoder with made-up weights."""
    from xsample_jax.config import default_config, resolve
    from xsample_jax.encoder import Encoder
    from xsample_jax.weights.families import abstract_encoder, encoder_shapes

    config = default_config()
    config.steps, config.augment.size = 1, size
    config.model.update(model)
    config = resolve(config)
    shapes = encoder_shapes(abstract_encoder(config))
    arrays = {path: made_array(path.replace("/var", "/running_var"), shape) for path, shape in shapes.items()}
    return Encoder(config, 1, arrays)


def write(folder: Path) -> None:
    import jax
    from flax import nnx

    from xsample_jax.export import export_safetensors

    folder.mkdir(parents=True, exist_ok=True)
    for name, model in CONFIGS.items():
        encoder = made_encoder({"patch_size": 8, **model})
        print(export_safetensors(encoder, folder / f"{name}.safetensors"))
        graph, state = nnx.split(encoder.module)
        rows = jax.jit(lambda state, images, graph=graph: nnx.merge(graph, state)(images))(state, made_images(SIZE))
        np.save(folder / f"{name}.npy", np.asarray(rows))


def check(folder: Path) -> None:
    import timm  # noqa: F401  (the metadata names it)
    import torch
    from open_clip.model import CLIP
    from safetensors import safe_open
    from safetensors.torch import load_file

    images = torch.from_numpy(made_images(SIZE).transpose(0, 3, 1, 2).copy())
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        state = load_file(path)
        if metadata["family"] == "open_clip_vit":
            vision = {"layers": 12, "width": 192, "head_width": 64, "patch_size": 8, "image_size": SIZE}
            text = {"context_length": 4, "vocab_size": 11, "width": 16, "heads": 2, "layers": 1}
            quick = json.loads(metadata["model"])["layout"] == "openai_clip"
            model = CLIP(12, vision, text, quick_gelu=quick).visual
            model.proj = None
            state = {name.removeprefix("visual."): value for name, value in state.items()}
        else:
            model = eval(metadata["load"])
        model.load_state_dict(state, strict=True)
        with torch.no_grad():
            features = model.eval()(images).numpy()
        expected = np.load(path.with_suffix(".npy"))
        error = np.abs(features - expected).max() / np.abs(expected).max()
        print(f"{path.stem}: {len(state)} tensors, strict; largest difference {error:.1e} of the largest feature")
        if not error < 1e-4:
            sys.exit(f"{path.stem}: other features")


if __name__ == "__main__":
    {"write": write, "check": check}[sys.argv[1]](Path(sys.argv[2]))
