"""Weights and images made of names and numbers alone, the same here and where the real libraries are. Numpy only,
but for made_encoder."""

import zlib

import numpy as np


def made_array(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """float32 values that depend on the name and shape of a parameter, of a size that keeps activations near one."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    x = rng.random(shape) * 2 - 1
    if name.endswith(("running_var",)):
        return (1 + 0.5 * x).astype(np.float32)
    if name.endswith("num_batches_tracked"):
        return np.array(7, np.int64)
    if len(shape) <= 1:
        is_scale = name.endswith(("weight", "scale")) and len(shape) == 1
        return (is_scale + 0.3 * x).astype(np.float32)
    inputs = np.prod(shape[:-1]) if "kernel" in name else np.prod(shape[1:])
    return (x * np.sqrt(3 / inputs)).astype(np.float32)


def made_state(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    return {name: made_array(name, tuple(shape)) for name, shape in shapes.items()}


def made_images(size: int, count: int = 2) -> np.ndarray:
    """float32 [count, size, size, 3], as normalized images are."""
    return (np.random.default_rng(0).random((count, size, size, 3)) * 4 - 2).astype(np.float32)


def made_encoder(model: dict, size: int = 32):
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
