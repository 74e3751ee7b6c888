"""Several record sets as one training split."""

from collections.abc import Sequence

import numpy as np

from xsample_jax.data.manifest import Manifest
from xsample_jax.data.text_encoder import PRECISION, differing
from xsample_jax.errors import DataError


class Mixture:
    """The records of `sources` (data/record_reader.py), one after the other; a source like them.

    Classes are those of all sets, by name: "cat" is one class wherever it comes from; records of a set that does not
    name its classes have none. Attributes are those that all sets have, with the same values. The id of a record is its
    place in the mixture, as two sets may use the same ids.

    Raises DataError where the caption embeddings of two sets are not of the same encoder.
    """

    def __init__(self, sources: Sequence):
        self.sources, self.channels = list(sources), sources[0].channels
        self.folder, self.split = sources[0].folder, sources[0].split
        self._ends = np.cumsum([len(source) for source in sources])
        self.manifest = _merged(sources)
        number = {name: place for place, name in enumerate(self.manifest.class_names)}
        # Label of a set -> label of the mixture. The last entry is for -1.
        self._classes = [
            np.array([*(number[name] for name in source.manifest.class_names), -1], np.int32) for source in sources
        ]

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, i: int) -> dict:
        which, place = self._position(i)
        record = self.sources[which][place]
        label = int(self._classes[which][record["label"] if len(self._classes[which]) > 1 else -1])
        attributes = {name: record["attributes"][name] for name in self.manifest.attributes}
        return record | {"id": int(i), "label": label, "attributes": attributes}

    def locate(self, i: int) -> str:
        which, place = self._position(i)
        return f"{self.sources[which].folder}/{self.sources[which].locate(place)}"

    def labels(self, of_sources: Sequence[np.ndarray]) -> np.ndarray:
        """Labels of the mixture, int32 [records], from those of its sets."""
        pairs = zip(self._classes, of_sources, strict=True)
        return np.concatenate([to[labels if len(to) > 1 else np.full(len(labels), -1)] for to, labels in pairs])

    def _position(self, i: int) -> tuple[int, int]:
        if not 0 <= i < len(self):
            raise IndexError(f"record {i} of {len(self)} of the mixture")
        which = int(np.searchsorted(self._ends, i, side="right"))
        return which, int(i) - (int(self._ends[which - 1]) if which else 0)


def _merged(sources: Sequence) -> Manifest:
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
    common = set.intersection(*(set(manifest.attributes) for manifest in manifests))
    attributes = {
        name: values
        for name, values in manifests[0].attributes.items()
        if name in common and all(manifest.attributes[name] == values for manifest in manifests)
    }
    shards = [shard for source in sources for shard in source.manifest.splits[source.split]["shards"]]
    return Manifest(
        name="+".join(manifest.name for manifest in manifests),
        splits={split: {"count": sum(map(len, sources)), "shards": shards}},
        class_names=tuple(dict.fromkeys(name for manifest in manifests for name in manifest.class_names)),
        attributes=attributes,
        text_encoder=encoders[0],
    ).with_fingerprint()
