"""What is reached without looking at an image: the level that a metric has to be compared with."""

from collections.abc import Sequence

import numpy as np


def majority(labels: np.ndarray, k: int = 1) -> float:
    """Accuracy of always naming the k most frequent of the labels, int [n]; top-k for k above 1."""
    _, count = np.unique(labels, return_counts=True)
    return float(np.sort(count)[-k:].sum() / len(labels)) if len(labels) else float("nan")


def random_order(partners: np.ndarray, gallery: int, k: int) -> float:
    """Recall at k of a gallery in random order, mean over queries that have `partners` int [q] rows among `gallery`.

    1 - C(gallery - partners, k) / C(gallery, k): one minus the chance that all of the first k rows are others.
    """
    k = min(k, gallery)
    place = np.arange(k)
    others = np.maximum(gallery - np.asarray(partners)[:, None] - place, 0)
    return float(np.mean(1 - np.prod(others / (gallery - place), axis=1))) if len(partners) else float("nan")


def partners_of(query_ids: np.ndarray, gallery_ids: np.ndarray, same_rows: bool = False) -> np.ndarray:
    """How many rows of the gallery, int [n], have the id of each query, int [q]; without itself for the same rows."""
    known, count = np.unique(gallery_ids, return_counts=True)
    place = np.minimum(np.searchsorted(known, query_ids), len(known) - 1)
    return np.where(known[place] == query_ids, count[place], 0) - same_rows


def unreached(labels: np.ndarray, shots: Sequence[int], name: str) -> list[str]:
    """A note on every number of shots that some class of the training labels, int [n], does not have."""
    known, count = np.unique(labels, return_counts=True)
    notes = []
    for k in shots:
        few = int(np.sum(count < k))
        if few:
            whom = f"{'all' if few == len(known) else few} of {len(known)} classes have"
            notes.append(
                f"few_shot/{k}/{name}: {k} per class was not reached, {whom} fewer training images (the smallest "
                f"{count.min()}); all images of such a class are used"
            )
    return notes
