"""The labels of a whole split: read once, then kept beside the set."""

import contextlib
import time

import jax
import numpy as np

from xsample_jax.data.whole_file import load_arrays, save_array, write_whole
from xsample_jax.errors import DataError
from xsample_jax.metrics.progress import progress

LONG = 10.0  # seconds


def read_labels(source) -> np.ndarray:
    """int32 [records], -1 for none. Reads every record of the split the first time, which takes as long as that takes.

    Where that was long, and the folder may be written to, they are kept in `labels-SPLIT-FINGERPRINT.npy`.
    """
    path = source.folder / f"labels-{source.split}-{source.manifest.fingerprint[:16]}.npy"
    with contextlib.suppress(OSError, ValueError):  # not there yet
        return load_arrays(path)
    start, first = time.monotonic(), jax.process_index() == 0
    places = progress(range(len(source)), f"labels of {source.split}", len(source), enabled=first)
    labels = np.array([_label(source, place) for place in places], np.int32)
    if first and time.monotonic() - start > LONG:
        with contextlib.suppress(DataError):  # a set that is only to be read: the next run reads it once more
            write_whole(path, lambda partial: save_array(partial, labels))
    return labels


def _label(source, place: int) -> int:
    try:
        return source[place]["label"]
    except DataError:  # training will meet it too, and stop or go on as data.on_error says
        return -1
