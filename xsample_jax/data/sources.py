"""From the `data` section of a config to an open dataset."""

import contextlib
import copy
import dataclasses
import hashlib
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np

from xsample_jax.augment.ids import NARROW, VECTOR_CHANNELS
from xsample_jax.data.loader import Rates, Shares, record_rates
from xsample_jax.data.records import (
    PRECISION,
    DataSource,
    Manifest,
    Record,
    RecordSource,
    differing,
    open_records,
    read_manifest,
)
from xsample_jax.data.shards import ShardList, shard_cache
from xsample_jax.data.writer import look_alikes, repeated
from xsample_jax.distributed import log_info
from xsample_jax.errors import ConfigError, DataError, did_you_mean, lookup
from xsample_jax.io.files import atomic_write, load_arrays, save_array
from xsample_jax.io.paths import as_path, in_bucket
from xsample_jax.metrics.profiling import host_memory
from xsample_jax.metrics.progress_bar import progress

# Several datasets as one training split.


class Mixture:
    """The records of `sources` (data/records.py), one after the other; a source like them.

    Classes are those of all sets, by name: "cat" is one class wherever it comes from; records of a set that does not
    name its classes have none. Attributes are those that all sets have, with the same values. The id of a record is its
    place in the mixture, as two sets may use the same ids.

    Raises DataError where the caption embeddings of two sets are not of the same encoder.
    """

    def __init__(self, sources: Sequence[DataSource]):
        self.sources, self.channels = list(sources), sources[0].channels
        self.folder, self.split = sources[0].folder, sources[0].split
        self._ends = np.cumsum([len(source) for source in sources])
        self.wide_ids = int(self._ends[-1]) > NARROW  # its ids are places
        self.manifest = _merged(sources)
        number = {name: place for place, name in enumerate(self.manifest.class_names)}
        # Label of a set -> label of the mixture. The last entry is for -1.
        self._classes = [
            np.array([*(number[name] for name in source.manifest.class_names), -1], np.int32) for source in sources
        ]

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, i: int) -> Record:
        which, place = self._position(i)
        record = self.sources[which][place]
        label = int(self._classes[which][record["label"] if len(self._classes[which]) > 1 else -1])
        attributes = {name: record["attributes"][name] for name in self.manifest.attributes}
        return record | {"id": int(i), "label": label, "attributes": attributes}

    def locate(self, i: int) -> str:
        which, place = self._position(i)
        return f"{self.sources[which].folder}/{self.sources[which].locate(place)}"

    def place(self, i: int) -> int:
        """Which record it is, as data.side counts them."""
        return i

    def labels(self, of_sources: Sequence[np.ndarray]) -> np.ndarray:
        """Labels of the mixture, int32 [records], from those of its sets."""
        pairs = zip(self._classes, of_sources, strict=True)
        return np.concatenate([to[labels if len(to) > 1 else np.full(len(labels), -1)] for to, labels in pairs])

    def _position(self, i: int) -> tuple[int, int]:
        if not 0 <= i < len(self):
            raise IndexError(f"record {i} of {len(self)} of the mixture")
        which = int(np.searchsorted(self._ends, i, side="right"))
        return which, int(i) - (int(self._ends[which - 1]) if which else 0)


def _merged(sources: Sequence[DataSource]) -> Manifest:
    """What the manifests of the sets come to."""
    manifests, split = [source.manifest for source in sources], sources[0].split
    encoders = [manifest.text_encoder for manifest in manifests]
    for source, encoder in zip(sources[1:], encoders[1:], strict=True):
        there = differing(encoder or {}, encoders[0] or {})
        if there.keys() - PRECISION:
            fix = "Embed the captions of both with the same model: python -m xsample_jax.tools.embed --overwrite."
            raise DataError(
                f"data.mix: text encoder of {source.folder}", encoder, f"that of the first set, {encoders[0]}", fix
            )
    _check_class_names(sources)
    common = set.intersection(*(set(manifest.attributes) for manifest in manifests))
    attributes = {
        name: values
        for name, values in manifests[0].attributes.items()
        if name in common and all(manifest.attributes[name] == values for manifest in manifests)
    }
    shards = ShardList(shard for source in sources for shard in source.manifest.splits[source.split]["shards"])
    return Manifest(
        name="+".join(manifest.name for manifest in manifests),
        splits={split: {"count": sum(map(len, sources)), "shards": shards}},
        class_names=tuple(dict.fromkeys(name for manifest in manifests for name in manifest.class_names)),
        attributes=attributes,
        text_encoder=encoders[0],
    ).with_fingerprint()


def _check_class_names(sources: Sequence[DataSource]) -> None:
    """DataError for a set in which classes share a name, as they would become one; a note on names read alike."""
    for source in sources:
        if twice := repeated(source.manifest.class_names):
            fix = "Prepare the set again with a name of its own for each class."
            field = f"data.mix: class names of {source.folder}"
            raise DataError(field, twice[:3], "names that only one class has, as sets are joined by name", fix)
    for group in look_alikes(name for source in sources for name in source.manifest.class_names)[:3]:
        log_info(f"data.mix: {', '.join(map(ascii, group))} are read alike, but remain different classes")


# A few records of a split, to learn what a set has that its manifest does not say.


FIRST, SPREAD = 64, 256


def sampled_records(source: DataSource) -> Iterator[Record]:
    """The first records that can be read, then others spread evenly over the split.

    The first ones are side by side, so a caller that finds what it looks for among them fetches one shard from a
    bucket. Raises the error of the very first record where none can be read.
    """
    count = len(source)
    spread = [place for place in spread_places(count, SPREAD) if place >= FIRST]
    return readable(source, itertools.chain(range(min(FIRST, count)), spread))


def readable(source: DataSource, places) -> Iterator[Record]:
    """The records at `places` that can be read; raises the error of the first one where none can."""
    refused = None
    found = False
    for place in places:
        try:
            record = source[int(place)]
        except DataError as error:
            refused = refused or error
            continue
        found = True
        yield record
    if refused is not None and not found:
        raise refused


def spread_places(count: int, most: int) -> np.ndarray:
    """At most `most` of the places 0 to `count` (without it), spread evenly, each once; int [n]."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int))


# An attribute used as the class (data.label).


class Relabeled:
    """The records of `source` with an attribute as their class, and its values as the names of the classes.

    The value "" says that a record has none: its label is -1.

    Raises ConfigError for an attribute that the set does not have.
    """

    def __init__(self, source: DataSource, attribute: str):
        self._source, self.attribute = source, attribute
        self.folder, self.split, self.channels = source.folder, source.split, source.channels
        self.wide_ids = getattr(source, "wide_ids", False)
        there = source.manifest.attributes
        if attribute not in there:
            expected = f"an attribute of {source.folder}: {', '.join(there) or 'it has none'}"
            raise ConfigError("data.label", attribute, expected, did_you_mean(attribute, there))
        names = [value for value in there[attribute] if value]
        self.manifest = dataclasses.replace(source.manifest, class_names=tuple(names))
        self._labels = [names.index(value) if value else -1 for value in there[attribute]]

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, i: int) -> Record:
        record = self._source[i]
        number = record["attributes"].get(self.attribute)
        return record | {"label": -1 if number is None else self._labels[number]}

    def locate(self, i: int) -> str:
        return self._source.locate(i)

    def place(self, i: int) -> int:
        """Which record of the split it is, as data.side counts them."""
        return self._source.place(i)


# The labels of a whole split: read once, then kept beside the set.


LONG = 10.0  # seconds


def read_labels(source: DataSource) -> np.ndarray:
    """int32 [records], -1 for none. Reads every record of the split the first time, which takes as long as that takes.

    Where that was long, and the folder may be written to, those of a whole split are kept in
    `labels-SPLIT-FINGERPRINT.npy`.
    """
    altered = getattr(source, "altered", False)  # fewer records, or other labels: none to keep
    by = f"-{source.attribute}" if isinstance(source, Relabeled) else ""
    path = source.folder / f"labels-{source.split}-{source.manifest.fingerprint[:16]}{by}.npy"
    with contextlib.suppress(OSError, ValueError):  # not there yet
        if not altered:
            return load_arrays(path)
    start, first = time.monotonic(), jax.process_index() == 0
    places = progress(range(len(source)), f"labels of {source.split}", len(source), enabled=first)
    labels = np.fromiter((_label(source, place) for place in places), np.int32, len(source))
    if first and not altered and time.monotonic() - start > LONG:
        with contextlib.suppress(DataError):  # a set that is only to be read: the next run reads it once more
            atomic_write(path, lambda partial: save_array(partial, labels))
    return labels


def _label(source: DataSource, place: int) -> int:
    try:
        return source[place]["label"]
    except DataError:  # training will meet it too, and stop or go on as data.on_error says
        return -1


def read_ids(source: DataSource) -> np.ndarray:
    """int64 [records], the ids of all records; -1 for one that cannot be read."""

    def of(place: int) -> int:
        try:
            return source[place]["id"]
        except DataError:
            return -1

    return np.array([of(place) for place in range(len(source))], np.int64)


EMOJI_FOLDER = Path(__file__).parent / "emoji"
# (folder, split) of the embedded set -> what is read of it, in a tenth of a second: a run opens it ten times.
_embedded: dict[tuple[Path, str], dict[int, list[bytes]]] = {}


def open_emoji(data, split: str) -> RecordSource:
    """Opens a split of the emoji set, embedded or copied to `data.path`: RGBA images, so `channels` is 4."""
    folder = source_folder(data)
    source = open_records(folder, split, data.fingerprint, channels=4)
    # At most 30 MB, and its records are packed in groups that are slow to read one by one.
    source.preload(_embedded.setdefault((folder, split), {}) if folder == EMOJI_FOLDER else None)
    return source


def open_folder(data, split: str) -> RecordSource:
    """Opens a split of the dataset in `data.path`; alpha, if any, is composited on white (`channels` is 3)."""
    if not data.path:
        fix = "Give the folder that `python -m xsample_jax.tools.prepare` wrote."
        raise ConfigError("data.path", data.path, "a folder with a manifest.json when data.source=records", fix)
    source = open_records(data.path, split, data.fingerprint, channels=3)
    size = _size(source.manifest, source.split)
    if data.cache == "ram":
        check_memory("ram", f"of records in split {source.split}", size)
        source.preload()
    if data.cache == "disk" and in_bucket(source.folder):
        source.read_through(shard_cache(size))
    return source


def _size(manifest: Manifest, split: str) -> int:
    return int(manifest.splits[split]["shards"].sizes.sum()) if split in manifest.splits else 0


def _check_cache(data, folders: list[str]) -> None:
    """ConfigError where the sets that are trained on are too large, together, for the place that keeps them."""
    if data.cache in ("ram", "disk"):
        sizes = {folder: _size(read_manifest(folder), data.split) for folder in folders}
        if data.cache == "ram":
            check_memory("ram", f"of records in split {data.split} of {len(folders)} sets", sum(sizes.values()))
        else:
            shard_cache(sum(size for folder, size in sizes.items() if in_bucket(folder)))


def check_memory(cache: str, what: str, size: int) -> None:
    """Raises ConfigError where `size` bytes are more than half of this host's memory: the rest is needed."""
    memory = host_memory()
    if size > memory / 2:
        found = f"{cache}, for {size / 2**30:,.1f} GiB {what}"
        expected = f"at most half of the {memory / 2**30:,.1f} GiB of this host"
        raise ConfigError("data.cache", found, expected, "Set --config.data.cache=none.")


def check_kept(field: str, value, records: int, size: int, none: str) -> None:
    """Raises ConfigError where `size` bytes for each of the records are more than half of this host's memory.

    value: what the config has for `field`; `none`: the value that needs no memory.
    """
    memory = host_memory()
    if records * size > memory / 2:
        expected = (
            f"{none} for {records:,} records: it keeps {size} bytes for each, {records * size / 2**30:,.0f} GiB, and "
            f"this host has {memory / 2**30:,.1f} GiB, half of it for that"
        )
        raise ConfigError(field, value, expected, f"Set --config.{field}={none}, or train on a part of the set.")


def open_vectors(data, split: str) -> RecordSource:
    """Opens a split of a dataset whose records hold vectors; `channels` is the number of bytes of one of theirs."""
    source = open_folder(data, split)
    source.channels = VECTOR_CHANNELS
    return source


def refuse_images(data, split: str) -> RecordSource:
    """Raises ConfigError: a folder of images is prepared where a run starts (prepare/prepare.py), only there."""
    fix = "Prepare it: python -m xsample_jax.tools.prepare --source=folder --path=FOLDER --out=NEW."
    raise ConfigError("data.source", "folder", "records, except where a run starts", fix)


SOURCES = {
    "emoji": open_emoji,
    "emoji_folder": open_emoji,
    "folder": refuse_images,
    "records": open_folder,
    "vectors": open_vectors,
}


def source_folder(data) -> Path:
    """Returns the folder of the set that `data` names (manifest.json and tokenizer.json are in it)."""
    return EMOJI_FOLDER if data.source == "emoji" else as_path(data.path, "data.path")


def open_source(data, split: str) -> RecordSource:
    """Opens `split` of the set that the `data` section of a config describes.

    Args:
      data: has `source`, `path`, `fingerprint` and `label`.
      split: name of the split.

    Raises:
      ConfigError: unknown `source`, no `path` where one is needed, or a `label` that is not an attribute.
      DataError: the set is missing, unfinished, of another fingerprint, or has no such split.
    """
    source = lookup(SOURCES, data.source, "data.source")(data, split)
    return source if data.label is None else Relabeled(source, data.label)


def _trained_sets(data) -> list:
    """The `data` section of each set that is trained on: itself, then one for each entry of data.mix."""
    sets = [data]
    for entry in data.mix:
        sets.append(copy.copy(data))
        with sets[-1].unlocked():
            sets[-1].update(path=entry["path"], fingerprint=None)
    return sets


def fingerprints_of(data) -> list[str]:
    """The fingerprints of the sets that are trained on, by their manifests alone. Raises as `read_manifest`."""
    return [read_manifest(source_folder(one)).fingerprint for one in _trained_sets(data)]


def identify_images(config, fingerprints: Sequence[str]) -> str:
    """12 hex digits that change with the images that are trained on or with their order, which numbers per image need.

    fingerprints: of the sets, in their order.
    """
    drawn = (config.data.fraction, config.data.samples_per_class)
    found = [config.data.split, *fingerprints, drawn]
    if drawn != (1.0, None):
        found.append(config.seed)
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:12]


RATED = 80  # bytes for each record that has a rate of its own: its rate and group, the orders of two epochs


def open_training_source(data) -> tuple[RecordSource | Mixture, Rates | Shares | None]:
    """Opens the split that is trained on, with the sets of data.mix; and how often each record is drawn (rates.py).

    Raises as `open_source` does, and DataError for sets that do not go together.
    """
    if data.mix:
        _check_cache(data, [data.path, *(entry["path"] for entry in data.mix)])
    sources = [open_source(one, data.split) for one in _trained_sets(data)]
    shares = [1 - sum(entry["share"] for entry in data.mix), *(entry["share"] for entry in data.mix)]
    if data.balance:
        check_kept("data.balance", data.balance, sum(map(len, sources)), RATED, "0")
    labels = [read_labels(source) for source in sources] if data.balance else None
    if len(sources) == 1:
        source, labels = sources[0], labels and labels[0]
    else:
        source = Mixture(sources)
        labels = labels and source.labels(labels)
    return source, record_rates(list(map(len, sources)), shares if data.mix else [], labels, data.balance)
