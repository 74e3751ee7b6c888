"""What is said of two series of runs in a sentence."""

from pathlib import Path

import numpy as np

from xsample_jax.evals.catalog import describe
from xsample_jax.evals.metrics import Scores
from xsample_jax.reports.report import difference_rows, evaluation_rows, one_seed, verdicts
from xsample_jax.reports.runs import Run, Series

NAMES = ("group/knn", "subgroup/knn", "group/probe", "geometry/tolerance", "geometry/alignment")
CONCEPTS = np.arange(200)


def series(name, shift, seeds=2):
    rng = np.random.default_rng(0)  # the same noise for all: differences are the shifts alone
    noise = rng.normal(scale=0.01, size=(len(NAMES), len(CONCEPTS)))
    extra = np.random.default_rng(len(name)).normal(scale=0.001, size=noise.shape)
    examples = {
        metric: Scores(0.5 + noise[row] + extra[row] + shift.get(metric, 0.0), CONCEPTS)
        for row, metric in enumerate(NAMES)
    }
    last = [(1, {metric: scores.mean() for metric, scores in examples.items()})]
    return Series(name, tuple(Run(name, Path(name), {"seed": seed}, [], last, examples, None) for seed in range(seeds)))


def test_a_clear_difference_without_a_better_side_is_told_apart():
    base = series("base", {})
    other = series("another", {"group/knn": 0.2, "subgroup/knn": -0.2, "geometry/tolerance": 0.3})
    assert describe("geometry/tolerance").direction == 0
    (sentence,) = verdicts([base, other], base, difference_rows([base, other], base, [describe(n) for n in NAMES]))
    assert sentence == (
        "another against base: better on 1 of 5 metrics, worse on 1, different on 1 that has no better side, "
        "not separated on 2."
    )


def test_one_seed_is_never_bold_whatever_its_interval_and_the_page_says_so():
    """faults D3."""
    base, other = series("base", {}, seeds=1), series("another", {"group/knn": 0.2})
    metrics = [describe(name) for name in NAMES]
    (row,) = difference_rows([base, other], base, metrics[:1])
    assert row.cells[0].interval.excludes_zero
    assert not row.cells[0].clear
    for found in evaluation_rows([base, other]):
        assert not any(cell.best for cell in found.cells)
    (sentence,) = verdicts([base, other], base, difference_rows([base, other], base, metrics))
    assert sentence == "another against base: one seed, so none of 5 metrics is separated."
    assert one_seed([base, other]).startswith("One seed of base: ")
    assert one_seed([other, series("third", {})]) == ""
    two = evaluation_rows([series("base", {}), other])
    assert [cell.best for cell in next(row for row in two if row.metric.name == "group/knn").cells] == [False, True]
