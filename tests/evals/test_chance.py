"""Levels of chance against simulation and against counting (faults D2)."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from xsample_jax.evals.catalog import describe
from xsample_jax.evals.context import EvalContext, Options
from xsample_jax.evals.evaluate import Evaluation
from xsample_jax.evals.features import Features
from xsample_jax.evals.labels import few_shots
from xsample_jax.evals.metrics import Collector, SuiteResult, majority, partners_of, random_order, unreached
from xsample_jax.evals.retrieval import recall_at, retrieval
from xsample_jax.evals.robust_sets import Images
from xsample_jax.evals.robustness import constant_guess
from xsample_jax.reports.evaluation import rows_of


def test_the_majority_class_by_hand():
    labels = np.array([3, 3, 3, 7, 7, 9])
    assert majority(labels) == 0.5
    assert majority(labels, 2) == pytest.approx(5 / 6)
    assert majority(labels, 5) == 1
    assert majority(labels, among=np.array([7, 9])) == pytest.approx(2 / 6)  # 3 was not trained on: no probe says it
    assert majority(labels, among=np.array([4])) == 0


@pytest.mark.parametrize(("gallery", "k"), [(5, 1), (5, 3), (6, 5), (3, 10)])
def test_random_order_is_the_mean_over_all_orders(gallery, k):
    partners = np.array([1, 2, 3])
    orders = list(itertools.permutations(range(gallery)))
    expected = np.mean([[min(order[:k]) < p for order in orders] for p in partners])
    assert random_order(partners, gallery, k) == pytest.approx(expected)


def test_recall_of_random_features_is_that_of_a_random_order():
    rng = np.random.default_rng(0)
    ids = np.repeat(np.arange(10), [2, 3, 20, 5, 8, 30, 2, 4, 6, 40])
    found = {1: [], 10: []}
    for _ in range(40):
        x = rng.normal(size=(len(ids), 30))
        hits, rows = recall_at(x, ids, x, ids, (1, 10), same_rows=True)
        for k, values in hits.items():
            found[k].append(values.mean())
    partners = partners_of(ids[rows], ids, same_rows=True)
    for k, values in found.items():
        assert np.mean(values) == pytest.approx(random_order(partners, len(ids) - 1, k), abs=0.02)
    np.testing.assert_array_equal(partners_of(np.array([0, 99, 9]), ids), [2, 0, 40])


def test_one_class_for_all_images_of_a_robust_set():
    right = np.zeros((3, 1000), bool)
    right[0, [1, 2]] = right[1, 2] = True  # of group 2 none is right: its images do not count
    group = np.array([0, 0, 1, 1, 1, 2])
    images = Images(None, group, right)
    assert constant_guess(np.arange(1000), images) == 1  # class 2, right for both groups
    assert constant_guess(np.array([1, 7]), images) == pytest.approx(2 / 5)


def bench_of(train_label, test_label):
    config = type("c", (), {"data": type("d", (), {"source": "records"})})
    config.eval = type("e", (), {"split": "test", "train_split": "train"})
    rng = np.random.default_rng(0)
    made = lambda label: Features(  # noqa: E731
        rng.normal(size=(len(label), 4)).astype(np.float32), None, np.arange(len(label)), np.array(label)
    )
    return EvalContext({"train": made(train_label), "test": made(test_label)}.__getitem__, config, Options())


@pytest.mark.parametrize(("source", "section"), [("emoji", "Held-out concepts"), ("records", "Classification")])
def test_only_the_emoji_set_has_held_out_concepts(source, section):
    """faults D3."""
    config = SimpleNamespace(data=SimpleNamespace(source=source))
    result = SuiteResult({"group/knn": 0.5}, {})
    (row,) = rows_of(Evaluation(Path("run"), 1, config, "group", result, {}))
    assert row["metric"].section == section
    assert describe("color/knn").section == "Classification"


def test_shots_that_were_not_reached_are_said():
    out = Collector()
    few_shots(bench_of([0] * 5 + [1] * 12, [0, 1, 1]), out)
    (note,) = [note for note in out.notes if note.startswith("few_shot/10/label")]
    assert "1 of 2 classes have fewer training images (the smallest 5)" in note
    assert len(out.notes) == 1
    assert "all of 2 classes" in unreached(np.array([0, 0, 1]), (5,), "label")[0]
    assert out.facts["few_shot/10/label"].chance == pytest.approx(2 / 3)
    assert out.facts["few_shot/10/label_ridge"].n == 3


def test_retrieval_without_partners_says_so():
    """faults D9: it was an empty table."""
    out = Collector()
    retrieval(bench_of([0], [0, 1, 2]), out)
    assert not out.metrics
    assert "no two images share a label (3 looked at)" in out.notes[0]
