"""Recall at k against the rank of the first match in a full sort."""

import numpy as np
import pytest

from xsample_jax.evals import knn
from xsample_jax.evals.retrieval import recall_at


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def ranks_by_sorting(query, query_ids, gallery, gallery_ids, skip_self=False):
    """Place, from 1, of the first gallery row with the id of the query; inf where there is none."""
    places = []
    for number, row in enumerate(unit(query)):
        order = [j for j in np.argsort(-(unit(gallery) @ row)) if not (skip_self and j == number)]
        hits = [place for place, j in enumerate(order, 1) if gallery_ids[j] == query_ids[number]]
        places.append(hits[0] if hits else np.inf)
    return np.array(places)


@pytest.fixture
def pairs():
    rng = np.random.default_rng(0)
    gallery, gallery_ids = rng.normal(size=(60, 6)), rng.permutation(np.repeat(np.arange(30), 2))
    query_ids = np.arange(40)  # ten of them are in no row of the gallery
    query = rng.normal(size=(40, 6))
    for number in range(30):
        query[number] += 1.5 * gallery[gallery_ids == number][0]
    return query, query_ids, gallery, gallery_ids


def test_recall_is_the_share_of_ranks_up_to_k(pairs):
    places = ranks_by_sorting(*pairs)
    hits, rows = recall_at(*pairs, ks=(1, 5, 10))
    np.testing.assert_array_equal(rows, np.arange(30))
    for k in (1, 5, 10):
        np.testing.assert_array_equal(hits[k], places[:30] <= k)
    assert 0 < hits[1].mean() < hits[5].mean() < hits[10].mean() < 1


def test_recall_does_not_depend_on_the_tiles(pairs, monkeypatch):
    whole, _ = recall_at(*pairs)
    monkeypatch.setattr(knn, "_TILE", 7 * 60)  # seven queries at a time
    tiled, _ = recall_at(*pairs)
    for k, values in whole.items():
        np.testing.assert_array_equal(tiled[k], values)


def test_a_row_does_not_find_itself(pairs):
    _, _, x, ids = pairs
    ids = ids.copy()
    ids[0] = 99  # alone: it could only fail
    places = ranks_by_sorting(x, ids, x, ids, skip_self=True)
    hits, rows = recall_at(x, ids, x, ids, ks=(1, 3), same_rows=True)
    assert 0 not in rows
    assert len(rows) == 58  # its former partner is alone as well
    for k in (1, 3):
        np.testing.assert_array_equal(hits[k], places[rows] <= k)


def test_twins_do_not_hide_a_row_from_being_left_out():
    x = np.ones((6, 2))
    hits, _ = recall_at(x, np.array([0, 0, 1, 1, 2, 2]), x, np.array([0, 0, 1, 1, 2, 2]), ks=(1, 5), same_rows=True)
    assert hits[5].all()  # five others, one of them the partner
    assert hits[1].mean() < 1
