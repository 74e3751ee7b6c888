"""An encoder as an ONNX file, by jax2onnx (extra onnx): the network alone, on normalised images.

Resizing and normalisation stay outside: jax2onnx cannot convert them. What it made is run by ONNX Runtime and compared
with the network before the file is there, since a conversion that goes wrong there can do so in silence: with XLA's own
convolutions and max-pool (conv_impl="conv") it loses the padding, which is why the matrix products are exported.
"""

from pathlib import Path

import jax
import numpy as np
from flax import nnx

from xsample_jax.encoder import Encoder
from xsample_jax.errors import DataError

TOLERANCE = 1e-4  # of the largest feature


def export_onnx(encoder: Encoder, out: str | Path) -> str:
    """Writes the file, for any number of images, and returns in words what it takes.

    Raises ImportError without jax2onnx and onnxruntime, DataError where the file gives other features.
    """
    try:
        import onnxruntime
        from jax2onnx import to_onnx
    except ImportError as error:
        raise ImportError(f"--format=onnx needs jax2onnx and onnxruntime: pip install -e .[onnx] ({error})") from error
    encoder = encoder.with_model(conv_impl="dot")
    graph, state = nnx.split(encoder.module)
    size, out = encoder.config.augment.size, Path(out)
    partial = out.with_name(out.name + ".partial")
    to_onnx(
        lambda images: nnx.merge(graph, state)(images),
        [("n", size, size, 3)],
        return_mode="file",
        output_path=str(partial),
        input_names=["images"],
        output_names=["features"],
    )
    images = np.random.default_rng(0).standard_normal((3, size, size, 3)).astype(np.float32)
    expected = np.asarray(jax.jit(lambda state, images: nnx.merge(graph, state)(images))(state, images))
    session = onnxruntime.InferenceSession(str(partial), providers=["CPUExecutionProvider"])
    (features,) = session.run(None, {"images": images})
    error = np.abs(features - expected).max() / np.abs(expected).max()
    if not error < TOLERANCE:
        partial.unlink()
        raise DataError(
            "ONNX features", f"{error:.1e} away", f"within {TOLERANCE:g}", "Try another version of jax2onnx."
        )
    partial.replace(out)
    augment = encoder.config.augment
    return (
        f"images float32 [n, {size}, {size}, 3] -> features float32 [n, {encoder.features}]; first resize to {size}, "
        f"scale to 0..1, take off {tuple(augment.mean)} and divide by {tuple(augment.std)}"
    )
