"""Evaluating real datasets: some records without a caption, one that cannot be read."""

import dataclasses
import io
import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from tests.tiny import tiny_config
from xsample_jax.data.captions import TOKENIZER
from xsample_jax.data.sources import EMOJI_FOLDER
from xsample_jax.data.writer import write_records
from xsample_jax.errors import DataError
from xsample_jax.evals.baselines import baseline_store, baselines_of
from xsample_jax.evals.catalog import load_facts
from xsample_jax.evals.context import EvalContext
from xsample_jax.evals.emoji import EMOJI
from xsample_jax.evals.evaluate import FeatureStore
from xsample_jax.evals.metrics import load_examples
from xsample_jax.evals.zero_shot import TextSide
from xsample_jax.loop import train
from xsample_jax.setup import build_run

WITHOUT, BROKEN = 5, 9  # of each split
ENCODER = {"name": "m", "revision": "r", "pooling": "mean", "dim": 6, "normalised": True, "template": "{caption}"}


@pytest.fixture
def records(tmp_path):
    """(folder of a set, its config); `images` of each split."""

    def make(images, broken=False, **changes):
        rng = np.random.default_rng(0)

        def record(split, number):
            buffer = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(buffer, "PNG")
            found = {"id": 1000 * split + number, "image": buffer.getvalue(), "label": number % 4}
            if broken and number == BROKEN:
                found["image"] = b"no image"
            if number != WITHOUT:
                vector = rng.normal(size=(1, 6))
                embedding = np.float16(vector / np.linalg.norm(vector))
                found |= {"captions": [f"image {number}"], "caption_embeddings": embedding}
            return found

        splits = {name: [record(split, n) for n in range(images)] for split, name in enumerate(("train", "val"))}
        write_records(tmp_path / "set", "set", splits, ["a", "b", "c", "d"], text_encoder=ENCODER)
        return tiny_config(data__source="records", data__path=str(tmp_path / "set"), data__split="train",
                           eval__train_split="train", eval__split="val", eval__batch_size=7, **changes)  # fmt: skip

    return make


@pytest.mark.usefixtures("linear_encoder")
def test_an_objective_without_text_is_evaluated_on_a_set_with_some_captions(records, tmp_path):
    config = records(24, broken=True, objective__preset="simclr", data__on_error="skip", eval__suite="probe", steps=1,
                     eval__baselines=("untrained", "pixels"))  # fmt: skip
    train(config, tmp_path / "run")
    scores = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert 0 <= scores["label/knn"] <= 1
    counted = load_examples(tmp_path / "run" / "evaluation.npz")["label/knn"]
    assert len(counted.values) == 23  # the broken one is not counted, and no other one twice
    assert (tmp_path / "run" / "report.html").exists()
    # faults D2: counts, chance and baselines are kept beside the metrics.
    facts, _ = load_facts(tmp_path / "run" / "evaluation_facts.json")
    assert facts.keys() == scores.keys()
    of = facts["label/knn"]
    assert (of["n"], of["classes"], of["chance"]) == (23, 4, pytest.approx(6 / 23))
    assert of["baselines"].keys() == {"untrained", "pixels"}
    page = (tmp_path / "run" / "report.html").read_text()
    assert "n = 23, 4 classes; chance 26.1, untrained encoder" in page
    # They are computed once: what is kept is read.
    (kept,) = json.loads((tmp_path / "run" / "baselines.json").read_text()).values()
    assert kept["pixels"]["label/knn"] == of["baselines"]["pixels"]


def test_kept_baselines_are_read_and_a_damaged_file_is_none(tmp_path, capsys):
    asked = []
    measure = lambda name: asked.append(name) or {"m": 0.5}  # noqa: E731
    both = ("untrained", "pixels")
    assert baselines_of(tmp_path, both[:1], {"split": "a"}, measure) == {"untrained": {"m": 0.5}}
    assert baselines_of(tmp_path, both, {"split": "a"}, measure) == {name: {"m": 0.5} for name in both}
    assert asked == ["untrained", "pixels"]
    baselines_of(tmp_path, both, {"split": "b"}, measure)  # of other data
    assert len(asked) == 4
    key = next(iter(json.loads((tmp_path / "baselines.json").read_text())))
    nothing = json.dumps({key: {"untrained": {"m": None}}})  # faults B6: a null came through, and ended the page
    for damaged in ("{", "[]", '{"x": 1}', nothing, nothing.replace("null", '"0.5"'), "[" * 100_000):
        (tmp_path / "baselines.json").write_text(damaged)
        assert baselines_of(tmp_path, both[:1], {"split": "a"}, measure) == {"untrained": {"m": 0.5}}
        assert "baselines.json is damaged" in capsys.readouterr().err
    assert len(asked) == 10


@pytest.mark.usefixtures("linear_encoder")
def test_the_baselines_are_the_model_at_step_0_and_the_shrunk_image(records):
    config = records(8, objective__preset="simclr", eval__suite="none", data__image_size=32)
    parts, _ = build_run(config)
    state = parts.new_state()
    trained = dataclasses.replace(state, params={name: 2 * leaf for name, leaf in state.params.items()})
    store = FeatureStore(parts, trained)
    untrained, pixels = (baseline_store(name, store)("val") for name in ("untrained", "pixels"))
    np.testing.assert_allclose(untrained.features, FeatureStore(parts, state)("val").features, rtol=1e-4, atol=1e-5)
    image = store.examples("val")[0]["image"].astype(np.float32) / 255
    view = (image - np.float32(config.augment.mean)) / np.float32(config.augment.std)
    small = np.asarray(jax.image.resize(view, (16, 16, 3), "linear"))
    np.testing.assert_allclose(pixels.features[0], small.ravel(), atol=2e-3)
    assert pixels.embedding is None


@pytest.mark.usefixtures("linear_encoder")
def test_texts_are_compared_with_the_images_that_have_one(records):
    config = records(24, broken=True, objective__preset="clip_frozen_text", data__on_error="skip", eval__suite="none")
    parts, _ = build_run(config)
    store = FeatureStore(parts, parts.new_state())
    features = store("val")
    kept = [n for n in range(24) if n != BROKEN]
    np.testing.assert_array_equal(features.index, kept)
    np.testing.assert_array_equal(features.id, [1000 + n for n in kept])
    assert len(features.captioned()) == 22
    side = TextSide(parts, parts.new_state(), store)
    rows, texts, ids = side.of_split("val")
    assert [kept[row] for row in rows] == [n for n in kept if n != WITHOUT]
    assert len(texts) == len(set(ids)) == 22
    poisoned = features.caption_embedding[rows]
    poisoned[3] = np.nan
    with pytest.raises(DataError, match=r"features of the texts = '1 of 22 rows with NaN"):
        side.embed(poisoned)  # faults D: zeros, that were compared as a text


def test_an_emoji_set_in_a_folder_is_an_emoji_set():
    config = tiny_config()
    with config.unlocked():
        config.data.source = "emoji_folder"
    bench = EvalContext(None, config)
    assert bench.target == "subgroup"
    assert list(EMOJI.check(bench)) == []


@pytest.mark.usefixtures("linear_encoder")
def test_a_text_tower_reads_the_captions_that_there_are(records, tmp_path):
    """data.caption by its number, which some records do not have."""
    config = records(24, objective__preset="clip", data__caption="0", eval__suite="none", model__text__layers=1)
    shutil.copy(EMOJI_FOLDER / TOKENIZER, tmp_path / "set")
    parts, _ = build_run(config)
    store = FeatureStore(parts, parts.new_state())
    rows, texts, ids = TextSide(parts, parts.new_state(), store).of_split("val")
    assert [*rows] == [n for n in range(24) if n != WITHOUT]
    assert len(texts) == len(set(ids)) == 23
