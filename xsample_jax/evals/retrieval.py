"""Retrieval: whether what belongs to a query is among its nearest k rows of a gallery (recall at k)."""

from collections.abc import Iterator, Sequence

import numpy as np

from xsample_jax.data.dataset import sampled_records
from xsample_jax.errors import DataError, UserError
from xsample_jax.evals.context import EvalContext, Evaluator
from xsample_jax.evals.features import Features
from xsample_jax.evals.knn import neighbors
from xsample_jax.evals.metrics import Collector


def recall_at(
    query: np.ndarray,
    query_ids: np.ndarray,
    gallery: np.ndarray,
    gallery_ids: np.ndarray,
    ks: Sequence[int] = (1, 5, 10),
    same_rows: bool = False,
) -> tuple[dict[int, np.ndarray], np.ndarray]:
    """Scores every query [m, F] by whether one of its k nearest gallery rows [n, F] (cosine) has its id.

    Memory is bounded whatever m and n: the cosines are made in tiles, of which only the best stay. A query whose id is
    not in the gallery could only fail and is left out.

    Args:
      query_ids, gallery_ids: int, equal where two rows belong together (label, caption, number of the pair).
      ks: in any order.
      same_rows: query and gallery are the same rows, and no row may find itself.

    Returns:
      ({k: hit float32 [q]}, row numbers int [q] of the queries that are left).
    """
    if same_rows:
        _, position, count = np.unique(query_ids, return_inverse=True, return_counts=True)
        rows = np.flatnonzero(count[position] > 1)
    else:
        rows = np.flatnonzero(np.isin(query_ids, gallery_ids))
    if not len(rows):
        return {k: np.zeros(0, np.float32) for k in ks}, rows
    index, _ = neighbors(gallery, query[rows], max(ks) + same_rows)
    match = gallery_ids[index] == query_ids[rows][:, None]
    if same_rows:
        itself = index == rows[:, None]
        itself[~itself.any(axis=1), -1] = True  # more equal rows than places: it stands further back
        match = match[~itself].reshape(len(rows), -1)
    return {k: match[:, :k].any(axis=1).astype(np.float32) for k in ks}, rows


def cross_style(query: Features, query_style: str, gallery: Features, gallery_style: str):
    """(hits at 1, concepts) from the rows of one style to those of another; label = concept."""
    query, gallery = query.where("style", query_style), gallery.where("style", gallery_style)
    hits, rows = recall_at(query.features, query.label, gallery.features, gallery.label, (1,))
    return hits[1], query.label[rows]


# Retrieval on the evaluation split: images of the same label, and captions of images and back.


KS = (1, 5, 10)


def check(bench: EvalContext) -> Iterator[UserError]:
    source = bench.source(bench.config.eval.split)
    if bench.text_side is not None:
        yield from bench.text_side.check(source)
    elif not any(record["label"] >= 0 for record in sampled_records(source)):
        fix = "Evaluate on another set: --config.data.path=FOLDER."
        yield DataError("retrieval", "a set without labels", "labels, or a model that embeds texts", fix)


def retrieval(bench: EvalContext, out: Collector) -> None:
    test = bench.test
    units = bench.units(test)
    known = np.flatnonzero(test.label >= 0)
    x, labels = test.features[known], test.label[known]
    _add(out, "image_to_image", *recall_at(x, labels, x, labels, KS, same_rows=True), units[known])
    if bench.text_side is None:
        return
    rows, texts, ids = bench.text_side.of_split(bench.config.eval.split)
    images, units = test.embedding[rows], units[rows]
    # A caption that several images share is one text; each of them may be its image.
    distinct, first = np.unique(ids, return_index=True)
    _add(out, "image_to_text", *recall_at(images, ids, texts[first], distinct, KS), units)
    _add(out, "text_to_image", *recall_at(texts[first], distinct, images, ids, KS), units[first])


def _add(out: Collector, direction: str, hits: dict[int, np.ndarray], rows: np.ndarray, units: np.ndarray) -> None:
    for k, values in hits.items():
        if len(rows):
            out.add_per_example(f"retrieval/{direction}/R@{k}", values, units[rows])


RETRIEVAL = Evaluator(retrieval, "recall at 1, 5, 10: image to image of its label; image to text and back", check)
