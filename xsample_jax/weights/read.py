"""A file of weights as {name: array}, by the ending of its name."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from xsample_jax.errors import DataError
from xsample_jax.storage.paths import as_path, in_bucket
from xsample_jax.weights.safetensors_file import read_safetensors
from xsample_jax.weights.torch_file import read_torch


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except FileNotFoundError:
        raise DataError("weights", str(path), "an existing file") from None
    except (OSError, ValueError, EOFError) as error:
        raise DataError("weights", str(path), f"an .npz file ({error})", "Fetch the file again.") from error


READERS = {
    ".safetensors": read_safetensors,
    ".npz": _read_npz,
    ".pth": read_torch,
    ".pt": read_torch,
    ".bin": read_torch,
}


def read_weights(path: str | Path) -> Mapping[str, np.ndarray]:
    """Returns {name: array}; DataError for an unknown ending or what is wrong with the file."""
    path = as_path(path)
    if in_bucket(path):
        raise DataError("weights", str(path), "a local file", f"Copy it: gcloud storage cp {path} .")
    if path.suffix not in READERS:
        raise DataError("weights", str(path), f"a file whose name ends in {', '.join(READERS)}")
    return READERS[path.suffix](path)
