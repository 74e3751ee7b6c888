"""No evaluator reads the answers (faults D1): with the labels of the evaluated split permuted, all are at chance."""

import dataclasses
import types

import numpy as np
import pytest

from tests.tiny import tiny_config
from xsample_jax.data.writer import write_records
from xsample_jax.errors import DataError
from xsample_jax.evals import robustness as mit
from xsample_jax.evals.context import EvalContext, Options
from xsample_jax.evals.emoji import EMOJI, evaluate_emoji
from xsample_jax.evals.features import Features
from xsample_jax.evals.linear_probes import SgdProtocol
from xsample_jax.evals.metrics import Collector
from xsample_jax.evals.registry import EVALUATORS, run_suite

CLASSES, OF_EACH, WIDTH = 6, 40, 12
NAMES = ["ant", "bee", "cat", "dog", "eel", "fox"]
ENCODER = {"name": "m", "revision": "r", "pooling": "mean", "dim": 8, "normalized": True, "template": "{caption}"}
RNG = np.random.default_rng(0)
CENTER, TEXT = RNG.normal(size=(CLASSES, WIDTH)), RNG.normal(size=(CLASSES, 8))
# With 240 images the accuracy of a guess is within 0.1 of its chance but once in tens of thousands of worlds.
MARGIN = 0.1


def split(seed, permuted=False):
    """Images that show their class, captions that name it, and labels that do too or not."""
    rng = np.random.default_rng(seed)
    shown = np.repeat(np.arange(CLASSES), OF_EACH)
    said = rng.permutation(shown) if permuted else shown
    x = CENTER[shown] + 0.4 * rng.normal(size=(len(shown), WIDTH))
    return Features(
        x.astype(np.float32),
        None,
        np.arange(len(shown)),
        said,
        attributes={"kind": said, "group": said // 2, "subgroup": said, "style": np.arange(len(shown)) % 2},
        attribute_names={"style": ["noto", "twemoji"]},
        caption_embedding=TEXT[shown].astype(np.float32),
    )


def write_set(folder, splits):
    write_records(
        folder,
        "world",
        {
            name: [
                {"id": 1000 * place + number, "image": b"x", "label": int(label), "captions": [f"number {number}"],
                 "caption_embeddings": of.caption_embedding[number : number + 1].astype(np.float16)}
                for number, label in enumerate(of.label)
            ]
            for place, (name, of) in enumerate(splits.items())
        },
        NAMES,
        text_encoder=ENCODER,
    )  # fmt: skip


def bench_of(folder, permuted):
    splits = {"train": split(1), "test": split(2, permuted)}
    write_set(folder, splits)
    config = tiny_config(data__source="records", data__path=str(folder), eval__suite="none")
    protocol = SgdProtocol(learning_rates=(0.1,), epochs=5, batch_size=64)
    return EvalContext(splits.__getitem__, config, Options(sgd=protocol))


FITTED = ["knn", "probe", "logistic", "sgd", "naive_bayes", "few_shot", "zero_shot"]


@pytest.mark.parametrize("name", [*FITTED, "retrieval"])
def test_an_evaluator_is_at_chance_on_permuted_labels_and_well_above_on_the_true_ones(tmp_path, name, monkeypatch):
    monkeypatch.setattr("xsample_jax.evals.labels.SIZES", 2)  # of each, logistic regression is compiled
    found = {}
    for permuted in (False, True):
        folder = tmp_path / str(permuted)
        bench, out = bench_of(folder, permuted), Collector()
        np.save(folder / "class_embeddings.npy", TEXT.astype(np.float16))
        assert not list(EVALUATORS[name].check(bench))
        EVALUATORS[name].run(bench, out)
        found[permuted] = out
    no_level = ("_ece", "crossing/label")
    compared = [metric for metric in found[True].metrics if not metric.endswith(no_level)]
    assert compared
    for metric in compared:
        chance = found[True].facts[metric].chance
        assert found[True].metrics[metric] == pytest.approx(chance, abs=MARGIN), metric
        if chance < 0.5:
            assert found[False].metrics[metric] > chance + 3 * MARGIN, metric


def test_zero_shot_without_class_texts_is_refused_with_the_command_that_makes_them(tmp_path):
    bench = bench_of(tmp_path / "set", permuted=True)
    (problem,) = EVALUATORS["zero_shot"].check(bench)
    assert f"tools.embed --data={tmp_path / 'set'} --what=classes --model=m" in str(problem)
    with pytest.raises(DataError, match="class texts"):  # also for those who do not ask first
        EVALUATORS["zero_shot"].run(bench, Collector())


@pytest.mark.parametrize("name", FITTED)
def test_what_is_fitted_to_the_evaluated_split_is_refused(tmp_path, name):
    bench = bench_of(tmp_path / "set", permuted=False)
    np.save(tmp_path / "set" / "class_embeddings.npy", TEXT.astype(np.float16))
    with bench.config.unlocked():
        bench.config.eval.train_split = bench.config.eval.split
    assert "tested on what it was fitted to" in str(next(iter(EVALUATORS[name].check(bench))))


def test_the_emoji_evaluator_refuses_one_split_for_both():
    config = tiny_config()
    with config.unlocked():
        config.eval.train_split = config.eval.split
    assert "tested on what it was fitted to" in str(next(iter(EMOJI.check(EvalContext(None, config)))))


@pytest.mark.parametrize("suite", ["probe", "shapes"])
def test_a_suite_is_at_chance_on_permuted_labels(suite):
    config = tiny_config(data__source="records", data__path="unused", eval__suite="none")
    of = {name: Features(s.features, None, s.id, s.label, {"kind": s.label} if suite == "shapes" else {})
          for name, s in (("train", split(1)), ("test", split(2, permuted=True)))}  # fmt: skip
    result = run_suite(suite, of.__getitem__, config)
    for metric in ("label/knn", "label/probe") if suite == "probe" else ("factor/kind/probe", "factor/kind/kept"):
        assert result.metrics[metric] == pytest.approx(result.facts[metric].chance, abs=1.2 * MARGIN)


def test_the_emoji_suite_is_at_chance_on_permuted_concepts():
    def features_of(name, background=None):
        of = split(1) if name == "train" else split(len(name), permuted=True)
        styles = ["emojione", "openmoji"] if name == "test_styles" else ["noto", "twemoji"]
        return dataclasses.replace(of, attribute_names={"style": styles})

    result = evaluate_emoji(features_of)
    for metric, facts in result.facts.items():
        if metric.startswith(("geometry", "spearman")):
            continue
        assert result.metrics[metric] == pytest.approx(facts.chance, abs=1.5 * MARGIN), metric


def test_mit_states_is_at_chance_when_folders_say_nothing(tmp_path, monkeypatch):
    """Labels and halves come from the folders: permuted over the images, they cannot be predicted."""
    of = split(3, permuted=True)
    labels = {"objects": of.label, "attributes": of.label % 3}
    monkeypatch.setattr(mit, "listed", lambda folder: (list(of.id), labels, {name: NAMES for name in labels}))
    store = types.SimpleNamespace(encoded=lambda examples, title: of, side=lambda: 8)
    bench, out = EvalContext(store, tiny_config(), Options(sets=tmp_path)), Collector()
    mit.mit_states(bench, out)
    for kind in labels:
        facts = out.facts[f"mit_states/{kind}"]
        assert out.metrics[f"mit_states/{kind}"] == pytest.approx(facts.chance, abs=1.5 * MARGIN)
        assert facts.n == len(of) // 2
