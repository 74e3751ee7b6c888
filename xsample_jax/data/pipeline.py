"""From records to batches on the host: decode in threads, batch, and remember one integer.

The position in the data is one integer, batches delivered * global batch size. It means the same for any number of
hosts, and so does the order of the rows in a batch: a run resumes on other hardware with the very same batches.
"""

import dataclasses
import logging
import math
import sys
import threading
from collections.abc import Iterator, Sequence

import grain
import numpy as np

from xsample_jax.captions.tokenizer import tokenize
from xsample_jax.data.decode import decode_image
from xsample_jax.data.draws import draw_order, scrambled
from xsample_jax.data.select_caption import select_caption
from xsample_jax.errors import DataError

# Examples that a thread reads at a time: at most so many, and a divisor of the batch.
PIECE = 32


@dataclasses.dataclass
class Examples:
    """Decoded examples by index, with the entries that were asked for; a grain random-access source.

    Attributes:
      source: records (data/sources.py).
      image_size: side of the delivered images.
      caption: which caption of an image (config data.caption).
      fields: entries beyond image, id and label: caption_embedding, caption_tokens, path (in the class tree), index (in
        the split), attributes; class_embedding asks for a label, by which the step looks the embedding up.
      on_error: "raise", or "skip": in training the next good record takes the place of a broken one; evaluations do
        without it.
      tokenizer, length: for caption_tokens.
      hierarchy: names of the attributes above the label in the class tree, root first, for path.
      rates: how often each record is drawn in training (data/draws.py); None: all alike.
      keep: every picture is decoded once and stays in memory (data.cache=decoded).
      zero_captions: a record without a caption gets an embedding of zeros, where an evaluation can do without.
    """

    source: Sequence
    image_size: int
    caption: str
    fields: frozenset[str] = frozenset()
    on_error: str = "raise"
    tokenizer: object = None
    length: int = 0
    hierarchy: tuple[str, ...] = ()
    rates: np.ndarray | None = None
    keep: bool = False
    zero_captions: bool = False

    def __post_init__(self):
        self.skipped = 0
        self._pictures: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return self.drawn(index, None)

    def drawn(self, index: int, draw: int | None) -> dict[str, np.ndarray]:
        """The example at `index`; with data.caption=random the number `draw` picks its caption (None: the first)."""
        return self.drawn_or_next(index, draw)[0]

    def drawn_or_next(self, index: int, draw: int | None) -> tuple[dict[str, np.ndarray], bool]:
        """(example, whether it is the one at `index`): a broken one is skipped if `on_error` says so."""
        for attempt in range(len(self)):
            try:
                return self._example((index + attempt) % len(self), draw), attempt == 0
            except DataError as error:
                if self.on_error == "raise":
                    raise
                with self._lock:
                    self.skipped += 1
                logging.warning("Skipped a broken record (%d so far): %s", self.skipped, error)
        raise DataError(
            "data", len(self), "at least one record that can be read", "Every record of the split is broken."
        )

    def _example(self, index: int, draw: int | None) -> dict[str, np.ndarray]:
        record = self.source[index]
        example = {
            "image": self._picture(record, index),
            "id": np.int32(record["id"]),
            "label": np.int32(record["label"]),
        }
        if self.fields & {"caption_embedding", "caption_tokens"}:
            example |= self._caption_fields(record, index, draw)
        if "class_embedding" in self.fields and record["label"] < 0:
            where = f"label of record {self.source.locate(index)}, id {record['id']}"
            raise DataError(
                where, -1, "a class, which the class_text graph reads", "Use --config.objective.graph=caption."
            )
        if "index" in self.fields:
            example["index"] = np.int32(index)
        if "path" in self.fields:
            example["path"] = self._path(record, index)
        if "attributes" in self.fields:
            example |= {f"attribute/{name}": np.int32(value) for name, value in record["attributes"].items()}
        return example

    def _picture(self, record: dict, index: int) -> np.ndarray:
        if index in self._pictures:
            return self._pictures[index]
        try:
            picture = decode_image(record["image"], self.image_size, self.source.channels)
        except DataError as error:
            where = f"image of record {self.source.locate(index)}, id {record['id']}"
            raise DataError(
                where, error.value, error.expected, 'Set --config.data.on_error="skip" to go on.'
            ) from error
        if self.keep:
            picture.setflags(write=False)
            self._pictures[index] = picture
        return picture

    def _path(self, record: dict, index: int) -> np.ndarray:
        """Nodes of the class tree from below the root to the class, int32 [depth]."""
        missing = [name for name in self.hierarchy if name not in record["attributes"]]
        if missing or not self.hierarchy:
            raise DataError(
                f"attributes of record {self.source.locate(index)}, id {record['id']}",
                sorted(record["attributes"]),
                f"{', '.join(missing) or 'the inner nodes of a class tree'}, which the hierarchy graph reads",
                "Name attributes of the set: --config.data.hierarchy=\"('group','subgroup')\".",
            )
        return np.array([*(record["attributes"][name] for name in self.hierarchy), record["label"]], np.int32)

    def _caption_fields(self, record: dict, index: int, draw: int | None) -> dict[str, np.ndarray]:
        text, embedding = select_caption(record, self.caption, draw=draw, needed=not self.zero_captions)
        where = f"record {self.source.locate(index)}, id {record['id']}"
        found = {}
        if "caption_embedding" in self.fields:
            if embedding is None and self.zero_captions:
                embedding = np.zeros(self.source.manifest.text_encoder["dim"], np.float16)
            if embedding is None:
                raise DataError(
                    f"caption embedding of {where}",
                    None,
                    "an embedding, which this objective reads",
                    "Embed the captions of the set, or use an objective without text (simclr, supcon).",
                )
            found["caption_embedding"] = embedding
        if "caption_tokens" in self.fields:
            if text is None:
                raise DataError(f"caption of {where}", None, "a caption for the text tower", "Use objective simclr.")
            found["caption_tokens"] = tokenize(self.tokenizer, [text], self.length)[0]
        return found


def train_batches(examples: Examples, config, start: int, rows: Sequence[int] | None = None):
    """Endless shuffled batches, from global example `start` on; close() the iterator when done.

    Every epoch has its own order, a function of config.seed and examples.rates alone. `rows`: which rows of every
    global batch to read, in the order in which they come (mesh.process_rows; default all), so that the rows of all
    processes are one global batch, in the same order for any number of processes.
    """
    batch_size = config.batch_size
    rows = range(batch_size) if rows is None else [int(row) for row in rows]
    share = len(rows)
    index = draw_order(len(examples), config.seed, examples.rates)
    places = grain.MapDataset.range(sys.maxsize).map(lambda i: start + i // share * batch_size + rows[i % share])
    own = places.map(lambda place: examples.drawn(index(place), scrambled(config.seed, place)))
    return iter(_in_threads(own, share, config.data.threads, config.data.prefetch))


def eval_batches(
    examples: Examples, batch_size: int, threads: int, rows: Sequence[int] | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """Every example once, in order, in batches that are all full.

    `mask` [b] is False on padding and in the place of a record that was skipped; `index` int32 [b] is the number of the
    example. `rows`: which rows of every global batch to read, as for train_batches; all processes get equally many
    batches.
    """
    count = len(examples)
    rows = range(batch_size) if rows is None else [int(row) for row in rows]
    indices = [start + row for start in range(0, count, batch_size) for row in rows]

    def example(index: int) -> dict[str, np.ndarray]:
        if isinstance(examples, Examples):
            found, there = examples.drawn_or_next(index % count, None)
        else:
            found, there = examples[index % count], True
        return found | {"mask": np.bool_(there and index < count), "index": np.int32(index)}

    yield from _in_threads(grain.MapDataset.source(indices).map(example), len(rows), threads, ahead=2)


def _in_threads(examples: grain.MapDataset, batch_size: int, threads: int, ahead: int) -> grain.IterDataset:
    """Full batches of `examples` in order, read by `threads` threads, up to `ahead` batches before they are asked for.

    A thread reads a piece of a batch at a time: handing over single examples costs a small picture more than its
    decoding does (docs/performance-notes.md).
    """
    piece = math.gcd(batch_size, min(PIECE, max(1, ahead * batch_size // threads)))  # some for every thread
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead * batch_size // piece)
    pieces = examples.batch(piece, drop_remainder=True).to_iter_dataset(read_options=options)
    return pieces.batch(batch_size // piece, drop_remainder=True, batch_fn=_joined)


def _joined(pieces: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
