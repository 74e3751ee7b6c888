"""Tools read runs in buckets, and write there."""

import json

import jax
import numpy as np
import pytest

from tests.tools.synthetic_runs import write_run
from tests.tools.test_evaluate import SPLITS, save_run
from xsample_jax.encoder import load_encoder
from xsample_jax.errors import CheckpointError, DataError
from xsample_jax.io.checkpoint_files import find_checkpoint
from xsample_jax.io.paths import as_path, upload
from xsample_jax.reports import report
from xsample_jax.tools import evaluate
from xsample_jax.weights.files import read_weights


def test_evaluate_and_export_take_a_checkpoint_in_a_bucket(bucket, store, monkeypatch, capsys):
    from xsample_jax.models import resnet

    monkeypatch.setitem(resnet.LAYOUTS, 18, (resnet.BasicBlock, (1,)))
    run = f"{bucket}/runs/x"
    _, state = save_run(run, name="tiny")
    assert find_checkpoint(f"{run}/checkpoints/3") == (as_path(run), 3)
    with pytest.raises(CheckpointError, match="a run folder"):
        find_checkpoint(f"{bucket}/runs/none")
    encoder = load_encoder(run)
    assert encoder.step == 7
    for name, value in jax.device_get(state.params).items():
        if name.startswith("encoder/"):
            np.testing.assert_array_equal(encoder.arrays[name.removeprefix("encoder/")], value)

    assert evaluate.run([f"--checkpoint={run}", "--evals=geometry", *SPLITS]) == 0
    assert f"{run}/evaluations/7/evaluation.html" in capsys.readouterr().out
    found = json.loads((as_path(run) / "evaluations" / "7" / "evaluation.json").read_text())
    assert (found["run"], found["step"]) == (run, 7)
    assert found["metrics"]


def test_a_report_about_runs_in_a_bucket_goes_into_a_bucket(bucket, store, tmp_path):
    folder = write_run(tmp_path / "run", "run_xclr", "xclr", strength=0.7, seed=0)
    for path in folder.iterdir():
        upload(path, as_path(f"{bucket}/runs/xclr") / path.name)
    there = report.write_report([f"{bucket}/runs/xclr"], f"{bucket}/page/report.html")
    assert str(there) == f"{bucket}/page/report.html"
    assert "run_xclr" in there.read_text()
    figures = list(as_path(f"{bucket}/page/report_figures").iterdir())
    assert figures
    assert all(figure.read_bytes().startswith(b"\x89PNG") for figure in figures)
    with pytest.raises(DataError, match=r"config\.json"):
        report.write_report([f"{bucket}/runs/none"], tmp_path / "report.html")


def test_files_of_weights_are_to_be_copied_first(bucket):
    with pytest.raises(DataError, match=rf"gcloud storage cp {bucket}/resnet\.safetensors"):
        read_weights(f"{bucket}/resnet.safetensors")
