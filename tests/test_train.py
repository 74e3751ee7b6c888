"""The loop from the outside: it trains, resumes bit-exactly after a kill, refuses another config, says when done."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests.tiny import tiny_config
from xsample_jax.errors import CheckpointError, DivergedError
from xsample_jax.metrics.writers import read_jsonl
from xsample_jax.train import train

ROOT = pathlib.Path(__file__).parent.parent


def command(folder, *overrides):
    return [
        sys.executable, "-m", "xsample_jax.main", "--config=configs/quickstart.py:smoke", f"--workdir={folder}",
        "--config.steps=8", "--config.checkpoint.every=2", *overrides,
    ]  # fmt: skip


def environment():
    # One device: the test is about time, and eight virtual ones would only be slower.
    return os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}


def final_parameters(folder):
    step = max(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdigit())
    with ocp.StandardCheckpointer() as reader:
        saved = reader.restore(folder / "checkpoints" / str(step) / "state")
    return step, saved


@pytest.mark.slow
def test_killed_and_resumed_run_is_bit_identical(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = subprocess.run(command(whole), cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    process = subprocess.Popen(command(killed), cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while not any((killed / "checkpoints").glob("[1-9]*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    again = subprocess.run(command(killed), cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    assert "resumed at step" in again.stdout or "finished" in again.stdout

    (step, expected), (other_step, got) = final_parameters(whole), final_parameters(killed)
    assert step == other_step == 8
    for name, value in expected["params"].items():
        np.testing.assert_array_equal(value, got["params"][name], err_msg=name)
    for name, value in expected["statistics"].items():
        np.testing.assert_array_equal(value, got["statistics"][name], err_msg=name)
    losses = {line["step"]: line["loss"] for line in read_jsonl(whole / "metrics.jsonl")}
    resumed = [(line["step"], line["loss"]) for line in read_jsonl(killed / "metrics.jsonl")]
    assert resumed == sorted(losses.items())

    third = subprocess.run(command(whole), cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=300)
    assert third.returncode == 0
    assert "finished" in third.stdout
    changed = subprocess.run(
        command(whole, "--config.optimizer.learning_rate=0.5"), cwd=ROOT, env=environment(), capture_output=True,
        text=True, timeout=300,
    )  # fmt: skip
    assert changed.returncode == 2
    assert "optimizer.learning_rate was 0.005, is now 0.5" in changed.stderr
    assert "Traceback" not in changed.stderr


def test_a_run_with_evaluation_writes_its_folder(tmp_path):
    config = tiny_config(steps=4, eval__suite="emoji", eval__split="val", eval__every=2, checkpoint__every=2)
    scores = train(config, tmp_path)
    assert 0 <= scores["group/probe"] <= 1
    assert json.loads((tmp_path / "evaluation.json").read_text()) == scores
    lines = read_jsonl(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    assert [line["step"] for line in lines if "eval/group/probe" in line] == [2, 4]
    assert (tmp_path / "report.html").stat().st_size > 50_000
    assert train(config, tmp_path) == scores
    with pytest.raises(CheckpointError, match="seed was 0, is now 1"):
        train(tiny_config(steps=4, eval__suite="emoji", eval__split="val", eval__every=2, checkpoint__every=2, seed=1),
              tmp_path)  # fmt: skip


@pytest.mark.usefixtures("shallow_resnet18")
def test_a_diverging_run_stops_and_says_so(tmp_path):
    config = tiny_config(steps=6, optimizer__learning_rate=1e30, optimizer__schedule="constant", log__every=1)
    with pytest.raises(DivergedError, match=r"update_norm at step 1.*learning_rate"):
        train(config, tmp_path)
    lines = read_jsonl(tmp_path / "metrics.jsonl")
    assert not np.isfinite(lines[-1]["update_norm"])  # the line that says it is in the record
    assert len(lines) == 1
