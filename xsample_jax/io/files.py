"""Files that are complete or not there, here and in buckets."""

import contextlib
import io
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from xsample_jax.errors import DataError
from xsample_jax.io.paths import in_bucket, move_in


def atomic_write(path: pathlib.Path, write: Callable[[pathlib.Path], object]) -> None:
    """Writes under a temporary name, then renames: a file with its own name is complete. DataError for a full disk."""
    with _temporary(path) as partial:
        try:
            write(partial)
            settle(partial, path)
        except (OSError, RuntimeError) as error:  # the writer of ArrayRecord has no type of its own
            fix = "Make room, then run the same command again: it goes on from there."
            raise DataError(f"writing {path}", str(error)[:200], "a file that can be written", fix) from error


def settle(local: pathlib.Path, path: pathlib.Path) -> None:
    """Gives a finished file its name, here or in a bucket. It is on the disk before: a power cut leaves none half."""
    with open(local, "rb") as file:
        os.fsync(file.fileno())
    move_in(local, path)


def write_arrays(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a compressed .npz file, all of it or nothing."""

    def write(partial: pathlib.Path) -> None:
        with open(partial, "wb") as file:  # np.savez would add a suffix to the temporary name
            np.savez_compressed(file, **arrays)

    atomic_write(path, write)


def save_array(path: pathlib.Path, array: np.ndarray) -> None:
    """Writes a .npy file under exactly this name."""
    with open(path, "wb") as file:  # np.save would add a suffix to the temporary name
        np.save(file, array)


def load_arrays(path: pathlib.Path):
    """np.load of a .npy or .npz file, here or in a bucket."""
    return np.load(io.BytesIO(path.read_bytes()) if in_bucket(path) else path)


@contextlib.contextmanager
def _temporary(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A local name to write to: beside the file, so that it can be renamed, or on this machine."""
    if in_bucket(path):
        with tempfile.TemporaryDirectory(prefix="xsample_jax-") as folder:
            yield pathlib.Path(folder) / path.name
        return
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)


# The files of a run folder by name; its checkpoints: checkpoint_files.py.


CONFIG = "config.json"  # the resolved config
JSONL = "metrics.jsonl"  # one line of metrics at a time
EVALUATION = "evaluation.json"  # metrics of the final evaluation: the run is finished
EXAMPLES = "evaluation.npz"  # what those metrics are means of
SNAPSHOT = "report_data.npz"  # what the report shows beside numbers
REPORT = "report.html"
FACTS = "evaluation_facts.json"  # counts, chance and baselines of those metrics, and notes
BASELINES = "baselines.json"  # metrics of an untrained encoder and of pixels, by what was evaluated
PROFILE = "profile"
