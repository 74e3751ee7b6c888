"""Suite shapes: a factor that is in the features is kept, one that is not is at chance."""

import numpy as np
import pytest

from xsample_jax.config import default_config
from xsample_jax.data.writer import write_records
from xsample_jax.errors import DataError
from xsample_jax.evals.catalog import describe
from xsample_jax.evals.context import EvalContext
from xsample_jax.evals.features import Features
from xsample_jax.evals.labels import evaluate_factors
from xsample_jax.evals.registry import EVALUATORS, run_suite


def split(count, seed):
    rng = np.random.default_rng(seed)
    shape, ground = rng.integers(0, 5, count), rng.integers(0, 4, count)
    half = rng.integers(0, 2, count)
    shown = np.where(rng.random(count) < 0.5, half, rng.integers(0, 2, count))
    rows = np.concatenate([np.eye(5)[shape], np.eye(2)[shown], 0.1 * rng.normal(size=(count, 3))], axis=1)
    return Features(
        rows.astype(np.float32),
        None,
        np.arange(count),
        shape,
        {"shape": shape, "ground": ground, "half": half},
        caption_embedding=np.eye(5, dtype=np.float32)[shape],
    )


def test_kept_is_one_for_what_is_there_and_zero_for_what_is_not():
    result = evaluate_factors(split(3000, 0), split(1000, 1))
    metrics = result.metrics
    assert metrics["factor/shape/probe"] == metrics["factor/shape/kept"] == 1
    assert metrics["factor/ground/probe"] == pytest.approx(1 / 4, abs=0.05)
    assert metrics["factor/ground/kept"] == pytest.approx(0, abs=0.06)
    assert metrics["factor/half/probe"] == pytest.approx(0.75, abs=0.05)
    assert metrics["factor/half/kept"] == pytest.approx(0.5, abs=0.1)
    assert metrics["factor/half/kept"] == pytest.approx((metrics["factor/half/probe"] - 0.5) / 0.5)
    assert metrics["spearman/captions"] > 0.5
    probed = {f"factor/{factor}/{metric}" for factor in ("shape", "ground", "half") for metric in ("probe", "kept")}
    assert set(result.examples) == {*probed, "spearman/captions"}
    assert describe("factor/shape/kept").title == "Shape, kept above chance"


def test_what_cannot_be_probed_is_refused():
    of = split(100, 0)
    with pytest.raises(DataError, match="attributes"):
        evaluate_factors(of, Features(of.features, None, of.id, of.label))
    single = Features(of.features, None, of.id, of.label, {"shape": np.zeros(100, int)})
    with pytest.raises(DataError, match="at least two"):
        evaluate_factors(single, single)


def test_the_suite_is_the_evaluator_that_the_tool_runs(tmp_path):
    train, test = split(300, 0), split(100, 1)
    config = default_config()
    features_of = {config.eval.train_split: train, config.eval.split: test}.__getitem__
    assert run_suite("shapes", features_of, config).metrics == evaluate_factors(train, test).metrics
    assert not list(EVALUATORS["factors"].check(EvalContext(features_of, config)))  # the emoji set has attributes
    write_records(tmp_path, "plain", {"train": [{"id": 0, "image": b"x"}], "test": [{"id": 1, "image": b"x"}]})
    config.data.source, config.data.path = "records", str(tmp_path)
    (problem,) = EVALUATORS["factors"].check(EvalContext(features_of, config))
    assert "attributes of split test" in str(problem)
