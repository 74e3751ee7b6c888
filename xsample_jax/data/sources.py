"""From the `data` section of a config to an open record set."""

import copy
import os
from pathlib import Path

from xsample_jax.data.labels import read_labels
from xsample_jax.data.manifest import Manifest, read_manifest
from xsample_jax.data.mixture import Mixture
from xsample_jax.data.rates import Rates, record_rates
from xsample_jax.data.record_reader import RecordSource, open_records
from xsample_jax.data.shard_cache import shard_cache
from xsample_jax.errors import ConfigError, lookup
from xsample_jax.storage.paths import as_path, in_bucket

EMOJI_FOLDER = Path(__file__).parent / "emoji"


def open_emoji(data, split: str) -> RecordSource:
    """Opens a split of the emoji set, embedded or copied to `data.path`: RGBA pictures, so `channels` is 4."""
    source = open_records(source_folder(data), split, data.fingerprint, channels=4)
    source.preload()  # at most 30 MB, and its records are packed in groups that are slow to read one by one
    return source


def open_folder(data, split: str) -> RecordSource:
    """Opens a split of the record set in `data.path`; alpha, if any, is composited on white (`channels` is 3)."""
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
    return sum(shard["bytes"] for shard in manifest.splits.get(split, {"shards": []})["shards"])


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
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > memory / 2:
        found = f"{cache}, for {size / 2**30:,.1f} GiB {what}"
        expected = f"at most half of the {memory / 2**30:,.1f} GiB of this host"
        raise ConfigError("data.cache", found, expected, "Set --config.data.cache=none.")


SOURCES = {"emoji": open_emoji, "emoji_folder": open_emoji, "records": open_folder}


def source_folder(data) -> Path:
    """Returns the folder of the set that `data` names (manifest.json and tokenizer.json are in it)."""
    return EMOJI_FOLDER if data.source == "emoji" else as_path(data.path, "data.path")


def open_source(data, split: str) -> RecordSource:
    """Opens `split` of the set that the `data` section of a config describes.

    Args:
      data: has `source`, `path` and `fingerprint`.
      split: name of the split.

    Raises:
      ConfigError: unknown `source`, or no `path` where one is needed.
      DataError: the set is missing, unfinished, of another fingerprint, or has no such split.
    """
    return lookup(SOURCES, data.source, "data.source")(data, split)


def open_training_source(data) -> tuple[RecordSource | Mixture, Rates | None]:
    """Opens the split that is trained on, with the sets of data.mix; and how often each record is drawn (rates.py).

    Raises as `open_source` does, and DataError for sets that do not go together.
    """
    if data.mix:
        _check_cache(data, [data.path, *(entry["path"] for entry in data.mix)])
    sources = [open_source(data, data.split)]
    for entry in data.mix:
        other = copy.copy(data)
        with other.unlocked():
            other.update(path=entry["path"], fingerprint=None)
        sources.append(open_source(other, data.split))
    shares = [1 - sum(entry["share"] for entry in data.mix), *(entry["share"] for entry in data.mix)]
    labels = [read_labels(source) for source in sources] if data.balance else None
    if len(sources) == 1:
        source, labels = sources[0], labels and labels[0]
    else:
        source = Mixture(sources)
        labels = labels and source.labels(labels)
    return source, record_rates(list(map(len, sources)), shares if data.mix else [], labels, data.balance)
