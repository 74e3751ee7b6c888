"""Zero-shot: the map to texts against scikit-learn, prompts against a loop, the text tower against its own words."""

import dataclasses
import json
import types

import jax
import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from tests.tiny import tiny_config
from xsample_jax.captions import encoders
from xsample_jax.data.writer import write_records
from xsample_jax.errors import DataError
from xsample_jax.evals import zero_shot as class_texts
from xsample_jax.evals.context import EvalContext, Options
from xsample_jax.evals.features import Features
from xsample_jax.evals.linear_probes import RIDGE_L2_VALUES, hold_out
from xsample_jax.evals.metrics import Collector
from xsample_jax.evals.zero_shot import ZERO_SHOT, TextSide, fit_map


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def world():
    """Classes with texts; features that are a noisy linear image of the text. Training has classes 0 to 29."""
    rng = np.random.default_rng(0)
    texts, mixing = unit(rng.normal(size=(40, 8))), rng.normal(size=(8, 12))

    def split(classes, of_each, noise):
        label = np.repeat(classes, of_each)
        x = texts[label] @ mixing + noise * rng.normal(size=(len(label), 12))
        return Features(x.astype(np.float32), None, np.arange(len(label)), label,
                        caption_embedding=texts[label].astype(np.float32))  # fmt: skip

    return texts, {"train": split(np.arange(30), 6, 0.3), "test": split(np.arange(30, 40), 9, 1.2)}


def test_the_map_is_sklearns_ridge_with_the_l2_of_held_out_groups(world):
    _, splits = world
    x, y, groups = splits["train"].features, splits["train"].caption_embedding, splits["train"].label
    _, held = hold_out(groups, 0.2, seed=0)

    def fitted(rows, l2):
        scaler = StandardScaler().fit(x[rows])
        peer = Ridge(alpha=l2 * rows.sum()).fit(scaler.transform(x[rows]), y[rows])
        return lambda queries: peer.predict(scaler.transform(queries))

    cosine = {l2: np.mean(np.sum(unit(fitted(~held, l2)(x[held])) * y[held], axis=1)) for l2 in RIDGE_L2_VALUES}
    best = max(cosine, key=cosine.get)
    queries = splits["test"].features
    expected = fitted(np.ones(len(x), bool), best)(queries)
    np.testing.assert_allclose(fit_map(x, y, groups)(queries), expected, atol=1e-4)


def test_unseen_classes_are_named_by_the_nearest_text(world, monkeypatch):
    texts, splits = world
    monkeypatch.setattr("xsample_jax.evals.zero_shot.frozen_class_embeddings", lambda bench: texts)
    config = types.SimpleNamespace(
        data=types.SimpleNamespace(source="emoji"), eval=types.SimpleNamespace(split="test", train_split="train")
    )
    bench, out = EvalContext(splits.__getitem__, config), Collector()
    ZERO_SHOT.run(bench, out)
    test = splits["test"]
    mapped = unit(
        fit_map(splits["train"].features, splits["train"].caption_embedding, splits["train"].label)(test.features)
    )
    order = np.argsort(-(mapped @ texts[30:].T), axis=1) + 30
    assert out.metrics["zero_shot/mapped/label"] == pytest.approx(np.mean(order[:, 0] == test.label))
    top = np.mean((order[:, :5] == test.label[:, None]).any(axis=1))
    assert out.metrics["zero_shot/mapped/label_top5"] == pytest.approx(top)
    assert 0.5 < out.metrics["zero_shot/mapped/label"] < 1
    assert set(out.examples["zero_shot/mapped/label"].concepts) == set(range(30, 40))


def test_what_has_no_labels_or_captions_is_said(world, monkeypatch):
    """faults D1: an IndexError of numpy, after the features were computed."""
    texts, splits = world
    monkeypatch.setattr("xsample_jax.evals.zero_shot.frozen_class_embeddings", lambda bench: texts)
    config = types.SimpleNamespace(
        data=types.SimpleNamespace(source="emoji"), eval=types.SimpleNamespace(split="test", train_split="train")
    )
    train, test = splits["train"], splits["test"]
    for changed, message in (
        ({"test": dataclasses.replace(test, label=np.full_like(test.label, -1))}, "labels of split test = 'none'"),
        ({"train": train.rows(train.label < 0)}, "captions of split train = 'none'"),
    ):
        with pytest.raises(DataError, match=message):
            ZERO_SHOT.run(EvalContext((splits | changed).__getitem__, config), Collector())


def test_a_split_without_labels_is_refused_before_any_work(tmp_path):
    """faults D1: its set names classes."""
    captions = {"name": "mpnet", "revision": "sha", "dim": 4}
    record = {"image": b"x", "captions": ["a"], "caption_embeddings": np.ones((1, 4), np.float16)}
    records = {"train": [record | {"id": 0, "label": 1}], "val": [record | {"id": 1}]}
    write_records(tmp_path, "two", records, ["cat", "dog"], text_encoder=captions)
    np.save(tmp_path / "class_embeddings.npy", np.ones((2, 4), np.float16))
    about = {"text_encoder": captions, "class_names": ["cat", "dog"]}
    (tmp_path / "class_embeddings.json").write_text(json.dumps(about))
    config = tiny_config(data__source="records", data__path=str(tmp_path), data__split="train", eval__suite="none",
                         eval__split="val", eval__train_split="train")  # fmt: skip
    (problem,) = ZERO_SHOT.check(EvalContext(None, config))
    assert "labels of split val = 'none'" in str(problem)


@pytest.mark.parametrize(
    ("made", "problems"),
    [
        ({"name": "hub/mpnet", "revision": "commit", "dim": 4}, 0),
        ({"name": "folder/other", "revision": "sha", "dim": 4}, 0),  # the same weights by another name
        ({"name": "hub/other", "revision": "else", "dim": 4}, 1),
        ({"name": "hub/mpnet", "revision": "sha", "dim": 3}, 1),
    ],
)
def test_class_texts_of_another_encoder_than_the_captions_are_refused(tmp_path, made, problems):
    captions = {"name": "mpnet", "revision": "sha", "dim": 4}
    record = {"id": 0, "image": b"x", "label": 1, "captions": ["a"], "caption_embeddings": np.ones((1, 4), np.float16)}
    other = record | {"id": 1}
    write_records(tmp_path, "two", {"train": [record], "val": [other]}, ["cat", "dog"], text_encoder=captions)
    np.save(tmp_path / "class_embeddings.npy", np.ones((2, made["dim"]), np.float16))
    about = {"text_encoder": made, "class_names": ["cat", "dog"]}
    (tmp_path / "class_embeddings.json").write_text(json.dumps(about))
    config = tiny_config(data__source="records", data__path=str(tmp_path), data__split="train", eval__suite="none",
                         eval__split="val", eval__train_split="train")  # fmt: skip
    found = [str(problem) for problem in ZERO_SHOT.check(EvalContext(None, config))]
    assert len(found) == problems
    assert all("encoder of the class texts" in problem and "mpnet (4 wide)" in problem for problem in found)


def vectors(texts):
    """A stand-in for an encoder: a vector that depends on every letter, of any length."""
    return np.array([[sum(map(ord, text)) % 97 - 48, len(text), text.count("a") + 1, 5.0] for text in texts])


def test_prompts_are_averaged_as_unit_vectors():
    prompts, names = ("a photo of a {caption}", "{caption}, a long text about it"), ["cat", "banana"]
    rows = class_texts.mean_over_prompts(names, prompts, vectors)
    for row, name in zip(rows, names, strict=True):
        each = [unit(vectors([prompt.format(caption=name)]))[0] for prompt in prompts]
        np.testing.assert_allclose(row, unit(np.mean(each, axis=0)), atol=1e-6)


def test_prompts_go_through_the_encoder_of_the_captions_unless_another_is_named(monkeypatch):
    opened = []

    class Encoder:
        def encode(self, texts, advance):
            return vectors(texts)

    monkeypatch.setattr(class_texts, "open_encoder", lambda name: opened.append(name) or Encoder())
    config = tiny_config()
    for options in (Options(prompts=("{caption}!",)), Options(prompts=("{caption}!",), text_encoder="folder")):
        rows = class_texts.frozen_class_embeddings(EvalContext(None, config, options))
    names = EvalContext(None, config).source("test").manifest.class_names
    assert opened == ["sentence-transformers/all-mpnet-base-v2", "folder"]
    np.testing.assert_allclose(rows[7], unit(vectors([names[7] + "!"]))[0], atol=1e-6)
    assert encoders.fill_template("{caption}!", ["x"]) == ["x!"]


def test_the_text_tower_embeds_prompts_and_captions(monkeypatch):
    from xsample_jax.models import resnet
    from xsample_jax.setup import build_run

    monkeypatch.setitem(resnet.LAYOUTS, 18, (resnet.BasicBlock, (1,)))
    config = tiny_config(objective__preset="clip", model__text__layers=1, eval__split="test_styles")
    parts, _ = build_run(config)
    state = parts.new_state()
    source = EvalContext(None, config).source("test_styles")
    text = TextSide(parts, state, lambda split: types.SimpleNamespace(index=np.arange(len(source))))
    monkeypatch.setattr("xsample_jax.evals.zero_shot.CHUNK", 16)  # several chunks, the last one padded
    there, rows, ids = text.of_split("test_styles")
    assert there.tolist() == list(range(len(source)))
    captions = [source[index]["captions"][0] for index in range(len(source))]
    network = parts.model.merge(state.params, state.statistics, training=False)
    some = [0, 3, len(source) - 1]
    expected = jax.jit(lambda tokens: network.embed_text({"caption_tokens": tokens}))(
        text.tokens([captions[index] for index in some])
    )
    np.testing.assert_allclose(rows[some], expected, atol=1e-5)
    assert all((ids[a] == ids[b]) == (captions[a] == captions[b]) for a in some for b in range(len(source)))
    bench = EvalContext(None, config, Options(prompts=("a {caption}", "the {caption}")), text)
    assert list(ZERO_SHOT.check(bench)) == []
    found = class_texts.embedded_class_texts(bench)
    name = source.manifest.class_names[5]
    each = text.embed(text.tokens([f"a {name}", f"the {name}"]))
    np.testing.assert_allclose(found[5], unit(each.mean(axis=0)), atol=1e-5)


def test_what_zero_shot_needs_is_checked(tmp_path):
    from tests.evals.color_world import color_config

    config = color_config(tmp_path / "set")
    (problem,) = ZERO_SHOT.check(EvalContext(None, config))
    assert "targets of the map to texts" in str(problem)
    with pytest.raises(Exception, match="caption"):
        list(ZERO_SHOT.check(EvalContext(None, config, Options(prompts=("no field",)))))
