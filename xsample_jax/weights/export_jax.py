"""An encoder as one file that any jax runs without this package: serialised StableHLO (jax.export), weights inside.

function = jax.export.deserialize(bytearray(open("encoder.jax", "rb").read()))
features = function.call(images)     # uint8 [n, s, s, c] -> float32 [n, features]
"""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp

from xsample_jax.data.whole_file import write_whole
from xsample_jax.encoder import Encoder

PLATFORMS = ("cpu", "cuda", "tpu")


def export_jax(encoder: Encoder, out: str | Path, platforms: Sequence[str] = PLATFORMS) -> str:
    """Writes the file, for any number of images, and returns in words what it takes."""
    encoder = encoder.with_model(conv_impl="conv")  # "dot" is for one platform
    size, channels = encoder.config.data.image_size, encoder.channels
    (count,) = jax.export.symbolic_shape("n")
    images = jax.ShapeDtypeStruct((count, size, size, channels), jnp.uint8)
    exported = jax.export.export(jax.jit(lambda images: encoder.forward(images)), platforms=tuple(platforms))(images)
    try:
        content = exported.serialize()
    except ImportError as error:
        raise ImportError(f"--format=jax_export needs flatbuffers: pip install -e .[export] ({error})") from error
    write_whole(Path(out), lambda partial: partial.write_bytes(content))
    alpha = ", the last of them alpha" if channels == 4 else ""
    taken = f"uint8 images [n, {size}, {size}, {channels}{alpha}]"
    return f"{taken} -> float32 [n, {encoder.features}] on {', '.join(platforms)}"
