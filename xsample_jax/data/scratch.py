"""Memory of a thread for pixels on their way: asking the kernel for pages anew costs a quarter of the decoding."""

import math
import threading

import numpy as np

LARGEST = 2**24  # bytes; what needs more gets memory of its own, that no thread keeps
_thread = threading.local()


def scratch(use: str, *shape: int) -> np.ndarray:
    """uint8 array with any values, overwritten where this thread asks again for the same `use`."""
    size = math.prod(shape)
    if size > LARGEST:
        return np.empty(shape, np.uint8)
    kept = getattr(_thread, use, None)
    if kept is None or kept.size < size:
        kept = np.empty(size, np.uint8)
        setattr(_thread, use, kept)
    return kept[:size].reshape(shape)
