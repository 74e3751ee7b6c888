"""A run folder, a checkpoint and a dataset of an earlier version are read, with warnings that give the new names."""

import json
import pathlib
import tarfile

import numpy as np
import pytest

import xsample_jax
from xsample_jax.checkpoint import Checkpoints
from xsample_jax.config import config_from_json, default_config
from xsample_jax.data.dataset import Dataset
from xsample_jax.data.records import open_records, read_manifest
from xsample_jax.evals.catalog import describe
from xsample_jax.evals.snapshot import load_snapshot
from xsample_jax.loop import train
from xsample_jax.metrics.jsonl import read_jsonl
from xsample_jax.reports.report import write_report
from xsample_jax.reports.runs import load_runs
from xsample_jax.sweeps.local import FINISHED, state_of

EARLIER = pathlib.Path(__file__).parent / "earlier"
FINGERPRINT = "4ec96691d4636a23774150f49a204b2bc9f57898899f60ae492bc1d83d91745c"


def unpack(name, folder):
    with tarfile.open(EARLIER / f"{name}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def run(tmp_path):
    unpack("run", tmp_path)
    return unpack("checkpoint", tmp_path) / "run"


def said(found):
    return [str(one.message) for one in found if one.category is FutureWarning]


def test_a_run_folder_is_read_under_the_present_names(run):
    lines = read_jsonl(run / "metrics.jsonl")
    with pytest.warns(FutureWarning) as found:
        (read,) = load_runs([run])
    config, metrics, arrays = sorted(said(found), key=lambda text: ("augment" not in text, "colour" not in text))
    assert "augment.grey is now augment.gray" in config
    assert "loss.tile is now loss.block_size" in config
    assert "background/random_colour/group/knn is now background/random_color/group/knn" in metrics
    assert "neighbour is now neighbor" in arrays
    assert read.config["augment.gray"] == 0.1
    assert read.config["loss.block_size"] == 512
    assert read.config["augment.background"] == "random_color"
    assert "augment.grey" not in read.config
    value = lines[-1]["eval/background/random_colour/group/knn"]
    assert read.metrics["background/random_color/group/knn"] == value
    assert read.examples["background/random_color/group/knn"].values.mean() == pytest.approx(value)
    assert not any("colour" in name for name in (*read.metrics, *read.examples))
    assert describe("background/random_color/group/knn").title == "Random color: group, kNN"
    assert read.snapshot["neighbor"].shape == read.snapshot["cosine"].shape == (12, 6)
    assert [line["loss"] for line in read.training] == [line["loss"] for line in lines if "loss" in line]


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_reports_show_it(run, tmp_path):
    before = np.load(run / "report_data.npz")["neighbour"]
    np.testing.assert_array_equal(load_snapshot(run / "report_data.npz")["neighbor"], before)
    page = write_report([run], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Random color: group, kNN" in page
    assert "neighbours" not in page.lower()
    assert (tmp_path / "report_figures" / "neighbors_0.png").stat().st_size > 1000
    state = state_of(run)
    assert state.status == FINISHED
    assert state.evaluation["background/random_color/group/knn"] > 0


def test_its_config_is_todays(run):
    with pytest.warns(FutureWarning, match=r"augment.grey is now augment.gray"):
        config = config_from_json((run / "config.json").read_text())
    assert config.augment.gray == 0.1
    assert config.optimizer.name == "lars"
    assert config.data.fit == default_config().data.fit  # a key that is younger than the run


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_its_checkpoint_gives_the_features_that_it_gave(run):
    images = np.random.default_rng(0).integers(0, 256, (3, 20, 24, 3), dtype=np.uint8)
    features = xsample_jax.load_encoder(run).encode(list(images))
    np.testing.assert_allclose(features, np.load(run / "features.npy"), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_its_checkpoint_resumes_and_takes_the_same_steps(run, monkeypatch):
    """Steps 4 to 6, run by today's code from yesterday's checkpoint, have the losses of yesterday's code."""
    monkeypatch.setattr("xsample_jax.loop.write_report", lambda runs, path: None)
    before = read_jsonl(run / "metrics.jsonl")
    (run / "evaluation.json").unlink()
    config = config_from_json((run / "config.json").read_text())
    config.eval.suite = "none"  # the evaluation is that of any other run, and takes a minute
    train(config, run, allow_config_change=True)
    after = read_jsonl(run / "metrics.jsonl")
    assert [line["step"] for line in after] == [1, 2, 3, 4, 5, 6]
    for old, new in zip(before, after, strict=False):
        for name in ("loss", "kl", "gradient_norm", "parameter_norm", "learning_rate", "target_entropy"):
            assert new[name] == pytest.approx(old[name], rel=1e-4), (new["step"], name)
    assert json.loads((run / "config.json").read_text())["augment"]["gray"] == 0.1


def test_a_best_checkpoint_is_ranked_by_the_metric_that_it_was_saved_with(run):
    """Ranks were saved by the old name; a metric that is not found would count as the worst."""
    options = default_config().checkpoint
    options.metric = "background/random_color/group/knn"
    checkpoints = Checkpoints(run, options)
    rank = checkpoints._manager._options.best_fn
    assert rank({"background/random_colour/group/knn": 0.25}) == 0.25
    assert rank({"group/knn": 0.5}) == float("-inf")
    checkpoints.close()


def test_a_finished_run_returns_its_metrics_by_the_present_names(run):
    with pytest.warns(FutureWarning, match=r"augment.grey is now augment.gray"):
        config = config_from_json((run / "config.json").read_text())
    with pytest.warns(FutureWarning, match=r"random_colour/group/knn is now background/random_color/group/knn"):
        scores = train(config, run)
    assert scores["background/random_color/group/knn"] > 0
    assert not any("colour" in name for name in scores)


def test_a_record_set_is_read(tmp_path):
    folder = unpack("records", tmp_path) / "records"
    manifest = read_manifest(folder)
    assert manifest.fingerprint == FINGERPRINT == manifest.with_fingerprint().fingerprint
    assert (manifest.class_names, manifest.attributes) == (("a", "b", "c"), {"style": ["x", "y"]})
    source = open_records(folder, "train")
    assert len(source) == 12
    for number in range(12):
        record = source[number]
        rng = np.random.default_rng(number)
        pixels = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        embeddings = rng.normal(size=(2, 4)).astype(np.float16)
        assert record["id"] == number
        assert record["label"] == (0 if number == 7 else number % 3)
        assert record["captions"] == [f"caption {number}", "über 🐏"]
        np.testing.assert_array_equal(record["caption_embeddings"], embeddings)
        example = Dataset(source, 12, "first")[number]
        np.testing.assert_array_equal(example["image"], pixels)
