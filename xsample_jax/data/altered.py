"""Fewer images, wrong labels, wrong captions: the training split as the config asks for it, for experiments."""

from collections.abc import Callable, Sequence

from xsample_jax.data.caption_noise import wrong_captions
from xsample_jax.data.label_noise import wrong_labels
from xsample_jax.data.labels import read_labels
from xsample_jax.data.samples_per_class import choose_samples


class Altered:
    """A source of records (data/record_reader.py), some of them left out or changed.

    Args:
      source: what it is made of.
      change: record -> record.
      indices: which records of `source`, in this order; None: all.
    """

    def __init__(self, source, change: Callable[[dict], dict] | None = None, indices: Sequence[int] | None = None):
        self._source, self._change, self._indices = source, change, indices
        self.folder, self.split = source.folder, source.split
        self.manifest, self.channels = source.manifest, source.channels

    def __len__(self) -> int:
        return len(self._source) if self._indices is None else len(self._indices)

    def __getitem__(self, i: int) -> dict:
        record = self._source[self._index(i)]
        return record if self._change is None else self._change(record)

    def locate(self, i: int) -> str:
        return self._source.locate(self._index(i))

    def _index(self, i: int) -> int:
        return i if self._indices is None else int(self._indices[i])


def altered(source, data, seed: int):
    """`source` with data.samples_per_class, data.caption_noise and data.label_noise of the config; itself without.

    The same for the same seed, whatever else changes: noise depends on the seed and the id of a record alone, the
    choice of samples on the seed and the place in the split.
    Raises DataError where the set has no labels or captions to change.
    """
    whole = source
    if data.samples_per_class is not None:
        source = Altered(source, indices=choose_samples(source, data.samples_per_class, seed))
    if data.caption_noise:
        source = Altered(source, wrong_captions(source, data.caption_noise, seed))
    if data.label_noise:
        source = Altered(source, wrong_labels(read_labels(whole), data.label_noise, seed))
    return source
