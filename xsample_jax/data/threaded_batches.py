"""Full batches read by threads, every picture written once: by its decoder, into its place in the batch."""

import math
from collections.abc import Callable, Sequence

import grain
import numpy as np

# Examples that a thread reads at a time, at most.
PIECE = 32
Example = dict[str, np.ndarray]


def threaded_batches(
    read: Callable[[int, np.ndarray], Example],
    count: int,
    batch_size: int,
    image_shape: tuple[int, int, int],
    threads: int,
    ahead: int,
) -> grain.DatasetIterator:
    """Batches of the examples 0 to `count` in order, read by threads, up to `ahead` batches before they are asked for.

    A thread reads a piece of a batch at a time: handing over single examples costs a small picture more than its
    decoding does (docs/performance-notes.md). Stacking pictures and joining pieces would copy each picture twice.

    Args:
      read: (number of the example, uint8 `image_shape` to write its picture to) -> its other entries.
      count: examples; those of a last batch that would not be full are left out.
      batch_size: examples of a batch.
      image_shape: (height, width, channels) of every picture.
      threads: threads that call `read`.
      ahead: batches.

    Returns:
      An iterator over dicts of entries [batch_size, ...], `image` among them. What `read` raises comes out of it, and
      ends it.
    """
    piece = min(PIECE, max(1, ahead * batch_size // threads))  # some for every thread
    pieces = math.ceil(batch_size / piece)  # the last of a batch may be shorter
    begun: dict[int, np.ndarray] = {}  # number of a batch -> its pictures, while threads write to them

    def read_piece(number: int) -> Example:
        batch, start = number // pieces, number % pieces * piece
        images = begun.setdefault(batch, np.empty((batch_size, *image_shape), np.uint8))
        rows = range(start, min(start + piece, batch_size))
        examples = [read(batch * batch_size + row, images[row]) for row in rows]
        return {"batch": batch} | {name: np.stack([example[name] for example in examples]) for name in examples[0]}

    def joined(parts: Sequence[Example]) -> Example:
        (batch,) = {part["batch"] for part in parts}  # after an error that a caller ignored they would be of two
        names = [name for name in parts[0] if name != "batch"]
        return {"image": begun.pop(batch)} | {name: np.concatenate([part[name] for part in parts]) for name in names}

    options = grain.ReadOptions(num_threads=min(threads, ahead * pieces), prefetch_buffer_size=ahead * pieces)
    read_pieces = grain.MapDataset.range(count // batch_size * pieces).map(read_piece).to_iter_dataset(options)
    return iter(read_pieces.batch(pieces, drop_remainder=True, batch_fn=joined))
