"""Embeddings cut to prefixes: what they know is where it is, and a prefix is evaluated like an embedding of its own."""

import numpy as np
import pytest

from tests.tiny import tiny_config
from xsample_jax.data.records import unit_rows
from xsample_jax.evals.catalog import describe
from xsample_jax.evals.context import EvalContext, Options
from xsample_jax.evals.features import Features
from xsample_jax.evals.knn import knn_predict
from xsample_jax.evals.metrics import Collector
from xsample_jax.evals.widths import WIDTHS, widths_of

CLASSES, KNOWN, WIDTH = 4, 8, 16


def split(seed, rows=160):
    """The class is in channels 4 to 7 alone; a tenth of the rows has no label."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, CLASSES, rows)
    z = rng.normal(size=(rows, WIDTH)).astype(np.float32)
    z[np.arange(rows), 4 + label] += 9
    label[::10] = -1
    return Features(rng.normal(size=(rows, 3)).astype(np.float32), z, np.arange(rows), label)


def bench_of(**options):
    splits = {"train": split(1), "test": split(2)}
    config = tiny_config(model__head__dim=WIDTH, objective__widths=(8, 4), data__source="records", data__path="x")
    return EvalContext(splits.__getitem__, config, Options(**options))


def test_a_prefix_knows_what_its_channels_know():
    bench, out = bench_of(), Collector()
    WIDTHS.run(bench, out)
    assert widths_of(bench) == (WIDTH, 8, 4)
    for how in ("knn", "probe", "R@1"):
        found = {width: out.metrics[f"width/{width}/label/{how}"] for width in widths_of(bench)}
        assert found[8] > 0.95
        assert found[WIDTH] > 0.6
        assert found[4] < 0.45  # chance is about a quarter
    train, test = bench.train, bench.test
    train, test = train.rows(train.label >= 0), test.rows(test.label >= 0)
    z = [unit_rows(of.embedding[:, :8]) for of in (train, test)]
    right = knn_predict(z[0], train.label, z[1], 20, 0.07) == test.label
    assert out.metrics["width/8/label/knn"] == pytest.approx(right.mean())
    assert describe("width/8/label/knn").title == "Label, kNN: first 8 of the embedding"


def test_widths_of_a_run_without_any_are_halves():
    bench = bench_of()
    with bench.config.unlocked():
        bench.config.objective.widths = ()
    assert widths_of(bench) == (16, 8, 4)
    assert widths_of(bench_of(widths=(5,))) == (16, 5)


@pytest.mark.parametrize("width", [17, 0])
def test_a_width_that_there_is_not_is_refused(width, monkeypatch):
    monkeypatch.setattr("xsample_jax.evals.widths.check_target", lambda bench: iter(()))
    (problem,) = WIDTHS.check(bench_of(widths=(width,)))
    assert "from 1 to 16" in str(problem)
