"""What is said of two series of runs in a sentence."""

from pathlib import Path

import numpy as np

from xsample_jax.evals.metrics import Scores
from xsample_jax.reports.report import difference_rows, verdicts
from xsample_jax.reports.runs import Run, Series

NAMES = ("group/knn", "subgroup/knn", "group/probe", "geometry/tolerance", "geometry/alignment")
CONCEPTS = np.arange(200)


def series(name, shift):
    rng = np.random.default_rng(0)  # the same noise for all: differences are the shifts alone
    noise = rng.normal(scale=0.01, size=(len(NAMES), len(CONCEPTS)))
    extra = np.random.default_rng(len(name)).normal(scale=0.001, size=noise.shape)
    examples = {
        metric: Scores(0.5 + noise[row] + extra[row] + shift.get(metric, 0.0), CONCEPTS)
        for row, metric in enumerate(NAMES)
    }
    return Series(name, (Run(name, Path(name), {"seed": 0}, [], [], examples, None),))


def test_a_clear_difference_without_a_better_side_is_told_apart():
    base = series("base", {})
    other = series("another", {"group/knn": 0.2, "subgroup/knn": -0.2, "geometry/tolerance": 0.3})
    from xsample_jax.evals.catalog import describe

    assert describe("geometry/tolerance").direction == 0
    (sentence,) = verdicts([base, other], base, difference_rows([base, other], base, [describe(n) for n in NAMES]))
    assert sentence == (
        "another against base: better on 1 of 5 metrics, worse on 1, different on 1 that has no better side, "
        "not separated on 2."
    )
