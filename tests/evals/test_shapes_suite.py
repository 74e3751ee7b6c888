"""Suite shapes: a factor that is in the features is kept, one that is not is at chance."""

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

from tests.tiny import tiny_config
from xsample_jax.config import default_config
from xsample_jax.data.writer import write_records
from xsample_jax.errors import DataError
from xsample_jax.evals.baselines import baseline_store
from xsample_jax.evals.catalog import describe
from xsample_jax.evals.context import EvalContext
from xsample_jax.evals.features import Features, FeatureStore
from xsample_jax.evals.labels import evaluate_factors
from xsample_jax.evals.metrics import majority
from xsample_jax.evals.registry import EVALUATORS, run_suite
from xsample_jax.setup import build_run
from xsample_jax.sharding import make_mesh
from xsample_jax.tools.prepare import main as prepare


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


def test_images_without_a_value_are_no_class_of_a_factor():
    """faults D: -1, no value, was counted as a value that is told apart, and guessed."""
    rng, (train, test) = np.random.default_rng(2), (split(600, 0), split(300, 1))
    without = [
        dataclasses.replace(of, attributes={**of.attributes, "shape": np.where(lacks, -1, of.attributes["shape"])})
        for of in (train, test)
        for lacks in [rng.random(len(of)) < 0.5]
    ]
    result, there = evaluate_factors(*without), without[1].attributes["shape"] >= 0
    facts = result.facts["factor/shape/probe"]
    assert (facts.n, facts.classes) == (there.sum(), 5)
    assert facts.chance == majority(test.attributes["shape"][there])
    assert result.metrics["factor/shape/kept"] == 1
    assert result.metrics["factor/ground/probe"] == evaluate_factors(train, test).metrics["factor/ground/probe"]
    nowhere = dataclasses.replace(test, attributes={**test.attributes, "shape": np.full(300, -1)})
    found = evaluate_factors(train, nowhere)
    assert "factor/shape/probe" not in found.metrics
    assert any("no test image has a value" in note for note in found.notes)


def test_what_cannot_be_probed_is_refused():
    of = split(100, 0)
    with pytest.raises(DataError, match="attributes"):
        evaluate_factors(of, Features(of.features, None, of.id, of.label))
    single = Features(of.features, None, of.id, of.label, {"shape": np.zeros(100, int)})
    with pytest.raises(DataError, match="two values among training images"):
        evaluate_factors(single, single)


def test_an_attribute_with_one_value_is_passed_over():
    """faults D: one of many attributes, of which only "yes" or nothing is known, ended a run in its last evaluation."""
    of = split(100, 0)
    some = dataclasses.replace(of, attributes={**of.attributes, "tagged": np.where(np.arange(100) % 2, -1, 0)})
    found = evaluate_factors(some, some)
    assert "factor/shape/probe" in found.metrics
    assert "factor/tagged/probe" not in found.metrics
    assert any("factor/tagged: not measured" in note for note in found.notes)


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


def test_from_folders_to_a_probe_of_every_attribute(tmp_path):
    """faults C5: kind/style/*.png; --attributes names the levels, --label_level the class, the evaluation both."""
    colors = {"circle": 200, "square": 90}, {"ink": (1.0, 0.2, 0.2), "wash": (0.2, 0.2, 1.0)}
    rng = np.random.default_rng(0)
    for kind, level in colors[0].items():
        for style, hue in colors[1].items():
            folder = tmp_path / "in" / kind / style
            folder.mkdir(parents=True)
            for number in range(12):
                pixels = level * np.array(hue) + rng.normal(scale=4, size=(32, 32, 3))
                Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"{number}.png")
    out = tmp_path / "set"
    flags = ("--source=folder", f"--path={tmp_path / 'in'}", f"--out={out}", "--splits=train=0.6,test=0.4")
    assert prepare([*flags, "--attributes=kind,style", "--label_level=path", "--processes=1"]) == 0

    config = tiny_config(data__source="records", data__path=str(out), objective__preset="simclr", eval__suite="shapes")
    parts, _ = build_run(config, make_mesh(config.mesh, config.batch_size, jax.devices()[:1]))
    store = baseline_store("pixels", FeatureStore(parts, parts.abstract_state))
    features = store("test")
    assert features.attribute_names == {"kind": ["circle", "square"], "style": ["ink", "wash"]}
    words = [(0, 0, 0), (1, 0, 1), (2, 1, 0), (3, 1, 1)]  # circle/ink, circle/wash, square/ink, square/wash
    rows = zip(features.label, features.attribute("kind"), features.attribute("style"), strict=True)
    assert {tuple(map(int, row)) for row in rows} == set(words)
    metrics = run_suite("shapes", store, config).metrics
    assert metrics["factor/kind/probe"] == metrics["factor/style/probe"] == 1
