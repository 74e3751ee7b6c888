"""Retrieval: whether a match of a query is among its nearest k rows of a gallery (recall at k)."""

from collections.abc import Iterator, Sequence

import numpy as np

from xsample_jax.data.sources import sampled_records
from xsample_jax.errors import DataError, UserError
from xsample_jax.evals.context import EvalContext, Evaluator
from xsample_jax.evals.features import Features
from xsample_jax.evals.knn import neighbors
from xsample_jax.evals.metrics import Collector, partners_of, random_order


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
        itself[~itself.any(axis=1), -1] = True  # more equal rows than places: it is further back
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
    found = recall_at(x, labels, x, labels, KS, same_rows=True)
    _add(out, "image_to_image", *found, units[known], (labels, labels, True))
    if bench.text_side is None:
        return
    rows, texts, ids = bench.text_side.of_split(bench.config.eval.split)
    images, units = test.embedding[rows], units[rows]
    # A caption that several images share is one text; each of them may be its image.
    distinct, first = np.unique(ids, return_index=True)
    found = recall_at(images, ids, texts[first], distinct, KS)
    _add(out, "image_to_text", *found, units, (ids, distinct, False))
    found = recall_at(texts[first], distinct, images, ids, KS)
    _add(out, "text_to_image", *found, units[first], (distinct, ids, False))


def _add(out: Collector, direction: str, hits: dict, rows: np.ndarray, units: np.ndarray, of: tuple) -> None:
    """Adds recalls with that of a random order; `of`: ids of the queries and of the gallery, and same_rows."""
    queries, gallery, same_rows = of
    if not len(rows):
        reason = "no two images share a label" if same_rows else "no image has a caption"
        out.note(f"retrieval/{direction}: not measured, as {reason} ({len(queries)} looked at)")
        return
    partners, size = partners_of(queries[rows], gallery, same_rows), len(gallery) - same_rows
    for k, values in hits.items():
        chance = random_order(partners, size, k)
        name = f"retrieval/{direction}/R@{k}"
        out.add_per_example(name, values, units[rows], classes=len(np.unique(gallery)), chance=chance)
        if k > size:
            out.note(f"{name}: the gallery has only {size} images or texts")


RETRIEVAL = Evaluator(
    retrieval,
    "recall at 1, 5, 10: image to image of its label; image to text and back",
    check,
    tuple(f"retrieval/{direction}/R@k" for direction in ("image_to_image", "image_to_text", "text_to_image")),
)
