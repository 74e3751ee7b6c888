"""Which caption of a record training sees, and its embedding: the key `data.caption`.

Embeddings are of captions, one each (captions/embed.py), or a record has one vector of its own (captions/vectors.py).
"""

import numpy as np

from xsample_jax.data.records import unit_rows
from xsample_jax.errors import DataError


def select_caption(
    record: dict, which: str, where: str = "manifest.json", draw: int | None = None, needed: bool = True
) -> tuple[str | None, np.ndarray | None]:
    """Picks the caption and the embedding that `data.caption` asks for.

    Args:
      record: as a RecordSource returns it.
      which: "first", "mean" (renormalized mean of the embeddings; no single caption), "random", or an index as text.
      where: names the set in errors, as the path of its manifest.
      draw: a random number >= 0, for "random"; None (evaluation) takes the first.
      needed: a record without what is asked for is an error; else it gives (None, None).

    Returns:
      (caption or None, float16 [E] of unit length or None). Without captions "first" and "random" give (None, None).
      An own vector of the record (captions/vectors.py) is its embedding with any caption, or none.

    Raises:
      DataError: the record has no embeddings to average, or not that many captions.
    """
    captions, embeddings = record["captions"], record["caption_embeddings"]
    if which == "mean":
        if embeddings is None:
            if not needed:
                return None, None
            fix = "Embed its captions with `python -m xsample_jax.tools.embed`, or set data.caption=first."
            raise DataError("data.caption", which, f"caption embeddings in the set of {where}", fix)
        return None, _unit(unit_rows(embeddings).mean(axis=0), record, where)
    if embeddings is not None and len(embeddings) == 1 != len(captions):  # a vector of the record, for any caption
        captions, embeddings = captions or [None], np.repeat(embeddings, len(captions) or 1, axis=0)
    if which in ("first", "random"):
        if not captions:
            return None, None
        index = draw % len(captions) if which == "random" and draw is not None else 0
    else:
        index = int(which)
    if index >= len(captions):
        if not needed:
            return None, None
        expected = f"one of the {len(captions)} captions that a record has in the set of {where}"
        fix = "Set data.caption=first or a smaller index, or prepare the set with more captions."
        raise DataError("data.caption", which, expected, fix)
    embedding = None if embeddings is None else _unit(embeddings[index].astype(np.float32), record, where)
    return captions[index], embedding


def _unit(vector: np.ndarray, record: dict, where: str) -> np.ndarray:
    """Scales to unit length in float32, then rounds to float16."""
    norm = np.linalg.norm(vector)
    if not norm > 1e-6:
        field = f"caption embedding of id {record['id']}"
        raise DataError(field, "a zero vector", f"a direction, in the set of {where}", "Embed the captions again.")
    return (vector / norm).astype(np.float16)
