"""The suites on synthetic features whose answers are known."""

import types

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from xsample_jax.errors import DataError
from xsample_jax.evals.catalog import HEADLINES, SECTIONS, describe, in_order
from xsample_jax.evals.emoji import evaluate_emoji
from xsample_jax.evals.features import Features
from xsample_jax.evals.registry import run_suite

STYLES = ["noto", "twemoji", "fluent", "emojione", "openmoji"]
WIDTH = 32
rng = np.random.default_rng(0)
GROUP_CENTER, SUBGROUP_CENTER = rng.normal(size=(4, WIDTH)), rng.normal(size=(12, WIDTH))
CONCEPT = rng.normal(size=(200, WIDTH))
CAPTION_MAP = rng.normal(size=(WIDTH, 10))
SPLITS = {
    "train": (range(160), range(3)),
    "test": (range(160, 200), range(3)),
    "test_styles": (range(160, 200), (3, 4)),
}


def features_of(split, background=None):
    """A concept c is in subgroup c % 12 and group c % 4; openmoji keeps no signal; grounds pull to a group's center."""
    noise = np.random.default_rng([len(split), len(background or "")])
    concepts, styles = (np.array(axis) for axis in SPLITS[split])
    label, style = (axis.ravel() for axis in np.meshgrid(concepts, styles, indexing="ij"))
    meaning = GROUP_CENTER[label % 4] + SUBGROUP_CENTER[label % 12] + 0.7 * CONCEPT[label]
    x = meaning + 0.7 * noise.normal(size=meaning.shape)
    x[style == 4] = noise.normal(size=(np.sum(style == 4), WIDTH))
    if background == "mixed_rand":
        x += 1.5 * GROUP_CENTER[noise.integers(0, 4, len(x))]
    return Features(
        features=x.astype(np.float32),
        embedding=None,
        id=np.arange(len(x)) + 7,
        label=label,
        attributes={"style": style, "group": label % 4, "subgroup": label % 12},
        attribute_names={"style": STYLES},
        caption_embedding=(meaning @ CAPTION_MAP).astype(np.float32),
    )


@pytest.fixture(scope="module")
def result():
    config = types.SimpleNamespace(eval=types.SimpleNamespace(split="test", train_split="train"))
    return run_suite("emoji", features_of, config)


def test_accuracy_is_that_of_an_independent_classifier(result):
    train, test = features_of("train"), features_of("test")
    unit = lambda a: a / np.linalg.norm(a, axis=1, keepdims=True)  # noqa: E731
    weights = lambda d: np.exp((1 - d**2 / 2) / 0.07)  # noqa: E731
    for name, of, split in (("", test, slice(None)), ("style/openmoji/", features_of("test_styles"), 4)):
        rows = np.ones(len(of), bool) if name == "" else of.attributes["style"] == split
        for target in ("group", "subgroup"):
            peer = KNeighborsClassifier(20, weights=weights).fit(unit(train.features), train.attributes[target])
            score = peer.score(unit(of.features[rows]), of.attributes[target][rows])
            assert result.metrics[f"{name}{target}/knn"] == pytest.approx(score, abs=1.01 / rows.sum())


def test_metrics_see_what_was_planted(result):
    metrics = result.metrics
    assert metrics["group/probe"] > 0.7
    assert metrics["style/emojione/group/probe"] > 0.6
    assert metrics["style/openmoji/group/probe"] < 0.5  # chance is 0.25
    gap = metrics["background/mixed_same/group/probe"] - metrics["background/mixed_rand/group/probe"]
    assert metrics["background/gap/group/probe"] == pytest.approx(gap)
    assert gap > 0.1
    assert metrics["few_shot/5/subgroup"] > metrics["few_shot/1/subgroup"] > 1 / 12
    assert metrics["retrieval/emojione_to_noto"] > 0.3 > metrics["retrieval/openmoji_to_noto"]
    assert metrics["spearman/captions"] > 0.2
    assert 1 < metrics["geometry/effective_rank"] <= WIDTH


def test_examples_average_to_their_metric_and_carry_concepts(result):
    test = features_of("test")
    for name, scores in result.examples.items():
        assert np.mean(scores.values) == pytest.approx(result.metrics[name], abs=1e-6), name
        assert set(scores.concepts) == set(range(160, 200)), name
    np.testing.assert_array_equal(result.examples["group/knn"].concepts, test.label)
    assert set(np.unique(result.examples["group/knn"].values)) <= {0, 1}
    assert len(result.examples["style/emojione/group/knn"].values) == 40
    assert len(result.examples["retrieval/twemoji_to_noto"].values) == 40
    assert set(result.metrics) - set(result.examples) == {"geometry/effective_rank"}


def test_every_metric_has_a_title_and_headlines_exist(result):
    for metric in in_order(result.metrics):
        assert metric.section != SECTIONS[-1], metric.name
        assert metric.title != metric.name
    assert {name for name in HEADLINES if not name.startswith(("label", "factor"))} <= set(result.metrics)
    assert describe("background/gap/group/knn").direction == -1
    assert describe("group/knn").text(-0.0312, signed=True) == "\N{MINUS SIGN}3.1"
    assert describe("spearman/captions").text(0.1234) == "0.123"


def test_backgrounds_must_keep_the_rows():
    def shuffled(split, background=None):
        features = features_of(split, background)
        return features.rows(np.arange(len(features))[::-1]) if background == "mixed_same" else features

    with pytest.raises(DataError, match="mixed_same"):
        evaluate_emoji(shuffled)


def test_probe_suite_on_labels_leaves_out_rows_without_one():
    def labeled(split, background=None):
        features = features_of({"fit": "train", "held": "test"}[split])
        label = np.where(features.id % 5 == 0, -1, features.attributes["subgroup"])
        noise = np.random.default_rng(len(split)).normal(size=features.features.shape)
        return Features((features.features + 2 * noise).astype(np.float32), None, features.id, label)

    config = types.SimpleNamespace(eval=types.SimpleNamespace(split="held", train_split="fit"))
    result = run_suite("probe", labeled, config)
    assert len(result.examples["label/knn"].values) == np.sum(labeled("held").label >= 0)
    assert 0.3 < result.metrics["label/probe"] < result.metrics["label/probe_top5"]
    config.eval.split = "fit"
    with pytest.raises(DataError, match="labels of split"):
        run_suite("probe", lambda split: Features(np.zeros((3, 2)), None, np.arange(3), np.full(3, -1)), config)
