"""The loop from the outside: it trains, writes its folder, refuses another config, stops when it diverges."""

import json

import numpy as np
import pytest

from tests.tiny import tiny_config
from xsample_jax.errors import CheckpointError, DivergedError
from xsample_jax.loop import train
from xsample_jax.metrics.writers import read_jsonl


@pytest.mark.usefixtures("shallow_resnet18")
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
    with pytest.raises(DivergedError, match=r"parameter_norm at step 1.*learning_rate"):
        train(config, tmp_path)
    lines = read_jsonl(tmp_path / "metrics.jsonl")
    assert not np.isfinite(lines[-1]["parameter_norm"])  # the line that says it is in the record
    assert len(lines) == 1
