"""The loop from the outside: it trains, writes its folder, refuses another config, stops when it diverges."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from tests.objectives.synthetic import LinearEncoder
from tests.tiny import tiny_config, tiny_parts
from xsample_jax import hooks, loop
from xsample_jax.config.check import find_problems
from xsample_jax.config.load import smoke
from xsample_jax.data.sources import open_emoji
from xsample_jax.errors import CheckpointError, ConfigError, DivergedError, Problems
from xsample_jax.evals.evaluate import read_config
from xsample_jax.loop import train
from xsample_jax.metrics.jsonl import read_jsonl
from xsample_jax.models import towers

# Eight classes, which the training and the validation split have in common.
GROUPS = {"data__label": "group", "eval__suite": "probe", "eval__train_split": "val_styles", "eval__split": "val"}


@pytest.mark.usefixtures("linear_encoder")
def test_a_run_with_evaluation_writes_its_folder(tmp_path):
    changes = GROUPS | {"eval__every": 2, "checkpoint__every": 2}
    config = tiny_config(steps=4, checkpoint__metric="label/probe", **changes)
    scores = train(config, tmp_path)
    assert 0 <= scores["label/probe"] <= 1
    assert json.loads((tmp_path / "evaluation.json").read_text()) == scores
    lines = read_jsonl(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    assert [line["step"] for line in lines if "eval/label/probe" in line] == [2, 4]
    assert (tmp_path / "report.html").stat().st_size > 50_000
    assert train(config, tmp_path) == scores
    # A checkpoint is ranked by the evaluation of its own step; the last one's comes after it.
    ranked = {step: json.loads((tmp_path / f"checkpoints/{step}/metrics/metrics").read_text()) for step in (2, 4)}
    assert ranked[2]["label/probe"] == next(line["eval/label/probe"] for line in lines if "eval/label/probe" in line)
    assert ranked[4] == {}
    with pytest.raises(CheckpointError, match="seed was 0, is now 1"):
        train(tiny_config(steps=4, checkpoint__metric="label/probe", seed=1, **changes), tmp_path)
    with pytest.raises(ConfigError, match=r"steps = 4.*more than the 4 that are done in"):
        train(tiny_config(steps=4, checkpoint__resume_from=str(tmp_path), **changes), tmp_path / "another")
    with pytest.raises(ConfigError, match=r"checkpoint.metric = 'label/prob'.*Did you mean label/probe"):
        train(tiny_config(steps=4, checkpoint__metric="label/prob", **changes), tmp_path / "misspelt")


@pytest.mark.usefixtures("linear_encoder")
def test_a_report_that_fails_does_not_decide_whether_the_run_is_finished(monkeypatch, tmp_path, capsys):
    """faults B2: each restart would draw it again, and fail again."""

    def fails(runs, path):
        raise ValueError("a name that no font has")

    config = tiny_config(steps=2)
    monkeypatch.setattr(loop, "write_report", fails)
    scores = train(config, tmp_path)
    shown = capsys.readouterr()
    assert "warning: no report (ValueError: a name that no font has)" in shown.err
    assert "tools.report" in shown.err
    assert "finished at step 2." in shown.out
    assert json.loads((tmp_path / "evaluation.json").read_text()) == scores
    assert train(config, tmp_path) == scores


def test_a_run_says_what_it_is_before_it_opens_anything(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(towers.ENCODERS, "resnet18", lambda config, rngs: LinearEncoder(rngs))
    monkeypatch.setattr(loop, "write_report", lambda runs, path: None)
    config, build, early = tiny_config(steps=1, name="tiny"), loop.build_run, []

    def build_run(config):
        early.append(capsys.readouterr().out)
        return build(config)

    monkeypatch.setattr(loop, "build_run", build_run)
    train(config, tmp_path)
    for fact in ("tiny: xclr, resnet18, on 8 x cpu", f"folder {tmp_path}", f"tensorboard --logdir={tmp_path}"):
        assert fact in early[0]
    shown = capsys.readouterr().out
    state = tiny_parts(config, jax.devices()).abstract_state.params
    count = sum(leaf.size for path, leaf in state.items() if path.startswith("encoder/"))
    records = len(open_emoji(config.data, "train"))
    for fact in (f"{count:,} parameters in the encoder", f"{records:,} records of split train, 1 steps of"):
        assert fact in shown
    assert shown.splitlines()[-1].endswith(f'use it: xsample_jax.load_encoder("{tmp_path}").encode(images)')
    train(config, tmp_path)  # finished: it says what came out again
    assert "use it: " in capsys.readouterr().out
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    loop._say_start(config, SimpleNamespace(place=tmp_path))
    assert capsys.readouterr().out == ""


def test_headline_metrics_come_last_with_their_titles(tmp_path, capsys):
    scores = {"other": 1.5, "label/probe": 0.25, "subgroup/knn": 0.5}
    loop._say_results(SimpleNamespace(name="a"), SimpleNamespace(place=tmp_path), scores)
    assert capsys.readouterr().out.splitlines()[0] == "a: Subgroup, kNN 50%; Label, probe 25%"


@pytest.mark.usefixtures("shallow_resnet18")
def test_a_diverging_run_stops_and_says_so(tmp_path):
    config = tiny_config(steps=6, optimizer__learning_rate=1e30, optimizer__schedule="constant", log__every=1)
    with pytest.raises(DivergedError, match=r"parameter_norm at step 1.*learning_rate"):
        train(config, tmp_path)
    lines = read_jsonl(tmp_path / "metrics.jsonl")
    assert not np.isfinite(lines[-1]["parameter_norm"])  # the line that says it is in the record
    assert len(lines) == 1


def test_a_run_stops_when_no_evaluation_is_better(monkeypatch, tmp_path):
    """The third and fourth evaluation are no better than the second: the run ends there, also when it is resumed."""
    monkeypatch.setitem(towers.ENCODERS, "resnet18", lambda config, rngs: LinearEncoder(rngs))
    values = {1: 0.1, 2: 0.3, 3: 0.25, 4: 0.2, 5: 0.9}
    asked = []

    def scripted(setup, state):
        asked.append(int(state.step))
        return SimpleNamespace(metrics={"label/probe": values[asked[-1]]}), None

    monkeypatch.setattr(hooks, "evaluate_state", scripted)
    monkeypatch.setattr(loop, "write_report", lambda runs, path: None)
    changes = GROUPS | {"eval__every": 1, "checkpoint__every": 1}
    config = tiny_config(steps=6, checkpoint__metric="label/probe", eval__patience=2, **changes)
    scores = train(config, tmp_path)
    assert asked == [1, 2, 3, 4]
    assert json.loads((tmp_path / "evaluation.json").read_text()) == scores
    assert max(line["step"] for line in read_jsonl(tmp_path / "metrics.jsonl")) == 4
    best = {int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()}
    assert {2, 4} <= best
    (tmp_path / "evaluation.json").unlink()  # as if it had been killed on the way
    assert train(config, tmp_path) == pytest.approx(scores)
    assert asked == [1, 2, 3, 4]
    # What ended the training is not asked of an evaluation of its checkpoints, nor of a smoke run.
    assert read_config(tmp_path, 4).eval.patience is None
    smoke(config)
    assert not find_problems(config)
    with pytest.raises(Problems, match=r"eval\.patience"):
        tiny_config(steps=6, eval__patience=2)


@pytest.mark.usefixtures("linear_encoder", "no_report")
@pytest.mark.parametrize("batches_of", ["label", None])
def test_a_step_that_compares_nothing_is_said_once(tmp_path, capsys, batches_of):
    """faults A3: a batch of one class gave a loss and a gradient of 0, and the run looked like a success."""
    one = {"data__label": "group", "data__batches_of": batches_of, "eval__suite": "none", "log__every": 1}
    config = tiny_config(steps=3, objective__preset="decoupled_softmax", **one)
    train(config, tmp_path)
    said = capsys.readouterr().err
    assert said.count("the gradient of step") == (batches_of is not None)
    assert ("step 1 is 0" in said) == (batches_of is not None)
