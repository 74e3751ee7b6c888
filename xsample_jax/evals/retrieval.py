"""Retrieval: whether what belongs to a query is among its nearest k rows of a gallery (recall at k)."""

from collections.abc import Sequence

import numpy as np

from xsample_jax.evals.features import Features
from xsample_jax.evals.knn import neighbours


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
    index, _ = neighbours(gallery, query[rows], max(ks) + same_rows)
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
