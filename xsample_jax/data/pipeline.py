"""From records to batches on the host: decode in threads, batch, and remember one integer.

The position in the data is one integer, batches delivered * global batch size. It means the same for any number of
hosts, and so does the order of the rows in a batch: a run resumes on other hardware with the very same batches.
"""

import dataclasses
import logging
import sys
import threading
from collections.abc import Iterator, Sequence

import numpy as np

from xsample_jax.captions.tokenizer import tokenize
from xsample_jax.data.decode import decode_image
from xsample_jax.data.draws import draw_order, scrambled
from xsample_jax.data.rates import Rates
from xsample_jax.data.select_caption import select_caption
from xsample_jax.data.threaded_batches import threaded_batches
from xsample_jax.errors import DataError

MOST_BROKEN = 1000  # records on end that are skipped before the set counts as broken
TOLD = 100  # broken records that are told one by one


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
      rates: how often each record is drawn in training; None: all alike.
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
    rates: Rates | None = None
    keep: bool = False
    zero_captions: bool = False

    def __post_init__(self):
        self.skipped = 0
        self._pictures: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.source)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (self.image_size, self.image_size, self.source.channels)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        image = np.empty(self.image_shape, np.uint8)
        return {"image": image} | self.drawn(index, None, image)

    def drawn(self, index: int, draw: int | None, image: np.ndarray) -> dict[str, np.ndarray]:
        """Writes the picture at `index` to `image`, uint8 [size, size, channels], and returns the other entries.

        With data.caption=random the number `draw` picks its caption (None: the first).
        """
        return self.drawn_or_next(index, draw, image)[0]

    def drawn_or_next(self, index: int, draw: int | None, image: np.ndarray) -> tuple[dict[str, np.ndarray], bool]:
        """(what `drawn` returns, whether it is the one at `index`): a broken one is skipped if `on_error` says so."""
        for attempt in range(min(len(self), MOST_BROKEN)):
            try:
                return self._example((index + attempt) % len(self), draw, image), attempt == 0
            except DataError as error:
                if self.on_error == "raise":
                    raise
                with self._lock:
                    self.skipped += 1
                    skipped = self.skipped
                if skipped <= TOLD or skipped % TOLD == 0:
                    logging.warning("Skipped a broken record (%d so far): %s", skipped, error)
                last = error
        expected = f"a record that can be read among {attempt + 1} on end"
        raise DataError("data.on_error", self.on_error, expected, f"The last one: {last}") from last

    def _example(self, index: int, draw: int | None, image: np.ndarray) -> dict[str, np.ndarray]:
        record = self.source[index]
        self._write_picture(record, index, image)
        example = {"id": np.int32(record["id"]), "label": np.int32(record["label"])}
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

    def _write_picture(self, record: dict, index: int, image: np.ndarray) -> None:
        if index in self._pictures:
            image[:] = self._pictures[index]
            return
        try:
            decode_image(record["image"], self.image_size, self.source.channels, out=image)
        except DataError as error:
            where = f"image of record {self.source.locate(index)}, id {record['id']}"
            raise DataError(
                where, error.value, error.expected, 'Set --config.data.on_error="skip" to go on.'
            ) from error
        if self.keep:
            self._pictures[index] = image.copy()

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

    def read(number: int, image: np.ndarray) -> dict[str, np.ndarray]:
        place = start + number // share * batch_size + rows[number % share]
        return examples.drawn(index(place), scrambled(config.seed, place), image)

    endless = sys.maxsize
    return threaded_batches(read, endless, share, examples.image_shape, config.data.threads, config.data.prefetch)


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

    def read(number: int, image: np.ndarray) -> dict[str, np.ndarray]:
        index = indices[number]
        found, there = examples.drawn_or_next(index % count, None, image)
        return found | {"mask": np.bool_(there and index < count), "index": np.int32(index)}

    yield from threaded_batches(read, len(indices), len(rows), examples.image_shape, threads, ahead=2)
