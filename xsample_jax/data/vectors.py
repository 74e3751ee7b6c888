"""Vectors instead of images: features of audio, rows of a table, fingerprints of molecules (data.source=vectors).

A record holds the bytes of a .npy file, float16 [E], where others hold an encoded image.
"""

import io
import math

import numpy as np

from xsample_jax.augment.ids import VECTOR_CHANNELS
from xsample_jax.errors import ConfigError, DataError
from xsample_jax.io.files import parse_npy

MAGIC = b"\x93NUMPY"
LOSS = 0.01  # of the length of a vector that float16 may lose: below 6e-8 every number becomes 0
SIDE = 32  # pixels that a vector is drawn with, at least


def image_shape(size: int, channels: int) -> tuple[int, int, int]:
    """(height, width, channels) of what a batch holds of a record: a square image, or a row with a vector."""
    return (1 if channels == VECTOR_CHANNELS else size, size, channels)


def is_vector(data: bytes) -> bool:
    """Whether the `image` of a record is a vector."""
    return data[: len(MAGIC)] == MAGIC


def float16_loss(values: np.ndarray) -> float:
    """The share of the length of these numbers that is lost when they are rounded to float16; of zeros 0."""
    values = np.asarray(values, np.float64)
    with np.errstate(over="ignore"):
        lost = values - values.astype(np.float16)
    scale = np.abs(values).max(initial=0)
    return float(np.linalg.norm(lost / scale) / np.linalg.norm(values / scale)) if scale else 0.0


def encode_vector(values, where: str = "") -> bytes:
    """The bytes that a record holds of numbers [E]; DataError for what are none, or float16 cannot hold."""
    try:
        values = np.asarray(values)
        with np.errstate(over="ignore"):
            vector = values.astype("<f2")
    except (TypeError, ValueError) as error:  # a path, an image, rows of several lengths
        fix = "Read the file first; for a prepared dataset, xsample encode --split=NAME."
        raise DataError(f"vector {where}".rstrip(), type(values).__name__, "numbers [E]", fix) from error
    if vector.ndim != 1 or not vector.size or not np.isfinite(vector).all():
        found = f"shape {list(values.shape)}" if values.ndim != 1 or not values.size else "nan, inf or above 65,504"
        fix = "Fill missing values, and standardize columns that are large."
        raise DataError(f"vector {where}".rstrip(), found, "finite numbers [E] that float16 can hold", fix)
    if float16_loss(values) > LOSS:
        found = f"numbers of at most {np.abs(values).max():.2g}, too small for float16"
        fix = "Multiply all vectors by one number, or standardize the columns."
        raise DataError(f"vector {where}".rstrip(), found, "numbers [E] above 1e-5, or all of them 0", fix)
    buffer = io.BytesIO()
    np.save(buffer, vector)
    return buffer.getvalue()


def decode_vector(data: bytes, size: int, where: str = "") -> np.ndarray:
    """uint8 [1, size, 2] from the bytes of a record; DataError for an image, ConfigError for another width."""
    try:
        if not is_vector(data):
            raise ValueError("an image")
        vector = parse_npy(data)
    except Exception as error:  # numpy's parser has many
        found, fix = str(error)[:100], "Prepare the dataset with --source=vectors."
        raise DataError(f"vector {where}".rstrip(), found, "the bytes of a vector", fix) from error
    return vector_bytes(vector, size, where)


def vector_bytes(vector: np.ndarray, size: int, where: str = "") -> np.ndarray:
    """uint8 [1, size, 2] of numbers [size]; ConfigError for another width."""
    vector = np.asarray(vector)
    if vector.shape != (size,):
        fix = f"Set --config.data.image_size={vector.size}."
        raise ConfigError("data.image_size", size, f"the width of vector {where}: {list(vector.shape)}", fix)
    return np.ascontiguousarray(vector, "<f2").view(np.uint8).reshape(1, size, VECTOR_CHANNELS)


def draw_vectors(rows: np.ndarray) -> np.ndarray:
    """uint8 [n, 1, E, 2] as images [n, s, s, 3] for a reader: a gray cell for each number, 0 is mid gray."""
    vectors = np.ascontiguousarray(rows[:, 0]).view("<f2")[..., 0].astype(np.float32)
    cells = math.ceil(math.sqrt(vectors.shape[1]))
    scale = np.abs(vectors).max(axis=1, keepdims=True, initial=1e-6)
    gray = np.pad(127.5 + 127.5 * vectors / scale, ((0, 0), (0, cells**2 - vectors.shape[1])), constant_values=255)
    gray = gray.round().astype(np.uint8).reshape(-1, cells, cells, 1)
    zoom = math.ceil(SIDE / cells)
    return gray.repeat(zoom, axis=1).repeat(zoom, axis=2).repeat(3, axis=3)
