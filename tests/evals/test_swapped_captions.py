"""Captions with words exchanged: the rule on examples, planted answers, and a model with a text tower."""

import json
import types

import jax
import numpy as np
import pytest

from tests.captions.tiny_models import write_model
from tests.tiny import tiny_config
from tests.tools.test_evaluate import SPLITS, save_run
from xsample_jax.captions.encoders import JaxEncoder
from xsample_jax.data.sources import open_source
from xsample_jax.evals import swapped_captions as module
from xsample_jax.evals.context import EvalContext, Options
from xsample_jax.evals.features import Features
from xsample_jax.evals.metrics import Collector
from xsample_jax.evals.swapped_captions import CYCLES, SWAPPED_CAPTIONS, exchanged
from xsample_jax.models import resnet
from xsample_jax.tools import evaluate


@pytest.mark.parametrize(
    ("caption", "kind", "expected"),
    [
        ("three red striped stars on the left, on grass", "color", "three blue striped stars on the left, on grass"),
        ("three red striped stars on the left, on grass", "count", "four red striped stars on the left, on grass"),
        ("three red striped stars on the left, on grass", "place", "three red striped stars on the right, on grass"),
        ("a red square and a blue circle", "color", "a blue square and a red circle"),  # bound otherwise
        ("blue, red, blue", "color", "red, blue, red"),
        ("Woman: dark hair", "person", "Man: dark hair"),
        ("a predator, leftover, redder", "color", None),  # words, not letters
        ("four", "count", "two"),
        ("Black cat, white dog", "color", "White cat, black dog"),
        ("ram, animal", "place", None),
        ("", "color", None),
    ],
)
def test_the_rule_on_examples(caption, kind, expected):
    assert exchanged(caption, kind) == expected


def test_cycles_are_words_of_their_own():
    for cycles in CYCLES.values():
        words = [word for cycle in cycles for word in cycle]
        assert len(set(words)) == len(words)
        assert min(map(len, cycles)) >= 2
        for word in words:
            assert exchanged(word, next(kind for kind in CYCLES if cycles is CYCLES[kind])) != word


COUNT = 300
RNG = np.random.default_rng(0)
CAPTIONS = [f"{['two', 'three', 'four'][n % 3]} {['red', 'blue'][n % 2]} stars, number {n}" for n in range(COUNT)]
VECTORS: dict[str, np.ndarray] = {}


def rows_of(texts):
    """A unit vector of its own for every text."""
    for text in texts:
        VECTORS.setdefault(text, RNG.normal(size=16))
    rows = np.stack([VECTORS[text] for text in texts])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def found_of(monkeypatch, images):
    tower = types.SimpleNamespace(reads="caption_tokens", tokens=list, embed=rows_of)
    features = Features(images, images, np.arange(COUNT), np.full(COUNT, -1))
    settings = types.SimpleNamespace(split="test", train_split="train")
    config = types.SimpleNamespace(eval=settings, data=types.SimpleNamespace(source="records"))
    monkeypatch.setattr(module, "captions_of", lambda bench, index: [CAPTIONS[n] for n in index])
    out = Collector()
    SWAPPED_CAPTIONS.run(EvalContext(lambda split: features, config, Options(), tower), out)
    return out


def test_planted_answers_are_found_and_chance_is_half(monkeypatch):
    out = found_of(monkeypatch, rows_of(CAPTIONS))
    assert out.metrics == {f"swapped_captions/{name}": 1 for name in ("color", "count", "all")}
    assert out.facts["swapped_captions/all"].n == 2 * COUNT
    assert "swapped_captions/place: not measured" in " ".join(out.notes)
    of_colors = found_of(monkeypatch, rows_of([exchanged(caption, "color") for caption in CAPTIONS]))
    assert of_colors.metrics["swapped_captions/color"] == 0
    assert found_of(monkeypatch, RNG.normal(size=(COUNT, 16))).metrics["swapped_captions/all"] == pytest.approx(
        0.5, abs=0.1
    )
    assert found_of(monkeypatch, np.zeros((COUNT, 16))).metrics["swapped_captions/all"] == 0.5  # ties


def test_features_are_mapped_to_a_frozen_encoder_that_must_be_that_of_the_captions(tmp_path, monkeypatch):
    folder = write_model(tmp_path / "m", "mpnet")
    captions = sorted({caption.partition(",")[0] for caption in CAPTIONS}) * 20
    rows = JaxEncoder(str(folder), devices=jax.devices()[:1]).encode(captions)
    turned = rows @ np.linalg.qr(RNG.normal(size=(16, 16)))[0].astype(np.float32)
    features = Features(turned, None, np.arange(len(rows)), np.full(len(rows), -1), caption_embedding=rows)
    settings = types.SimpleNamespace(split="test", train_split="train")
    config = types.SimpleNamespace(eval=settings, data=types.SimpleNamespace(source="records"))
    bench = EvalContext(lambda split: features, config, Options(text_encoder=str(folder)))
    manifest = types.SimpleNamespace(text_encoder={"dim": 16, "template": "{caption}"})
    bench.source = lambda split: types.SimpleNamespace(manifest=manifest, split=split)
    monkeypatch.setattr(module, "captions_of", lambda bench, index: [captions[n] for n in index])
    monkeypatch.setattr(module, "sampled_records", lambda source: [{"captions": captions[:3]}])
    assert list(SWAPPED_CAPTIONS.check(bench)) == []
    out = Collector()
    SWAPPED_CAPTIONS.run(bench, out)
    assert out.metrics["swapped_captions/color"] == 1
    assert out.metrics["swapped_captions/count"] == 0.5  # its vocabulary has no numbers: both texts are one
    manifest.text_encoder["dim"] = 768
    (problem,) = SWAPPED_CAPTIONS.check(bench)
    assert "16 wide': expected that of the captions, 768 wide" in str(problem)


@pytest.fixture
def _one_block(monkeypatch):
    monkeypatch.setitem(resnet.LAYOUTS, 18, (resnet.BasicBlock, (1,)))


@pytest.mark.usefixtures("_one_block")
def test_a_text_tower_embeds_both_captions_and_others_need_an_encoder(tmp_path):
    tower = {"model__text__layers": 1, "model__text__width": 16, "model__text__heads": 2}
    save_run(tmp_path / "clip", steps=(1,), objective__preset="clip", **tower)
    flags = [f"--run={tmp_path / 'clip'}", "--evals=swapped_captions", *SPLITS, "--config.eval.baselines=()"]
    assert evaluate.run([*flags, f"--out={tmp_path / 'out'}"]) == 0
    metrics = json.loads((tmp_path / "out" / "evaluation.json").read_text())["metrics"]
    source = open_source(types.SimpleNamespace(source="emoji", path=None, fingerprint=None, label=None), "test_styles")
    captions = [source[n]["captions"][0] for n in range(len(source))]
    for name, numbers in metrics.items():
        kind = name.partition("/")[2]
        kinds = CYCLES if kind == "all" else (kind,)
        assert numbers["n"] == sum(exchanged(caption, one) is not None for caption in captions for one in kinds)
        assert 0 <= numbers["low"] <= numbers["value"] <= numbers["high"] <= 1
    config = tiny_config(eval__split="test_styles", eval__train_split="val_styles", eval__suite="none")
    (problem,) = SWAPPED_CAPTIONS.check(EvalContext(None, config))  # a model without a text side
    assert "--text_encoder = None: expected the sentence encoder of the captions" in str(problem)
