"""Captions to unit vectors with a frozen sentence encoder. Runs when a set is prepared, never while a model trains."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from xsample_jax.errors import DataError

# The encoder of the X-Sample paper.
DEFAULT_ENCODER = "sentence-transformers/all-mpnet-base-v2"

# SHA-256 of model.safetensors -> official name, so that a copy in any folder is recognised.
KNOWN_WEIGHTS = {"78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658": DEFAULT_ENCODER}


def encode_texts(
    texts: Sequence[str], model: str = DEFAULT_ENCODER, batch_size: int = 64, template: str = "{caption}"
) -> tuple[np.ndarray, dict]:
    """Encodes texts with a sentence-transformers model.

    Args:
      texts: n texts.
      model: name on the model hub, or a folder with a saved model (no network needed).
      batch_size: texts per forward pass.
      template: a format string with `{caption}` that each text is put into first, as "a photo of {caption}".

    Returns:
      (float32 [n, E] rows of unit length, description for the manifest's `text_encoder`).

    Raises:
      ImportError: the extra `text` is not installed.
      DataError: the model cannot be loaded, or an embedding is zero or not finite.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ImportError(
            "Encoding captions needs sentence-transformers: pip install 'xsample_jax[text]' "
            "(on a machine without GPU install a CPU build of torch first)."
        ) from error
    try:
        encoder = SentenceTransformer(model)
    except (OSError, ValueError) as error:
        fix = "Give a folder with a downloaded model, or a name of the hub and a network."
        raise DataError("model", model, f"a sentence-transformers model ({str(error)[:200]})", fix) from error
    encoder.eval()
    prompts = [template.format(caption=text) for text in texts]
    rows = encoder.encode(prompts, batch_size=batch_size, convert_to_numpy=True, show_progress_bar=False)
    dim = int(np.shape(rows)[1]) if prompts else int(encoder.encode([""]).shape[1])
    rows = checked_unit_rows(np.asarray(rows, np.float32).reshape(len(prompts), dim))
    name, revision = _identify(model)
    info = {
        "name": name,
        "revision": revision,
        "pooling": _pooling(encoder),
        "dim": dim,
        "normalised": True,
        "template": template,
    }
    return rows, info


def checked_unit_rows(rows: np.ndarray) -> np.ndarray:
    """Returns float32 rows [n, E] scaled to unit length; DataError where a row is zero or not finite."""
    rows = rows.astype(np.float32)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(norms[:, 0]) & (norms[:, 0] > 0)))
    if bad.size:
        raise DataError("embedding", f"row {bad[0]} has length {norms[bad[0], 0]}", "a finite vector that is not zero")
    return rows / norms


def round_rows(rows: np.ndarray, step: float) -> np.ndarray:
    """Rounds embeddings to multiples of `step`, as float16 [n, E].

    Coordinates of a unit vector in E dimensions are about 1/sqrt(E), so float16 spends most of its bits on noise.
    Rounding makes the rows compress, and equal on machines whose floating-point sums differ in the last digits (unless
    a value falls on the edge of two steps). Cosines move by about step / sqrt(6): 0.0008 for 1/512.
    """
    return (np.round(rows.astype(np.float64) / step) * step).astype(np.float16)


def _identify(model: str) -> tuple[str, str]:
    """Name and revision of the weights: the checksum of the file, which a name or a branch would not pin."""
    from transformers.utils import cached_file

    try:
        path = cached_file(model, "model.safetensors")
    except OSError:  # an old model with pickled weights
        path = None
    if path is None:
        return model, "unknown"
    with open(path, "rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    fallback = Path(model).name if Path(model).is_dir() else model
    return KNOWN_WEIGHTS.get(checksum, fallback), f"sha256:{checksum}"


def _pooling(encoder) -> str:
    """How token vectors become one: mean, cls, max, ..."""
    for module in encoder:
        mode = getattr(module, "pooling_mode", None)
        if isinstance(mode, str):
            return mode
        if hasattr(module, "get_pooling_mode_str"):
            return module.get_pooling_mode_str()
    return "unknown"
