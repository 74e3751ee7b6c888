"""Files that are complete or not there."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from xsample_jax.errors import DataError


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Writes under a temporary name, then renames: a file with its own name is complete. DataError for a full disk."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        write(partial)
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:  # the writer of ArrayRecord has no type of its own
        fix = "Make room, then run the same command again: it goes on from there."
        raise DataError(f"writing {path}", str(error)[:200], "a file that can be written", fix) from error
    finally:
        partial.unlink(missing_ok=True)


def save_array(path: Path, array: np.ndarray) -> None:
    """Writes a .npy file under exactly this name."""
    with open(path, "wb") as file:  # np.save would add a suffix to the temporary name
        np.save(file, array)
