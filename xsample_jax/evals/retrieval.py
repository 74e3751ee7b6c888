"""Cross-style retrieval: a drawing of a concept in one style must find the same concept among drawings of another."""

import numpy as np

from xsample_jax.evals.features import Features
from xsample_jax.evals.knn import neighbours


def recall_at_1(
    query: np.ndarray, query_concepts: np.ndarray, gallery: np.ndarray, gallery_concepts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Scores every query [m, F] by whether its nearest gallery row [n, F] (cosine) shows the same concept.

    A query whose concept is not in the gallery could only fail and is left out.

    Returns:
      (correct float32 [q], concepts int [q]) of the queries that are left.
    """
    possible = np.isin(query_concepts, gallery_concepts)
    concepts = query_concepts[possible]
    if not len(concepts):
        return np.zeros(0, np.float32), concepts
    index, _ = neighbours(gallery, query[possible], 1)
    return (gallery_concepts[index[:, 0]] == concepts).astype(np.float32), concepts


def cross_style(query: Features, query_style: str, gallery: Features, gallery_style: str):
    """`recall_at_1` from the rows of one style to those of another; label = concept."""
    query, gallery = query.where("style", query_style), gallery.where("style", gallery_style)
    return recall_at_1(query.features, query.label, gallery.features, gallery.label)
