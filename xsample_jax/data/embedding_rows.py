"""How embeddings lie in a record: float16, or one byte a coordinate (`text_encoder["stored"]` of the manifest)."""

import numpy as np

from xsample_jax.errors import DataError

DTYPES = {"float16": np.dtype("<f2"), "int8": np.dtype("i1")}


def stored_dtype(text_encoder: dict) -> np.dtype:
    """Type of the rows of a set; sets without the entry hold float16."""
    stored = text_encoder.get("stored", "float16")
    if stored not in DTYPES:
        raise DataError("text_encoder.stored", stored, f"one of {', '.join(DTYPES)}", "Embed the captions again.")
    return DTYPES[stored]


def to_stored(rows: np.ndarray, stored: str) -> np.ndarray:
    """Unit rows [n, E] as they are stored.

    An int8 row is scaled so that its largest coordinate is 127. The scale is not kept: the row had unit length, which
    gives it back. Cosines move by 0.0004 (standard deviation) at E = 768.
    """
    if stored == "int8":
        return np.round(rows * (127 / np.abs(rows).max(axis=1, keepdims=True, initial=1e-12))).astype(np.int8)
    return rows.astype(np.float16)


def from_stored(raw: bytes, captions: int, text_encoder: dict) -> np.ndarray:
    """float16 [captions, E] from the bytes of a record; int8 rows are scaled back to unit length."""
    rows = np.frombuffer(raw, stored_dtype(text_encoder)).reshape(captions, text_encoder["dim"])
    if rows.dtype != np.int8:
        return rows
    return unit_rows(rows).astype(np.float16)


def unit_rows(x: np.ndarray) -> np.ndarray:
    """Returns float32 rows [..., E] of length one; a zero row stays zero."""
    x = np.asarray(x, np.float32)
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
