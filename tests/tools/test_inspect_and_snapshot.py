"""Graph images' numbers and the snapshot file."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from xsample_jax.errors import DataError
from xsample_jax.evals.features import Features
from xsample_jax.evals.knn import diverse
from xsample_jax.evals.snapshot import (
    OTHER,
    SAME_GROUP,
    SAME_LABEL,
    BatchPanel,
    find_neighbors,
    load_snapshot,
    save_snapshot,
)
from xsample_jax.graphs.targets import fold_views
from xsample_jax.reports.caption_graph import by_group, draw_graph, target_against_temperature


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def dense_target(similarity, tau, views):
    """softmax over all other rows of the V*B batch, row by row."""
    rows = np.kron(similarity, np.ones((views, views)))
    target = np.zeros_like(rows)
    for i in range(len(rows)):
        others = np.arange(len(rows)) != i
        weights = np.exp(rows[i, others] / tau)
        target[i, others] = weights / weights.sum()
    return target


@pytest.mark.parametrize("views", [1, 2, 3])
def test_target_against_temperature_is_the_dense_target(rng, views):
    e = rng.normal(size=(9, 4))
    e /= np.linalg.norm(e, axis=1, keepdims=True)
    curves = target_against_temperature(e @ e.T, [0.05, 0.3, 2.0], views)
    for place, tau in enumerate((0.05, 0.3, 2.0)):
        target = dense_target(e @ e.T, tau, views)
        entropy = [-np.sum(row[row > 0] * np.log(row[row > 0])) for row in target]
        assert curves["entropy"][place] == pytest.approx(np.mean(entropy))
        assert curves["effective_neighbors"][place] == pytest.approx(np.mean(np.exp(entropy)))
        own = [target[i, (i // views) * views : (i // views + 1) * views].sum() for i in range(9 * views)]
        assert curves["own_view_mass"][place] == pytest.approx(np.mean(own))


def test_fold_views_keeps_rows_and_puts_own_views_on_the_diagonal(rng):
    target = dense_target(rng.normal(size=(5, 5)), 1.0, 3)
    folded = fold_views(target, 3)
    np.testing.assert_allclose(folded.sum(axis=1), 1, rtol=1e-6)
    expected = np.mean([target[3 * 1 + v, 6:9].sum() for v in range(3)])
    assert folded[1, 2] == pytest.approx(expected)
    assert folded[4, 4] == pytest.approx(np.mean([target[12 + v, 12:15].sum() for v in range(3)]))
    with pytest.raises(DataError, match="views"):
        fold_views(target, 2)


def test_by_group_and_image(rng):
    order, spans = by_group(["b", "a", "b", "a", "c"])
    np.testing.assert_array_equal(order, [1, 3, 0, 2, 4])
    assert spans == [("a", 0, 2), ("b", 2, 4), ("c", 4, 5)]
    graph = np.eye(5)[[2, 1, 0, 3, 4]]  # row 0, the first of group b, is alike to row 2, the second
    shown = draw_graph(Figure().subplots(), graph, ["b", "a", "b", "a", "c"]).get_array()
    np.testing.assert_array_equal(np.asarray(shown).argmax(axis=1), [0, 1, 3, 2, 4])


@pytest.fixture
def features(rng):
    label = np.repeat(np.arange(20), 3)
    return Features(
        features=rng.normal(size=(60, 8)).astype(np.float32),
        embedding=None,
        id=rng.permutation(60),
        label=label,
        attributes={"group": label % 4, "subgroup": label % 8},
    )


def test_neighbors_are_the_nearest_others(features):
    table = find_neighbors(features, queries=8, k=5)
    unit = features.features / np.linalg.norm(features.features, axis=1, keepdims=True)
    for query, rows, relation in zip(table.query, table.row, table.relation):
        cosine = unit @ unit[query]
        cosine[query] = -2
        np.testing.assert_array_equal(rows, np.argsort(-cosine)[:5])
        for row, kind in zip(rows, relation):
            same = features.label[row] == features.label[query]
            kin = features.label[row] % 8 == features.label[query] % 8
            assert kind == (SAME_LABEL if same else SAME_GROUP if kin else OTHER)
    assert sorted(features.attributes["group"][table.query].tolist()) == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.5, 1.0])
def test_a_diverse_choice_is_that_of_a_loop(weight, rng):
    score, rows = rng.normal(size=9), rng.normal(size=(9, 4))
    alike, chosen = rows @ rows.T, []
    for _ in range(5):
        left = [n for n in range(9) if n not in chosen]
        worth = {n: (1 - weight) * score[n] - weight * max((alike[n, m] for m in chosen), default=0) for n in left}
        worth = worth if chosen else {n: score[n] for n in left}
        chosen.append(max(left, key=worth.get))
    assert diverse(score, alike, 5, weight).tolist() == chosen
    assert sorted(diverse(score, alike, 99, weight).tolist()) == list(range(9))
    if weight == 0:
        assert chosen == np.argsort(-score)[:5].tolist()


def test_near_duplicates_take_one_place_among_the_diverse():
    """Five copies of the nearest row fill the list of neighbors, and one place of the diverse choice."""
    near, other = [0.9, 0.19**0.5, 0, 0], [[0.8, 0, 0.6, 0], [0.8, 0, 0, 0.6], [0.8, 0, -0.6, 0], [-1, 0, 0, 0]]
    rows = np.array([[1, 0, 0, 0], *[near] * 5, *other], np.float32)
    label = np.array([0, 0, 0, 0, 0, 0, 1, 0, 1, 1])
    features = Features(rows, None, np.arange(10), label, {})
    table = find_neighbors(features, queries=10, k=4)
    place = int(np.flatnonzero(table.query == 0)[0])
    assert set(table.row[place]) <= set(range(1, 6))
    found = table.diverse
    assert len({*found.row[place]} & set(range(1, 6))) == 1
    assert found.row[place][0] == table.row[place][0]
    assert set(found.row[place][1:]) == {6, 7, 8}
    np.testing.assert_allclose(found.cosine[place], rows[found.row[place], 0], atol=1e-6)
    related = np.where(label[found.row[place]] == label[0], SAME_LABEL, SAME_GROUP)
    related[label[found.row[place]] != label[0]] = OTHER
    np.testing.assert_array_equal(found.relation[place], related)


def test_rows_without_a_group_are_not_of_the_same_group():
    """faults D: -1, no value, was a group of its own."""
    rows = np.eye(4, dtype=np.float32) + 0.5
    features = Features(rows, None, np.arange(4), np.full(4, -1), {"group": np.array([-1, -1, 0, 0])})
    table = find_neighbors(features, queries=4, k=3)
    for query, near, relation in zip(table.query, table.row, table.relation, strict=True):
        np.testing.assert_array_equal(relation == SAME_GROUP, (near >= 2) & (query >= 2))


def test_queries_do_not_depend_on_the_features(features):
    other = Features(features.features[:, ::-1] ** 2, None, features.id, features.label, features.attributes)
    np.testing.assert_array_equal(find_neighbors(features).query, find_neighbors(other).query)


def test_snapshot_round_trip(features, rng, tmp_path):
    table = find_neighbors(features, queries=4, k=3)
    images = rng.integers(0, 256, (60, 6, 6, 4), dtype=np.uint8)
    given = {
        "images": images[:5],
        "captions": [f"c{i}" for i in range(5)],
        "groups": list("abcab"),
        "target": dense_target(np.eye(5), 1.0, 2),
        "student": dense_target(np.eye(5), 0.2, 2),
        "views": 2,
    }
    save_snapshot(
        tmp_path / "report_data.npz",
        BatchPanel(**given),
        neighbors=table,
        image_of=lambda row: (images[row], f"image {row}"),
    )
    shot = load_snapshot(tmp_path / "report_data.npz")
    assert shot["target"].shape == (5, 5)
    assert shot["images"].shape == (5, 6, 6, 3)
    clear = images[:5, ..., 3] == 0
    assert np.all(shot["images"][clear] == 255)
    for line in range(4):
        assert shot["gallery_captions"][shot["query"][line]] == f"image {table.query[line]}"
        for place in range(3):
            assert shot["gallery_captions"][shot["neighbor"][line, place]] == f"image {table.row[line, place]}"
            different = shot["gallery_captions"][shot["diverse/neighbor"][line, place]]
            assert different == f"image {table.diverse.row[line, place]}"
    with pytest.raises(DataError, match="target graph"):
        BatchPanel(**given | {"views": 1})
