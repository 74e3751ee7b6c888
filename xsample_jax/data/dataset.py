"""From records to batches on the host: decode in threads, batch, and remember one integer.

The position in the data is one integer, batches delivered * global batch size. It means the same for any number of
hosts, and so does the order of the rows in a batch: a run resumes on other hardware with the same batches.
"""

import copy
import dataclasses
import logging
import math
import sys
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from xsample_jax.augment.ids import VECTOR_CHANNELS, id_entry
from xsample_jax.data.captions import load_tokenizer, select_caption, tokenize
from xsample_jax.data.decode import decode_image
from xsample_jax.data.loader import Rates, Shares, draw_order, one_group_order, scrambled, threaded_batches
from xsample_jax.data.plans import Plan, is_planned
from xsample_jax.data.records import DataSource
from xsample_jax.data.side import FROM_ATTRIBUTES, Reader, open_side
from xsample_jax.data.sources import Mixture, open_source, open_training_source, sampled_records, source_folder
from xsample_jax.data.vectors import decode_vector, image_shape
from xsample_jax.errors import DataError, raise_all
from xsample_jax.objectives.from_config import build_objective, presets_that_read
from xsample_jax.objectives.objective import Objective
from xsample_jax.objectives.side_information import BY_RECORD

MOST_TRIES = 100  # records drawn in place of one that cannot be read; if all fail, nine in ten of the set are broken
MAX_REPORTED = 100  # unreadable records reported individually


@dataclasses.dataclass
class Dataset:
    """Decoded examples by index, with the entries that were asked for; a grain random-access source.

    Attributes:
      source: records (data/sources.py).
      image_size: side of the delivered images.
      caption: which caption of an image (config data.caption).
      fields: entries beyond image, id and label: caption_embedding, caption_tokens, path (in the class tree), index (in
        the split), attributes; class_embedding asks for a label, by which the step looks the embedding up.
      on_error: "raise", or "skip": in training another record, drawn at random, takes the place of a broken one;
        evaluations do without it.
      tokenizer, length: for caption_tokens.
      hierarchy: names of the attributes above the label in the class tree, root first, for path.
      rates: how often each record is drawn in training; None: all alike.
      groups: int [records], of which every training batch has one only; None: batches of all.
      plan: which record is at every place of the order (data/plans.py); None: drawn by rates or groups.
      keep: every image is decoded once and stays in memory (data.cache=decoded).
      fit: how images become squares: crop or pad (data/decode.py).
      zero_captions: a record without a caption gets an embedding of zeros, where an evaluation can do without.
      side: readers of the entries of data.side that are in `fields` (data/side.py).
    """

    source: DataSource
    image_size: int
    caption: str
    fields: frozenset[str] = frozenset()
    on_error: str = "raise"
    tokenizer: object = None
    length: int = 0
    hierarchy: tuple[str, ...] = ()
    rates: Rates | Shares | None = None
    groups: np.ndarray | None = None
    plan: Plan | None = None
    keep: bool = False
    fit: str = "crop"
    zero_captions: bool = False
    side: Mapping[str, Reader] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        self._broken: set[int] = set()
        self._images: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.source)

    @property
    def skipped(self) -> int:
        """How many different records could not be read."""
        return len(self._broken)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return image_shape(self.image_size, self.source.channels)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        image = np.empty(self.image_shape, np.uint8)
        return {"image": image} | self.drawn(index, None, image)

    def drawn(self, index: int, draw: int | None, image: np.ndarray) -> dict[str, np.ndarray]:
        """Writes the image at `index` to `image`, uint8 [size, size, channels], and returns the other entries.

        With data.caption=random the number `draw` picks its caption (None: the first).
        """
        return self.drawn_or_next(index, draw, image)[0]

    def drawn_or_next(self, index: int, draw: int | None, image: np.ndarray) -> tuple[dict[str, np.ndarray], bool]:
        """(what `drawn` returns, whether it is the one at `index`): a broken one is skipped if `on_error` says so."""
        place = index
        for attempt in range(MOST_TRIES):
            try:
                return self._example(place, draw, image), attempt == 0
            except DataError as error:
                if self.on_error == "raise":
                    raise
                self._report(place, error)
                last = error
            # A neighbor would get the draws of all broken records before it, a damaged shard's whole share.
            again = scrambled(index if draw is None else draw, attempt)
            place, draw = again % len(self), None if draw is None else again
        expected = f"a record that can be read among {MOST_TRIES} drawn at random"
        raise DataError("data.on_error", self.on_error, expected, f"The last one: {last}") from last

    def _report(self, index: int, error: DataError) -> None:
        with self._lock:
            before = len(self._broken)
            self._broken.add(index)
            skipped = len(self._broken)
        if skipped > before and (skipped <= MAX_REPORTED or skipped % MAX_REPORTED == 0):
            logging.warning("Skipped a broken record (%d so far): %s", skipped, error)

    def _example(self, index: int, draw: int | None, image: np.ndarray) -> dict[str, np.ndarray]:
        record = self.source[index]
        self._write_image(record, index, image)
        id = id_entry(record["id"], getattr(self.source, "wide_ids", False))
        example = {"id": id, "label": np.int32(record["label"])}
        if self.fields & {"caption_embedding", "caption_tokens"}:
            example |= self._caption_fields(record, index, draw)
        if "class_embedding" in self.fields and record["label"] < 0:
            where = f"label of record {self.source.locate(index)}, id {record['id']}"
            fix = "Use --config.objective.graph=caption."
            raise DataError(where, -1, "a class, which the class_text graph reads", fix)
        if "index" in self.fields:
            example["index"] = np.int32(index)
        if "path" in self.fields:
            example["path"] = self._path(record, index)
        if "attributes" in self.fields:
            example |= {f"attribute/{name}": self._class_of(record, name) for name in record["attributes"]}
        if self.side:
            place = self.source.place(index)
            example |= {name: read(record, place) for name, read in self.side.items()}
        return example

    def _write_image(self, record: dict, index: int, image: np.ndarray) -> None:
        if index in self._images:
            image[:] = self._images[index]
            return
        try:
            if self.source.channels == VECTOR_CHANNELS:
                image[:] = decode_vector(record["image"], self.image_size)
            else:
                decode_image(record["image"], self.image_size, self.source.channels, out=image, fit=self.fit)
        except DataError as error:
            where = f"image of record {self.source.locate(index)}, id {record['id']}"
            fix = 'Set --config.data.on_error="skip" to go on.'
            raise DataError(where, error.value, error.expected, fix) from error
        if self.keep:
            self._images[index] = image.copy()

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
        return np.array([*(self._class_of(record, name) for name in self.hierarchy), record["label"]], np.int32)

    def _class_of(self, record: dict, attribute: str) -> np.int32:
        """The number of the value of an attribute, -1 where the record has none."""
        number = record["attributes"][attribute]
        return np.int32(number if self.source.manifest.attributes[attribute][number] else -1)

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


def train_batches(examples: Dataset, config, start: int, rows: Sequence[int] | None = None):
    """Endless shuffled batches, from global example `start` on; close() the iterator when done.

    Every epoch has its own order, a function of config.seed and examples.rates (or groups, or plan) alone. `rows`:
    which rows of every global batch to read, in the order in which they come (mesh.process_rows; default all), so that
    the rows of all processes are one global batch, in the same order for any number of processes.
    """
    batch_size = config.batch_size
    rows = range(batch_size) if rows is None else [int(row) for row in rows]
    share = len(rows)
    plan = examples.plan
    if plan is None and examples.groups is None:
        index = draw_order(len(examples), config.seed, examples.rates)
    else:
        index = None if plan is not None else one_group_order(examples.groups, batch_size, config.seed)
        start = math.ceil(start / batch_size) * batch_size  # of a run whose batches had another size

    def read(number: int, image: np.ndarray) -> dict[str, np.ndarray]:
        place = start + number // share * batch_size + rows[number % share]
        if plan is not None:
            at = plan(place)
            return examples.drawn(at.index, scrambled(config.seed, place), image) | at.entries
        return examples.drawn(index(place), scrambled(config.seed, place), image)

    endless = sys.maxsize
    return threaded_batches(read, endless, share, examples.image_shape, config.data.threads, config.data.prefetch)


def eval_batches(
    examples: Dataset, batch_size: int, threads: int, rows: Sequence[int] | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """Every example once, in order, in batches that are all full.

    `mask` [b] is False on padding and in place of a skipped record; `index` int32 [b] is the number of the
    example. `rows`: which rows of every global batch to read, as for train_batches; all processes get equally many
    batches.
    """
    count = len(examples)
    rows = range(batch_size) if rows is None else [int(row) for row in rows]
    share = len(rows)

    def read(number: int, image: np.ndarray) -> dict[str, np.ndarray]:
        index = number // share * batch_size + rows[number % share]
        found, there = examples.drawn_or_next(index % count, None, image)
        return found | {"mask": np.bool_(there and index < count), "index": np.int32(index)}

    wanted = math.ceil(count / batch_size) * share
    yield from threaded_batches(read, wanted, share, examples.image_shape, threads, ahead=2)


# The decoded examples of a split, with the side information that an objective reads, or why the set lacks it.


def open_dataset(config, split: str, fields: frozenset[str], source: DataSource | None = None) -> Dataset:
    """The decoded examples of a split, or of `source`, with the entries in `fields`; DataError when it lacks one."""
    source = open_source(config.data, split) if source is None else source
    check_not_empty(source)
    given = [entry["name"] for entry in config.data.side]
    planned = [*(("part",) if is_planned(config.data) else ()), *(("task",) if config.data.tasks.count else ())]
    check_side_information(fields, source, [*given, *planned])
    folder = source_folder(config.data)
    tokenizer = load_tokenizer(folder) if "caption_tokens" in fields else None
    return Dataset(
        source,
        config.data.image_size,
        config.data.caption,
        fields,
        on_error=config.data.on_error,
        tokenizer=tokenizer,
        length=config.model.text.length,
        hierarchy=tuple(config.data.hierarchy),
        fit=config.data.fit,
        side=open_side(config.data.side, source, fields & set(given)),
    )


def open_evaluated(config, split: str, source: DataSource | None = None) -> Dataset:
    """The examples of a split as evaluations read them: attributes and, where the set has them, caption embeddings.

    A record without a caption gets an embedding of zeros. What the objective reads of data.side is there, too, where it
    is made of attributes.
    """
    made = {entry["name"] for entry in config.data.side if "attributes" in entry}
    fields = made & build_objective(config.objective).requires if made else set()
    examples = open_dataset(config, split, frozenset({"attributes", *fields}), source)
    if examples.source.manifest.text_encoder is not None:
        examples.fields, examples.zero_captions = examples.fields | {"caption_embedding"}, True
    return examples


def open_for_a_look(config) -> Dataset:
    """The examples that a run is trained on, for one who reads a few of them: all labels or records are not read."""
    source, _ = open_training_source(without_cache(config.data))
    objective = build_objective(config.objective)
    check_class_names(objective, source)
    return open_dataset(config, config.data.split, objective.requires, source)


def without_cache(data):
    """The section `data` of a config for a set that is opened at once, and of which only a few records are read."""
    data = copy.copy(data)
    with data.unlocked():
        data.balance, data.cache = 0.0, "none"
    return data


def check_not_empty(source: DataSource) -> None:
    """Raises DataError for a split without records, of a mixture for each."""
    for single in source.sources if isinstance(source, Mixture) else [source]:
        if not len(single):
            raise no_records(single.split, single.folder)


def no_records(split: str, folder) -> DataError:
    """The error of an empty split."""
    fix = f"Name another split, or prepare {folder} again with a larger share for it."
    return DataError(f"split {split}", 0, "at least one record", fix)


def check_class_names(objective: Objective, source: DataSource) -> None:
    """Raises DataError where an objective keeps something for every class and the set does not name its classes."""
    if objective.needs_class_names and not source.manifest.class_names:
        raise DataError(
            "class names of the dataset",
            "none",
            "a name for every class: this objective keeps something for each (class texts, or the gate of simlap)",
            "Prepare the set again with class names, or take a preset that reads labels only, as supcon.",
        )


MOST_PRESETS = 12  # named in a message


def check_side_information(fields: frozenset[str], source: DataSource, side: Collection[str] = ()) -> None:
    """Raises DataError (or Problems) for entries in `fields` that no dataset, or not this one, can deliver.

    What a set has is read off its manifest and a sample of its records: a set may lack captions here and there, and on
    some sets one record cannot be read. `side`: the entries that data.side gives.
    """

    def some(test) -> bool:
        return any(test(record) for record in sampled_records(source))

    labels = bool(source.manifest.class_names) or some(lambda record: record["label"] >= 0)
    has = {
        "label": labels,
        "class_embedding": bool(source.manifest.class_names),
        "caption_embedding": source.manifest.text_encoder is not None,
        "caption_tokens": some(lambda record: record["captions"]),
        "path": labels and some(lambda record: record["attributes"]),
        "index": True,
        "attributes": True,
    } | dict.fromkeys(side, True)
    if all(has.get(name) for name in fields):
        return
    presets = presets_that_read([name for name, there in has.items() if there])
    more = f" and {len(presets) - MOST_PRESETS} more" if len(presets) > MOST_PRESETS else ""
    fix = f"Presets that this dataset supports: {', '.join(presets[:MOST_PRESETS])}{more}."
    problems = []
    for name in sorted(fields):
        if name in BY_RECORD and name not in has:
            kind = BY_RECORD[name]
            by = "attributes or a file" if name in FROM_ATTRIBUTES else "a file"
            expected = f"{by} for {name!r} ({kind.says}) in data.side"
            problems.append(DataError(f"batch entry {name}", None, expected, f"It comes from {kind.how}. {fix}"))
        elif name in ("part", "task") and name not in has:
            plans = {"part": "data.forget, data.tasks or data.episodes", "task": "data.tasks"}[name]
            problems.append(DataError(f"batch entry {name}", None, f"batches by plan, which {plans} makes", fix))
        elif name not in has:
            problems.append(DataError(f"batch entry {name}", None, "a graph that does not read it: no set has it", fix))
        elif not has[name]:
            expected = "a dataset that has it, as the target graph or the text side of this objective reads it"
            problems.append(DataError(f"batch entry {name}", None, expected, fix))
    raise_all(problems, "what the objective reads")
