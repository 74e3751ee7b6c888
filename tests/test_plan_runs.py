"""Runs on batches by plan: stopped and resumed at the borders of tasks, ended by a rule, started from a whole run."""

import json

import numpy as np
import pytest

import xsample_jax
from tests.lives import differences
from tests.objectives.synthetic import LinearEncoder
from tests.test_resume import run_on
from tests.tiny import tiny_config
from xsample_jax.errors import ConfigError
from xsample_jax.io.checkpoint_files import find_checkpoint, read_arrays, saved_arrays
from xsample_jax.io.files import EVALUATION
from xsample_jax.io.run_dir import read_history
from xsample_jax.metrics.jsonl import read_jsonl
from xsample_jax.models import towers
from xsample_jax.objectives.learned_state import CLASSES, TASK, TEACHER


@pytest.fixture
def linear(monkeypatch):
    monkeypatch.setitem(towers.ENCODERS, "resnet18", lambda config, rngs: LinearEncoder(rngs))
    # For the report alone, which these runs do not have either.
    monkeypatch.setattr(xsample_jax.loop, "write_snapshot", lambda path, parts, state, store: None)
    return monkeypatch


def planned(**changes):
    options = {"data__label": "group", "views": 1, "eval__suite": "classifier", "checkpoint__every": 100}
    return tiny_config(**options | changes)


def state_of(folder, parts=("params", "memory")):
    where = find_checkpoint(folder)
    return read_arrays(*where, saved_arrays(*where, parts), None)


@pytest.mark.slow
def test_tasks_are_resumed_bit_for_bit_within_and_at_their_borders(linear, tmp_path):
    """Three tasks of three steps: stopped before the first step of a task, and in the middle of the next."""
    tasks = {"data__tasks__count": 3, "data__tasks__steps": 3, "data__tasks__keep": 2, "data__tasks__share": 0.25}
    config = planned(objective__preset="coconut", steps=9, eval__every=3, eval__split="val", **tasks)
    run_on(linear, 1, config, tmp_path / "whole")
    for stop_after in (3, 2):
        run_on(linear, 1, config, tmp_path / "stopped", stop_after)
    run_on(linear, 1, config, tmp_path / "stopped")
    assert [event["step"] for event in read_history(tmp_path / "stopped") if "stopped" in event["event"]] == [3, 5]
    assert differences(tmp_path / "whole", tmp_path / "stopped") == (0, [])

    scores = json.loads((tmp_path / "stopped" / EVALUATION).read_text())
    accuracies = [scores[f"classifier/task_{task}"] for task in (1, 2, 3)]
    assert scores["classifier/seen"] == pytest.approx(np.mean(accuracies))
    earlier = [line for line in read_jsonl(tmp_path / "stopped" / "metrics.jsonl") if "eval/classifier/task_1" in line]
    assert [len([name for name in line if "task_" in name]) for line in earlier] == [1, 2, 3]
    best = [max(line.get(f"eval/classifier/task_{task}", 0) for line in earlier) for task in (1, 2)]
    assert scores["classifier/forgetting"] == pytest.approx(np.mean(best) - np.mean(accuracies[:2]), abs=1e-6)


def test_the_teacher_is_the_student_of_before_the_task(linear, tmp_path):
    tasks = {"data__tasks__count": 2, "data__tasks__steps": 2, "data__tasks__keep": 2, "data__tasks__share": 0.25}
    config = planned(objective__preset="coconut", steps=4, eval__suite="none", checkpoint__every=2, **tasks)
    run_on(linear, 1, config, tmp_path)
    before = read_arrays(tmp_path, 2, saved_arrays(tmp_path, 2, ("params", "memory")), None)
    after = state_of(tmp_path)
    assert (int(before["memory"][TASK]), int(after["memory"][TASK])) == (0, 1)
    for name, value in after["memory"].items():
        if name.startswith(TEACHER):
            np.testing.assert_array_equal(value, before["params"][name.removeprefix(TEACHER)], err_msg=name)
    name = next(name for name in before["params"] if name.startswith("encoder/"))
    assert np.abs(before["params"][name] - before["memory"][TEACHER + name]).max() > 0  # it stood still in its task
    assert np.abs(after["params"][name] - before["params"][name]).max() > 0
    smaller = planned(objective__preset="coconut", steps=8, eval__suite="none", batch_size=8, **tasks)
    with pytest.raises(ConfigError, match="batch_size = 8: expected 16, of which the 4 steps"):
        xsample_jax.train(smaller, tmp_path, allow_config_change=True)


def test_unlearning_starts_as_the_whole_run_and_ends_by_its_rule(linear, tmp_path):
    original = planned(objective__preset="classifier", steps=3)
    run_on(linear, 1, original, tmp_path / "original")
    rule = {"metric": "classifier/forget_excess", "at_most": 1.0}  # holds at once
    config = planned(
        objective__preset="unlearning",
        steps=50,
        model__init_from=str(tmp_path / "original"),
        model__init_whole=True,
        data__forget__classes=(5,),
        eval__every=2,
        eval__stop=(rule,),
        checkpoint__every=2,
        optimizer__learning_rate=1e-9,
        optimizer__weight_decay=0.0,
    )
    run_on(linear, 1, config, tmp_path / "forgotten")
    (event,) = [event for event in read_history(tmp_path / "forgotten") if event["event"] == "stopped by a rule"]
    assert event["step"] == 2
    lines = read_jsonl(tmp_path / "forgotten" / "metrics.jsonl")
    assert lines[-1]["step"] == 2
    scores = json.loads((tmp_path / "forgotten" / EVALUATION).read_text())
    names = ("forget", "retain", "test", "test_forgotten", "forget_excess")
    assert set(scores) == {f"classifier/{name}" for name in names}
    assert scores["classifier/forget_excess"] == pytest.approx(scores["classifier/forget"] - 1 / 8)
    # It began as the original, learned classes included: the steps since are of a rate of 1e-9.
    one, other = (state_of(tmp_path / name, ("params",))["params"] for name in ("original", "forgotten"))
    assert CLASSES in other
    for name, value in one.items():
        np.testing.assert_allclose(other[name], value, atol=1e-6, err_msg=name)
    # Called again it is finished, and a run without these classes cannot be its start.
    assert run_on(linear, 1, config, tmp_path / "forgotten") == []
    wrong = planned(
        objective__preset="unlearning",
        data__label="subgroup",
        model__init_from=str(tmp_path / "original"),
        model__init_whole=True,
        data__forget__classes=(5,),
    )
    with pytest.raises(ConfigError, match=r"objective/classes of .* = \[8, 16\]: expected \[95, 16\]"):
        run_on(linear, 1, wrong, tmp_path / "other")
