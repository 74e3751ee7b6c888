"""A random sample of a split's captions and their embeddings: what looking at a caption graph reads of a large set."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from xsample_jax.data.embedding_rows import unit_rows
from xsample_jax.data.record_reader import RecordSource
from xsample_jax.data.select_caption import select_caption
from xsample_jax.errors import DataError
from xsample_jax.metrics.progress import progress


@dataclasses.dataclass(frozen=True)
class CaptionSample:
    """n records of a split.

    Attributes:
      index: int [n], places in the split, rising.
      embedding: float32 [n, E], unit rows.
      captions: n texts.
      label: int [n], -1 where a record has none.
      total: records in the split; without: records looked at that have no embedding.
    """

    index: np.ndarray
    embedding: np.ndarray
    captions: Sequence[str]
    label: np.ndarray
    total: int
    without: int

    def __len__(self) -> int:
        return len(self.index)


def read_sample(
    source: RecordSource,
    which: str = "first",
    count: int = 8192,
    seed: int = 0,
    class_embeddings: np.ndarray | None = None,
) -> CaptionSample:
    """Reads at most `count` random records of a split, all of a smaller one; `which` caption as `data.caption` says.

    With `class_embeddings` [classes, E] the text of a record is that of its class. Memory: count * (E * 4 bytes and a
    caption), however large the split is.

    Raises:
      DataError: no record has an embedding.
    """
    total = len(source)
    rng = np.random.default_rng(seed)
    places = np.sort(rng.choice(total, count, replace=False, shuffle=False)) if count < total else np.arange(total)
    kept, rows, captions, labels = [], [], [], []
    for place in progress(places, "captions", len(places)):
        record = source[int(place)]
        text, row = _text_of(record, which, source, class_embeddings)
        if row is None:
            continue
        kept.append(place)
        rows.append(row)
        captions.append(text)
        labels.append(record["label"])
    if not kept:
        fix = f"Embed its captions: python -m xsample_jax.tools.embed --set={source.folder}"
        expected = "embeddings in the records" if class_embeddings is None else "records with a label"
        raise DataError(f"caption embeddings of {source.folder}", "none", expected, fix)
    embedding = unit_rows(np.stack(rows))
    return CaptionSample(np.array(kept), embedding, captions, np.array(labels), total, len(places) - len(kept))


def _text_of(record: dict, which: str, source: RecordSource, class_embeddings) -> tuple[str, np.ndarray | None]:
    if class_embeddings is not None:
        label, names = record["label"], source.manifest.class_names
        if label < 0:
            return "", None
        return names[label] if names else str(label), class_embeddings[label]
    if record["caption_embeddings"] is None:
        return "", None
    text, row = select_caption(record, which, where=str(source.folder))
    return " | ".join(record["captions"]) if text is None else text, row
