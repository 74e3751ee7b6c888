"""Files that are complete or not there, here and in buckets."""

import contextlib
import errno
import io
import itertools
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import TextIO

import numpy as np

from xsample_jax.errors import DataError
from xsample_jax.io.arrays import parse_npy, parse_npz
from xsample_jax.io.paths import in_bucket, move_in


def atomic_write(path: pathlib.Path, write: Callable[[pathlib.Path], object]) -> None:
    """Writes under a temporary name, then renames: a file with its own name is complete. DataError for a full disk."""
    with _temporary(path) as partial:
        try:
            write(partial)
            settle(partial, path)
        except (OSError, RuntimeError) as error:  # the writer of ArrayRecord has no type of its own
            full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
            fix = "Make room" if full else "Remove what is in its way, or grant the right to write"
            fix += ", then run the same command again: it continues from there."
            raise DataError(f"writing {path}", str(error)[:200], "a file that can be written", fix) from error


def create_new(path: pathlib.Path) -> None:
    """Makes an empty file where there is nothing; a link in its place is never followed. Raises FileExistsError."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666))


def open_lock(path: pathlib.Path) -> TextIO:
    """A lock file, made if missing, for reading and writing; OSError for a link in its place: its target stays."""
    return open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+", encoding="utf-8")


def set_aside(path: pathlib.Path) -> pathlib.Path:
    """Renames a damaged file (or whatever is in its place) to NAME.damaged, NAME.damaged-2, ...; returns the name."""
    names = (path.with_name(f"{path.name}.damaged" + (f"-{n}" if n > 1 else "")) for n in itertools.count(1))
    aside = next(name for name in names if not os.path.lexists(name))
    path.rename(aside)
    return aside


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


def load_arrays(path: pathlib.Path) -> np.ndarray | dict[str, np.ndarray]:
    """The read-only array of a .npy file, or {name: array} of a .npz file, here or in a bucket.

    Raises OSError where the file cannot be opened, DataError where it is damaged.
    """
    with io.BytesIO(path.read_bytes()) if in_bucket(path) else open(path, "rb") as file:
        try:
            zipped = file.read(2) == b"PK"
            file.seek(0)
            return parse_npz(file) if zipped else parse_npy(file.read())
        except Exception as error:  # zipfile, zlib and ast have each their own for damage
            found = f"{type(error).__name__}: {error}"[:200]
            raise DataError("arrays", str(path), f"a file that numpy wrote ({found})", "Make it again.") from error


@contextlib.contextmanager
def _temporary(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A local name to write to: beside the file, so that it can be renamed, or on this machine."""
    if in_bucket(path):
        with tempfile.TemporaryDirectory(prefix="xsample_jax-") as folder:
            yield pathlib.Path(folder) / path.name
        return
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.unlink(missing_ok=True)  # of a killed process, or a link that somebody put there
        create_new(partial)
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
GENERATED = "generated"  # contact sheets of generated images
