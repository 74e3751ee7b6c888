"""tools.evaluate from the outside: a checkpoint in, a table, JSON and a page out; refusals before any compute."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest

from tests.evals.color_world import image, write_colors, write_sets
from tests.tiny import tiny_config
from tests.tools.test_report import read
from xsample_jax.augment.views import make_views
from xsample_jax.checkpoint import Checkpoints
from xsample_jax.config import config_to_json
from xsample_jax.data.sources import open_source
from xsample_jax.data.writer import write_records
from xsample_jax.errors import CheckpointError, ConfigError, DataError, Problems
from xsample_jax.evals import baselines
from xsample_jax.evals import context as bench
from xsample_jax.evals import zero_shot as class_texts
from xsample_jax.evals.catalog import SECTIONS, describe
from xsample_jax.evals.evaluate import FeatureStore, evaluate_checkpoint, load_model, read_config
from xsample_jax.evals.metrics import bootstrap, load_examples
from xsample_jax.evals.registry import EVALUATORS
from xsample_jax.io.checkpoint_files import FORMAT, find_checkpoint, text_checksum
from xsample_jax.setup import build_run
from xsample_jax.state import Progress
from xsample_jax.tools import evaluate

SPLITS = ["--config.eval.train_split=val_styles", "--config.eval.split=test_styles"]


def save_run(folder, steps=(3, 7), classes=(), **changes):
    """A run folder with checkpoints of a model that was never trained; returns (parts, its state)."""
    from xsample_jax.models import resnet

    config = tiny_config(model__width=16, **changes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(resnet.LAYOUTS, 18, (resnet.BasicBlock, (1,)))
        parts, _ = build_run(config)
        state = parts.new_state()
    checkpoints = Checkpoints(folder, config.checkpoint)
    for step in steps:
        checkpoints.save(state, Progress(step, 16 * step, classes=classes), config_to_json(config))
        checkpoints.wait()
    checkpoints.close()
    return parts, state


@pytest.fixture(autouse=True)
def _one_block(monkeypatch):
    from xsample_jax.models import resnet

    monkeypatch.setitem(resnet.LAYOUTS, 18, (resnet.BasicBlock, (1,)))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "xclr"
    save_run(folder, name="tiny_xclr")
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "clip"
    save_run(folder, steps=(1,), objective__preset="clip_frozen_text")
    return folder


@pytest.fixture
def prompts(monkeypatch, tmp_path):
    """A file with a template, and a stand-in for the encoder: of a class name it gives the embedding of its caption."""
    source = open_source(tiny_config().data, "test_styles")
    records = [source[index] for index in range(len(source))]
    known = {source.manifest.class_names[of["label"]]: of["caption_embeddings"][0] for of in records}
    other = np.ones_like(next(iter(known.values())))

    class Encoder:
        def encode(self, texts, advance):
            return np.stack([known.get(text, other) for text in texts])

    monkeypatch.setattr(class_texts, "open_encoder", lambda name: Encoder())
    path = tmp_path / "prompts.txt"
    path.write_text("{caption}\n", encoding="utf-8-sig")
    return path


def test_table_json_examples_and_page(run, capsys, tmp_path, prompts, monkeypatch):
    monkeypatch.setattr(baselines, "SIDE", 4)  # regressions on 768 pixels take longer than all the rest
    names = "knn,probe,logistic,few_shot,zero_shot,retrieval,geometry,encoding"
    records = len(open_source(tiny_config().data, "test_styles"))
    np.save(tmp_path / "responses.npy", np.random.default_rng(0).normal(size=(records, 2)))
    arguments = [f"--checkpoint={run}", f"--evals={names}", "--target=group", *SPLITS, f"--out={tmp_path / 'out'}"]
    arguments += [f"--responses={tmp_path / 'responses.npy'}", f"--prompts={prompts}"]
    arguments += ['--config.eval.baselines=("untrained", "pixels")']
    assert evaluate.run(arguments) == 0
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert (found["step"], found["evals"]) == (7, names.split(","))
    assert found["data"]["split"] == "test_styles"
    metrics, examples = found["metrics"], load_examples(tmp_path / "out" / "evaluation.npz")
    assert {"group/knn", "group/logistic_ece", "few_shot/10/group_ridge", "zero_shot/mapped/label",
            "retrieval/image_to_image/R@5", "geometry/tolerance", "spearman/captions",
            "encoding/mean"} <= set(metrics)  # fmt: skip
    outline, text = read(tmp_path / "out" / "evaluation.html")
    assert not outline.sources  # nothing is fetched
    for name, numbers in metrics.items():
        metric = describe(name)
        assert metric.section != SECTIONS[-1], name
        assert metric.title in printed
        assert metric.title in text
        if name in examples and not name.startswith("few_shot"):
            interval = bootstrap([examples[name]])
            assert numbers["low"] == pytest.approx(interval.low, abs=1e-6)
            shown = f"{metric.text(interval.mean)} [{metric.text(interval.low)}, {metric.text(interval.high)}]"
            assert shown in re.sub(r"\s+", " ", printed)
            assert shown in text
    assert metrics["geometry/effective_rank"]["low"] is None
    # faults D2: with every number its count, its chance and its baselines, in JSON, on the page and in the terminal.
    of = {name: metrics[name] for name in ("group/knn", "retrieval/image_to_image/R@10", "geometry/effective_rank")}
    groups = FeatureStore(*loaded_run(run))("test_styles").attributes["group"]
    assert of["group/knn"]["n"] == len(groups) == len(examples["group/knn"].values)
    assert of["group/knn"]["chance"] == pytest.approx(np.bincount(groups).max() / len(groups))
    assert of["group/knn"]["classes"] == len(np.unique(groups))
    assert of["group/knn"]["higher_is_better"]
    assert of["group/knn"]["baselines"].keys() == {"untrained", "pixels"}
    assert of["geometry/effective_rank"]["chance"] is None
    assert of["group/knn"]["baselines"]["untrained"] == pytest.approx(of["group/knn"]["value"])  # it never was trained
    assert of["group/knn"]["baselines"]["pixels"] != of["group/knn"]["value"]
    for shown in (printed, text):
        for words in ("chance", "untrained encoder", "pixels", f"{100 * of['group/knn']['chance']:.1f}"):
            assert words in shown
    kept = json.loads((run / "baselines.json").read_text())
    assert len(kept) == len(names.split(","))
    # The choice of the shots adds to the spread.
    draws, shares = metrics["few_shot/1/group"], bootstrap([examples["few_shot/1/group"]])
    assert draws["high"] - draws["low"] > shares.high - shares.low


def loaded_run(run):
    where = find_checkpoint(run)
    loaded = load_model(*where, read_config(*where, SPLITS))
    return loaded.parts, loaded.state


def test_a_model_of_other_data_on_the_robustness_table(run, tmp_path, capsys):
    write_colors(tmp_path / "records", of_each=6)
    write_sets(tmp_path / "sets")
    for pair, color in (("ancient building", 0), ("ancient clock", 6), ("broken clock", 11)):
        for number in range(4):
            image(tmp_path / "sets" / "release_dataset" / "images" / pair / f"{number}.jpg", color)
    shutil.rmtree(tmp_path / "sets" / "imagenet-r")
    data = ["--config.data.source=records", f"--config.data.path={tmp_path / 'records'}", "--config.eval.split=val"]
    arguments = [f"--checkpoint={run}", "--evals=robustness,mit_states", "--probe=ridge", f"--sets={tmp_path / 'sets'}"]
    assert evaluate.run([*arguments, *data]) == 0
    found = json.loads((run / "evaluations" / "7" / "evaluation.json").read_text())
    metrics = {name.removeprefix("robustness/"): numbers["value"] for name, numbers in found["metrics"].items()}
    assert "imagenet-r" not in metrics
    assert "note: imagenet-r: not in" in capsys.readouterr().out
    # Even at random a network tells colors apart; what the probe says decides, as in tests/evals/test_robustness.py.
    expected = {"imagenet": 4 / 6, "imagenet-real": 4 / 5, "imagenet-v2": 3 / 4, "imagenet-sketch": 1 / 3}
    expected |= {"imagenet-9/original": 4 / 6, "imagenet-9/gap": 1 / 6, "objectnet": 3 / 4}
    assert {name: metrics[name] for name in expected} == pytest.approx(expected)
    assert metrics["mit_states/objects"] == 1
    _, text = read(run / "evaluations" / "7" / "evaluation.html")
    assert "the official set has 7,500" in text


def test_another_evaluation_of_a_step_does_not_replace_the_first(run, tmp_path, capsys):
    """faults B6: --evals=geometry after --evals=knn, or another split, left only the second."""
    folder, common = tmp_path / "run", ["--evals=geometry", "--config.eval.baselines=()"]
    shutil.copytree(run / "checkpoints", folder / "checkpoints")
    (folder / "evaluations").mkdir()
    (folder / "evaluations" / "7-2").write_text("of somebody")
    for split in ("val_styles", "test_styles", "val_styles"):
        assert evaluate.run([f"--run={folder}", *common, f"--config.eval.split={split}"]) == 0
    assert str(folder / "evaluations" / "7" / "evaluation.html") in capsys.readouterr().out
    found = {name: json.loads((folder / "evaluations" / name / "evaluation.json").read_text()) for name in ("7", "7-3")}
    assert {name: of["data"]["split"] for name, of in found.items()} == {"7": "val_styles", "7-3": "test_styles"}
    assert len(list((folder / "evaluations").iterdir())) == 3
    asked = found["7"]["asked"]
    for change in ({"evals": ["knn"]}, {"crop": 0.5}, {"options": {}}, {"beside": ["x"]}):
        assert evaluate.results_folder(folder / "evaluations", 7, asked | change).name == "7-4"
    (folder / "evaluations" / "7" / "evaluation.json").write_text("[]")
    assert evaluate.results_folder(folder / "evaluations", 7, asked).name == "7-4"


def test_a_folder_of_results_is_that_of_one_evaluation(run, tmp_path, monkeypatch):
    """faults B6: --out replaced the results of another checkpoint, split or evaluation without a word."""
    out, call = tmp_path / "out", [f"--run={run}", "--evals=geometry", "--config.eval.baselines=()"]
    assert evaluate.run([*call, f"--out={out}"]) == 0
    assert evaluate.run([*call, f"--out={out}"]) == 0  # the same, made again
    text = (out / "evaluation.json").read_text()
    monkeypatch.setattr("xsample_jax.evals.evaluate.evaluate_checkpoint", None)  # nothing is computed
    shutil.copytree(run, tmp_path / "other")
    for changed in (
        [f"--run={tmp_path / 'other'}", *call[1:]],
        [*call, "--crop=0.5"],
        [*call[:2], call[2][:-2] + "('pixels',)"],
    ):
        with pytest.raises(DataError, match=r"--out = .*no results of another evaluation.*Choose another folder"):
            evaluate.run([*changed, f"--out={out}"])
    assert (out / "evaluation.json").read_text() == text
    (out / "evaluation.json").write_text("{")
    with pytest.raises(DataError, match="--out"):
        evaluate.run([*call, f"--out={out}"])


@pytest.mark.usefixtures("no_compute")
def test_results_that_could_not_be_written_are_not_computed(run, tmp_path):
    """faults B5"""
    shutil.copytree(run / "checkpoints", tmp_path / "checkpoints")
    (tmp_path / "evaluations").write_text("")
    with pytest.raises(ConfigError, match="is no folder"):
        evaluate.run([f"--run={tmp_path}", "--evals=knn"])


@pytest.mark.parametrize("ema", [None, 0.5])
def test_the_loaded_model_is_the_one_that_was_saved(tmp_path, ema):
    parts, state = save_run(tmp_path / "run", steps=(2,), optimizer__ema=ema)
    where = find_checkpoint(tmp_path / "run" / "checkpoints" / "2")
    loaded = load_model(*where, read_config(*where))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (16, 32, 32, 4), dtype=np.uint8)
    for ours, theirs in zip(loaded.parts.encode(loaded.state, images), parts.encode(state, images), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert loaded.state.opt_state == ()
    assert bool(loaded.state.ema) == (ema is not None)


def test_checkpoints_are_found_by_run_folder_and_step(run):
    assert find_checkpoint(run) == find_checkpoint(run / "checkpoints") == (run, 7)
    assert find_checkpoint(run / "checkpoints" / "3") == (run, 3)
    with pytest.raises(CheckpointError, match="Known: 3, 7"):
        find_checkpoint(run / "checkpoints" / "50000")
    with pytest.raises(CheckpointError, match="a run folder, or RUN/checkpoints/STEP"):
        find_checkpoint(run.parent)


def test_what_a_run_was_trained_on_does_not_matter_any_more(tmp_path):
    config = tiny_config(data__source="records", data__path="gone", eval__suite="none",
                         data__mix=({"path": "gone too", "share": 0.5},))  # fmt: skip
    meta = {"format": FORMAT, "config": config_to_json(config)}
    folder = tmp_path / "checkpoints" / "1" / "meta"
    folder.mkdir(parents=True)
    (folder / "metadata").write_text(json.dumps(meta | {"checksum": text_checksum(meta)}))
    found = read_config(tmp_path, 1, ["--config.data.source=emoji", "--config.data.path=None"])
    assert (found.data.source, found.data.mix) == ("emoji", ())


def test_a_damaged_checkpoint_is_refused(tmp_path):
    save_run(tmp_path / "run", steps=(2,))
    meta = tmp_path / "run" / "checkpoints" / "2" / "meta" / "metadata"
    content = json.loads(meta.read_text())
    name = next(name for name in content["checksums"] if name.startswith("['params']['encoder/"))
    content["checksums"][name] += 1
    content.pop("checksum")
    meta.write_text(json.dumps(content | {"checksum": text_checksum(content)}))
    with pytest.raises(CheckpointError, match=r"checksum in .*encoder/"):
        load_model(tmp_path / "run", 2, read_config(tmp_path / "run", 2))
    meta.write_text(meta.read_text().replace("params", "parms"))
    with pytest.raises(CheckpointError, match="what its checksum was made of"):
        read_config(tmp_path / "run", 2)


def test_another_model_than_the_config_says_is_refused(tmp_path):
    save_run(tmp_path / "run", steps=(2,))
    config = read_config(tmp_path / "run", 2).copy_and_resolve_references()
    with config.unlocked():
        config.model.width = 8
    with pytest.raises(CheckpointError, match=r"encoder/.*not \("):
        load_model(tmp_path / "run", 2, config)


@pytest.fixture
def no_compute(monkeypatch):
    def encoded(*arguments, **options):
        raise AssertionError("features are computed before everything is checked")

    monkeypatch.setattr(FeatureStore, "encoded", encoded)


@pytest.mark.usefixtures("no_compute")
def test_all_that_is_wrong_is_said_at_once_and_before_any_compute(run, tmp_path):
    with pytest.raises(ConfigError, match=r"Did you mean logistic?"):
        evaluate.run([f"--checkpoint={run}", "--evals=knn,logistik"])
    with pytest.raises(ConfigError, match="one template on each line"):
        evaluate.run([f"--checkpoint={run}", "--evals=zero_shot", f"--prompts={tmp_path / 'no.txt'}"])
    with pytest.raises(Problems) as several:
        evaluate.run([f"--checkpoint={run}", "--evals=knn,mit_states,robustness,encoding", "--target=grop"])
    text = str(several.value)
    assert "Did you mean group" in text
    assert "Get MIT-States from" in text
    assert "ImageNet classes" in text
    assert "--responses = None: expected a .npy file" in text
    with pytest.raises(Problems, match=r"model.width"):
        evaluate.run([f"--checkpoint={run}", "--evals=knn", "--config.model.width=64"])
    with pytest.raises(Problems, match=r"eval.split"):
        evaluate.run([f"--checkpoint={run}", "--evals=knn", "--config.eval.splits=test"])
    with pytest.raises(Problems, match="tested on what it was fitted to"):
        evaluate.run([f"--checkpoint={run}", "--evals=knn", "--config.eval.train_split=test"])
    with pytest.raises(ConfigError, match=r"--sgd_momentum = 1.0: expected a number from 0 to below 1"):
        evaluate.run([f"--checkpoint={run}", "--evals=sgd", "--sgd_momentum=1"])
    for crop in ("1.5", "0", "0.01", "0.2", "-1", "nan", "inf"):  # faults D9: 0.01 of 32 pixels are none
        with pytest.raises(Problems, match=r"--crop = .*from 0.25 to 1, for images of 32 pixels"):
            evaluate.run([f"--checkpoint={run}", "--evals=knn", f"--crop={crop}"])
    for flag in ("learning_rates=inf", "learning_rates=0.1,nan", "learning_rates=1e-60", "epochs=0",
                 "epochs=1000000000", "batch_size=-1", "weight_decay=inf", "weight_decay=nan",
                 "momentum=nan"):  # fmt: skip
        with pytest.raises(ConfigError, match=f"--sgd_{flag.partition('=')[0]} = .*numbers? from"):
            evaluate.run([f"--checkpoint={run}", "--evals=sgd", f"--sgd_{flag}"])


def test_an_evaluation_that_measures_nothing_is_an_error(run, monkeypatch):
    def nothing(bench, out):
        out.note("no two images share a label")

    monkeypatch.setitem(EVALUATORS, "retrieval", dataclasses.replace(EVALUATORS["retrieval"], run=nothing))
    with pytest.raises(DataError, match="no two images share a label"):
        evaluate_checkpoint(run, ["retrieval"], SPLITS)


def test_that_the_split_chose_the_checkpoints_is_said(tmp_path):
    """faults D1: the best of several checkpoints on a split is no unbiased result on it."""
    ranked = {"checkpoint__metric": "group/probe", "checkpoint__every": 2, "eval__every": 2, "eval__suite": "emoji"}
    save_run(tmp_path / "run", steps=(2,), **ranked, eval__split="test")
    splits = ["--config.eval.train_split=test_styles"]
    options = bench.Options(target="group")
    assert any("not an unbiased result" in note
               for note in evaluate_checkpoint(tmp_path / "run", ["knn"], splits, options).result.notes)  # fmt: skip
    assert not evaluate_checkpoint(tmp_path / "run", ["knn"], SPLITS[::-1], options).result.notes


def test_the_flags_of_the_sgd_probe_reach_it(run, monkeypatch, tmp_path):
    seen = []
    real = bench.fit_sgd

    def fit_sgd(features, labels, groups, protocol):
        seen.append(protocol)
        return real(features, labels, groups, protocol)

    monkeypatch.setattr(bench, "fit_sgd", fit_sgd)
    flags = ["--sgd_learning_rates=0.1,0.2", "--sgd_epochs=2", "--sgd_batch_size=64", "--target=group"]
    assert evaluate.run([f"--checkpoint={run}", "--evals=sgd", *SPLITS, *flags, f"--out={tmp_path}"]) == 0
    (protocol,) = seen
    assert (protocol.learning_rates, protocol.epochs, protocol.batch_size) == ((0.1, 0.2), 2, 64)
    assert protocol.momentum == 0.9


def test_a_set_without_labels_is_refused(run, tmp_path):
    record = {"image": b"never decoded", "label": -1}
    write_records(tmp_path, "plain", {"train": [record | {"id": 0}], "val": [record | {"id": 1}]})
    data = ["--config.data.source=records", f"--config.data.path={tmp_path}", "--config.eval.split=val"]
    with pytest.raises(Problems) as several:
        evaluate.run([f"--checkpoint={run}", "--evals=knn,retrieval,zero_shot,emoji", *data])
    text = str(several.value)
    for words in (
        "labels of split train",
        "a set without labels",
        "class names of split val",
        "Leave it out of --evals",
    ):
        assert words in text


def test_the_labels_of_emoji_splits_have_nothing_in_common(run):
    with pytest.raises(Exception, match="no class in common"):
        evaluate.run([f"--checkpoint={run}", "--evals=knn", "--target=label", *SPLITS])


def test_crop_shows_the_middle(run):
    where = find_checkpoint(run)
    loaded = load_model(*where, read_config(*where, SPLITS))
    whole, middle = (FeatureStore(loaded.parts, loaded.state, crop)("test_styles") for crop in (1.0, 0.5))
    image = FeatureStore(loaded.parts, loaded.state).examples("test_styles")[0]["image"][None]
    padded = np.repeat(image, 8, axis=0)
    np.testing.assert_allclose(whole.features[0], loaded.parts.encode(loaded.state, padded)[0][0], atol=1e-5)
    inner = loaded.parts.encode(loaded.state, padded[:, 8:24, 8:24])[0][0]
    np.testing.assert_allclose(middle.features[0], inner, atol=1e-5)
    assert FeatureStore(loaded.parts, loaded.state, 0.875).side() == 37  # of which 32 are seen
    assert FeatureStore(loaded.parts, loaded.state, 0.875).side(whole=True) == 32


def test_features_are_the_mean_over_random_views_whatever_the_batch(run):
    where = find_checkpoint(run)
    settings = (("0", "16"), ("2", "16"), ("2", "24"))
    flags = ([*SPLITS, f"--config.eval.views={views}", f"--config.eval.batch_size={b}"] for views, b in settings)
    plain, of_two, other_batch = (load_model(*where, read_config(*where, changes)) for changes in flags)
    found, again = (FeatureStore(of.parts, of.state)("test_styles") for of in (of_two, other_batch))
    np.testing.assert_allclose(found.features, again.features, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found.embedding, axis=1), 1, rtol=1e-5)
    parts, examples = of_two.parts, FeatureStore(of_two.parts, of_two.state).examples("test_styles")
    images, ids = np.stack([examples[n]["image"] for n in range(8)]), np.array([examples[n]["id"] for n in range(8)])
    alpha = images[..., 3:] / 255
    opaque = np.round(images[..., :3] * alpha + 127.5 * (1 - alpha)).astype(np.uint8)  # on gray, as the plain view
    views = make_views(opaque, ids, parts.config.seed, 0, parts.config.augment, 2)
    network = parts.model.merge(of_two.state.params, of_two.state.statistics, training=False)
    expected = np.asarray(network.embed(views)[0]).reshape(8, 2, -1).mean(axis=1)
    np.testing.assert_allclose(found.features[:8], expected, rtol=2e-2, atol=2e-3)  # of pixels rounded to 8 bits
    assert np.abs(found.features[:8] - FeatureStore(plain.parts, plain.state)("test_styles").features[:8]).max() > 0.01


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_image_text_retrieval_and_zero_shot_by_hand(clip, prompts):
    options = bench.Options(prompts=tuple(evaluate.read_prompts(prompts)))
    evaluation = evaluate_checkpoint(clip, ["retrieval", "zero_shot", "geometry"], SPLITS, options)
    where = find_checkpoint(clip)
    loaded = load_model(*where, read_config(*where, SPLITS))
    test = FeatureStore(loaded.parts, loaded.state)("test_styles")
    texts = unit(test.caption_embedding @ np.asarray(loaded.state.params["text/out/kernel"]))
    distinct, first = np.unique(test.label, return_index=True)  # of emoji, a label is a caption
    cosine = test.embedding @ texts[first].T
    truth = np.searchsorted(distinct, test.label)
    rank = (cosine > cosine[np.arange(len(test)), truth][:, None] + 1e-6).sum(axis=1)
    metrics = evaluation.result.metrics
    for k in (1, 5, 10):
        assert metrics[f"retrieval/image_to_text/R@{k}"] == pytest.approx(np.mean(rank < k), abs=1.01 / len(test))
    best = np.argsort(-cosine, axis=0)[:10]
    back = np.mean([np.isin(best[:, j], np.flatnonzero(truth == j)).any() for j in range(len(distinct))])
    assert metrics["retrieval/text_to_image/R@10"] == pytest.approx(back, abs=1.01 / len(distinct))
    # The stand-in embeds a class name as its caption, so zero-shot is the same question.
    assert metrics["zero_shot/label"] == pytest.approx(np.mean(rank < 1), abs=2.01 / len(test))
    gap = np.linalg.norm(test.embedding.mean(axis=0) - texts.mean(axis=0))
    assert metrics["geometry/modality_gap"] == pytest.approx(gap, abs=1e-5)
    images, words = unit(test.embedding.mean(axis=0)), unit(texts.mean(axis=0))
    assert metrics["gap/centroid_cosine"] == pytest.approx(images @ words, abs=1e-5)
    assert metrics["gap/pair_alignment"] == pytest.approx(
        np.mean(2 - 2 * np.sum(test.embedding * texts, axis=1)), rel=1e-4
    )
    assert 0.5 <= metrics["gap/separability"] <= 1
