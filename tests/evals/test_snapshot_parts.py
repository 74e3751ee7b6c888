"""The parts of a snapshot: map of the embedding, worst errors."""

import dataclasses
import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest

from xsample_jax.errors import ConfigError
from xsample_jax.evals.features import Features
from xsample_jax.evals.snapshot import (
    MOST_COMMON,
    colorings,
    error_arrays,
    find_errors,
    map_arrays,
    principal_plane,
    target_of,
)
from xsample_jax.loop import check_map
from xsample_jax.reports.figures import map_panels


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def features(rows, label, **attributes):
    return Features(np.asarray(rows, np.float32), None, np.arange(len(label)), np.asarray(label), attributes)


def test_plane_has_the_largest_variance_and_its_share(rng):
    x = rng.normal(size=(80, 6)) * [5, 3, 1, 1, 1, 1]
    xy, share = principal_plane(x)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    centered = unit - unit.mean(axis=0)
    u, s, _ = np.linalg.svd(centered, full_matrices=False)
    np.testing.assert_allclose(np.abs(xy), np.abs(u[:, :2] * s[:2]), atol=1e-5)
    np.testing.assert_allclose(share, s[:2] ** 2 / np.sum(s**2), atol=1e-6)
    np.testing.assert_allclose(principal_plane(x)[0], xy)


def test_colorings_are_what_colors_can_tell(rng):
    label = np.arange(60) // 2
    of = features(rng.normal(size=(60, 4)), label, style=label % 3, many=label, one=np.zeros(60, int))
    assert set(colorings(of)) == {"style"}
    codes, words = colorings(features(of.features, label))["label"]
    assert words[-1] == "other"
    assert len(words) == MOST_COMMON + 1
    assert np.array_equal(codes < MOST_COMMON, label < MOST_COMMON)  # equally common: the first ones
    few = features(of.features, np.where(label < 20, label % 2, -1))
    codes, words = colorings(few, ["cat", "dog"])["label"]
    assert words == ["none", "cat", "dog"]
    assert [words[code] for code in codes[[0, 2, 59]]] == ["cat", "dog", "none"]


def test_map_of_a_large_split_is_a_sample(rng):
    arrays = map_arrays(features(rng.normal(size=(3000, 4)), np.arange(3000) % 5))
    assert arrays["map/xy"].shape == (2000, 2)
    assert arrays["map/codes/label"].shape == (2000,)
    assert list(arrays["map/words/label"]) == ["0", "1", "2", "3", "4"]


def test_map_by_umap_keeps_neighbors_together(rng, monkeypatch):
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")  # to compile it takes longer than twelve images do
    pytest.importorskip("umap")
    label = np.repeat([0, 1, 2], 4)
    of = features(np.eye(8)[label] + 0.1 * rng.normal(size=(12, 8)), label)
    arrays = map_arrays(of, kind="umap", seed=3)
    assert "map/share" not in arrays
    assert list(arrays["map/words/label"]) == ["0", "1", "2"]
    xy = arrays["map/xy"]
    assert xy.dtype == np.float32
    apart = np.linalg.norm(xy[:, None] - xy, axis=2)
    np.fill_diagonal(apart, np.inf)
    assert (label[apart.argmin(axis=1)] == label).all()
    # The same again, and lengths, here without any rounding, say nothing.
    longer = dataclasses.replace(of, features=of.features * np.float32(2) ** (np.arange(12) % 3)[:, None])
    np.testing.assert_array_equal(map_arrays(longer, kind="umap", seed=3)["map/xy"], xy)
    assert map_arrays(of.rows(np.arange(3)), kind="umap")["map/xy"].shape == (3, 2)


def test_umap_is_missed_before_a_run(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check_map("pca")
    with pytest.raises(ConfigError, match=r"eval\.map = 'umap': expected the package umap-learn") as caught:
        check_map("umap")
    assert "xsample_jax[umap]" in caught.value.fix


@pytest.mark.parametrize(("kind", "words"), [("umap", "UMAP: neighbors"), ("pca", "Across: 64% of the variance")])
def test_figure_says_what_its_axes_are(kind, words, tmp_path):
    shot = {"map/xy": np.eye(3, 2), "map/codes/label": np.array([0, 1, 1]), "map/words/label": np.array(["a", "b"])}
    shot |= {"map/share": np.array([0.64, 0.2])} if kind == "pca" else {}
    (panel,) = map_panels(SimpleNamespace(snapshot=shot), 0, tmp_path)
    assert panel.caption.startswith(words)


def test_worst_error_is_the_most_confident_one(rng):
    labels = np.repeat([0, 1, 2], [30, 15, 30])  # 15: of 20 neighbors five are of another class
    train = features(np.eye(3)[labels] + 0.01 * rng.normal(size=(75, 3)), labels)
    rows = np.array([[1, 0, 0], [0.97, 1, 0], [0, 0, 1], [0, 1, 0.01]])
    test = features(rows, [0, 0, 0, 1])  # row 1 is nearly right, row 2 is wrong for sure
    table = find_errors(train, test, k=4)
    assert table.target == "label"
    np.testing.assert_array_equal(table.row, [2, 1])
    np.testing.assert_array_equal(table.predicted, [2, 1])
    assert table.share[0] == pytest.approx(1)
    assert table.truth_share[0] == 0
    assert np.all(train.label[table.evidence[0]] == 2)
    unlabeled = features(np.tile([0.97, 1, 0], (30, 1)), [-1] * 30)  # nearer, and told nothing
    joined = dataclasses.replace(train, features=np.concatenate([unlabeled.features, train.features]),
                                 label=np.concatenate([unlabeled.label, train.label]))  # fmt: skip
    again = find_errors(joined, test, k=4)
    np.testing.assert_array_equal(again.predicted, table.predicted)
    np.testing.assert_array_equal(again.evidence, table.evidence + 30)
    voters = train.label[find_errors(train, test, k=20).evidence[1]]
    assert set(voters) == {0, 1}
    assert np.all(np.diff(voters) <= 0)  # those that were wrong come first

    arrays = error_arrays(
        table,
        lambda row: (np.full((2, 2, 3), row, np.uint8), f"test {row}"),
        lambda row: (np.full((2, 2, 3), 100 + row % 100, np.uint8), f"train {row}"),
        ["a", "b", "c"],
    )
    assert arrays["errors/images"].shape == (2, 5, 2, 2, 3)
    assert list(arrays["errors/captions"][0]) == ["test 2", *(f"train {row}" for row in table.evidence[0])]
    assert (list(arrays["errors/truth"]), list(arrays["errors/predicted"])) == (["a", "a"], ["c", "b"])


def test_unseen_labels_are_judged_by_their_group_and_unseen_groups_by_nothing(rng):
    train = features(rng.normal(size=(40, 4)), np.arange(40), group=np.arange(40) % 4)
    test = features(rng.normal(size=(12, 4)), 100 + np.arange(12) // 3, group=np.repeat([0, 1, 2, 9], 3))
    assert target_of(train, test) == "group"
    table = find_errors(train, test)
    assert 9 not in table.truth
    concepts = test.label[table.row]
    assert len(set(concepts)) == len(concepts)
    assert find_errors(train, features(rng.normal(size=(4, 4)), [100] * 4)) is None
    assert error_arrays(None, None, None, None) == {}
