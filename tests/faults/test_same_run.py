"""A finished run is finished for the data that it has learned from: images, sets of a mixture, files of data.side."""

import json
import re
import shutil

import numpy as np
import pytest

import xsample_jax.loop
from tests.data.test_mixture import write
from tests.tiny import tiny_config
from xsample_jax.data.side import write_side
from xsample_jax.data.sources import open_source
from xsample_jax.errors import CheckpointError, Problems
from xsample_jax.faults.non_finite import RollBack
from xsample_jax.hooks import LogMetrics
from xsample_jax.io.run_dir import read_history
from xsample_jax.loop import train
from xsample_jax.metrics.jsonl import read_jsonl
from xsample_jax.sweeps.grid import grid
from xsample_jax.sweeps.kept import fingerprint_of
from xsample_jax.sweeps.launch import check_points

pytestmark = pytest.mark.usefixtures("linear_encoder")
NAMES = ["cat", "dog"]


@pytest.fixture
def no_report(monkeypatch):
    monkeypatch.setattr(xsample_jax.loop, "write_report", lambda runs, path: path.write_text(""))


@pytest.fixture
def config(tmp_path, no_report):
    """Of a run that trains on two sets and reads a side file."""
    for name in "ab":
        write(tmp_path / name, 24, NAMES, 10)
    mix = ({"path": str(tmp_path / "b"), "share": 0.5},)
    config = tiny_config(data__source="records", data__path=str(tmp_path / "a"), data__mix=mix)
    config.update(batch_size=8, steps=2)
    config.objective.preset = "simclr"
    config.eval.update(suite="none", online_probe=False, baselines=())
    return config


def replace(folder, value):
    shutil.rmtree(folder)
    write(folder, 24, NAMES, value)


@pytest.mark.parametrize("name", ["a", "b"])
def test_a_finished_run_is_not_finished_for_other_images(config, tmp_path, capsys, name):
    """faults D6: with another dataset in its place, the first or one of data.mix, it still said "finished"."""
    run = tmp_path / "run"
    train(config, run)
    assert train(config, run) == {}
    assert "finished. Its report" in capsys.readouterr().out
    replace(tmp_path / name, 200)
    with pytest.raises(CheckpointError, match=r"images of the checkpoint.*--allow_config_change"):
        train(config, run)
    assert "finished. Its report" not in capsys.readouterr().out
    train(config, run, allow_config_change=True)
    assert "other images" in [event["event"] for event in read_history(run)]
    shutil.rmtree(tmp_path / name)  # where the data is no more, nothing can be said against a finished run
    train(config, run)
    assert "finished. Its report" in capsys.readouterr().out


def test_a_finished_run_is_not_finished_for_another_side_file(config, tmp_path):
    """faults D6: the file of data.side was replaced, and the run still said "finished"."""
    config.data.mix = ()
    side, source = tmp_path / "weight.npz", open_source(config.data, "train")
    config.data.side = ({"name": "weight", "file": str(side)},)
    write_side(side, np.ones(24), source)
    before = fingerprint_of(config)
    train(config, tmp_path / "run")
    train(config, tmp_path / "run")
    write_side(side, np.arange(1.0, 25.0), source)
    assert fingerprint_of(config) != before
    with pytest.raises(CheckpointError, match=r"data\.side.*weight"):
        train(config, tmp_path / "run")


def test_a_fingerprint_is_of_all_sets_of_a_mixture(config, tmp_path):
    """faults D6: a result stayed valid when the second set of data.mix was replaced."""
    found = [fingerprint_of(config)]
    replace(tmp_path / "b", 99)
    found.append(fingerprint_of(config))
    config.data.mix = ({"path": str(tmp_path / "b"), "share": 0.25},)
    found.append(fingerprint_of(config))
    config.data.path, config.data.mix = str(tmp_path / "b"), ({"path": str(tmp_path / "a"), "share": 0.25},)
    found.append(fingerprint_of(config))
    assert len(set(found)) == len(found)
    config.data.mix = ()
    assert fingerprint_of(config) == open_source(config.data, "train").manifest.fingerprint


def test_a_sweep_says_that_its_finished_runs_are_of_other_data(config, tmp_path):
    """faults D6: a sweep counted them as finished."""
    (tmp_path / "mine.py").write_text(
        f"from xsample_jax.config import load_config\n\n\nDATA = {str(tmp_path / 'a')!r}\n" + FILE
    )
    points = grid(str(tmp_path / "mine.py"), {"seed": (0, 1)})
    for point in points:
        train(check_points(points, "mine", str(tmp_path / "out"))[point.name], tmp_path / "out" / point.name)
    check_points(points, "mine", str(tmp_path / "out"))
    replace(tmp_path / "a", 200)
    with pytest.raises(Problems, match=r"\[seed=0\] data of .*today"):
        check_points(points, "mine", str(tmp_path / "out"))


FILE = """

def get_config(arg=""):
    config = load_config("configs/quickstart.py:smoke")
    config.unlock()
    config.data.update(source="records", path=DATA)
    config.update(batch_size=8, steps=2)
    config.objective.preset = "simclr"
    config.eval.update(suite="none", online_probe=False, baselines=())
    return config
"""


EVALUATED = {
    "steps": 4, "log__every": 1, "checkpoint__every": 2, "data__label": "group", "eval__suite": "probe",
    "eval__train_split": "val_styles",
}  # fmt: skip


def test_another_evaluation_replaces_that_of_its_step(no_report, tmp_path):
    """faults B6: evaluated again on another split, evaluation.json was new; metrics.jsonl and the report were old."""
    folder = tmp_path / "run"
    first = train(tiny_config(**EVALUATED, eval__split="val"), folder)
    steps = [line["step"] for line in read_jsonl(folder / "metrics.jsonl")]
    second = train(tiny_config(**EVALUATED, eval__split="test"), folder, allow_config_change=True)
    assert first["label/knn"] != second["label/knn"]
    lines = read_jsonl(folder / "metrics.jsonl")
    assert [line["step"] for line in lines] == steps
    logged = {name.removeprefix("eval/"): value for name, value in lines[-1].items() if name.startswith("eval/")}
    assert logged == second
    (folder / "evaluation.json").unlink()  # to evaluate it again: nothing is written twice
    assert train(tiny_config(**EVALUATED, eval__split="test"), folder) == second
    assert read_jsonl(folder / "metrics.jsonl") == lines


def test_a_run_that_goes_on_does_not_show_the_evaluation_of_an_earlier_step(no_report, tmp_path):
    """faults B6: continued without an evaluation, a run kept the examples, facts and images of the one before."""
    folder = tmp_path / "run"
    train(tiny_config(**EVALUATED, eval__split="val"), folder)
    of_it = ("evaluation.npz", "evaluation_facts.json", "report_data.npz")
    assert all((folder / name).exists() for name in of_it)
    train(tiny_config(**EVALUATED | {"steps": 6, "eval__suite": "none"}), folder, allow_config_change=True)
    assert json.loads((folder / "evaluation.json").read_text()) == {}
    assert not [name for name in of_it if (folder / name).exists()]


class Killed(Exception):
    pass


def killed_at(step, config, folder, *allow):
    """Trains until the line of `step` is written, and dies."""

    def die(at, values):
        if at >= step and "loss" in values:
            raise Killed

    with pytest.raises(Killed):
        train(config, folder, *allow, on_log=die)


def epochs(**changes):
    """A tenth of an epoch of the emoji set in batches of 16, or of what `changes` say."""
    options = {"steps": None, "epochs": 0.04, "batch_size": 16, "eval__suite": "none", "eval__online_probe": False}
    return tiny_config(**options | {"log__every": 1, "checkpoint__every": 4} | changes)


def test_a_change_outlives_a_kill_before_the_next_checkpoint(no_report, tmp_path, capsys):
    """faults A10: another batch_size was forgotten where the run died before it had saved; it ended early."""
    folder, changed = tmp_path / "run", epochs(batch_size=32)
    killed_at(9, epochs(), folder)
    killed_at(10, changed, folder, True)
    first = capsys.readouterr().out
    resumed = re.findall(r"resumed at step (\d+) of (\d+)", first)
    assert resumed[0][0] == "8"
    assert f"{resumed[0][1]} steps of 32 images" in first  # that it printed before it knew was another number
    train(changed, folder)
    assert re.findall(r"resumed at step (\d+) of (\d+)", capsys.readouterr().out) == resumed
    assert read_jsonl(folder / "metrics.jsonl")[-1]["step"] == int(resumed[0][1])


def test_a_change_outlives_a_roll_back_before_the_next_checkpoint(no_report, tmp_path, capsys, monkeypatch):
    """faults A10: a roll-back counted the steps as if batch_size had always been what it is."""
    folder, after, rolled = tmp_path / "run", LogMetrics.after_step, []
    killed_at(9, epochs(), folder)

    def roll_back_once(log, *arguments):
        after(log, *arguments)
        if not rolled:
            rolled.append(True)
            progress = log._training.progress
            raise RollBack(progress.step, progress.data_position)

    monkeypatch.setattr(LogMetrics, "after_step", roll_back_once)
    train(epochs(batch_size=32, faults__non_finite="rollback"), folder, True)
    resumed = re.findall(r"resumed at step (\d+) of (\d+)", capsys.readouterr().out)
    assert len(resumed) == 2
    assert resumed[0] == resumed[1]


def test_allowed_images_outlive_a_kill_before_the_next_checkpoint(config, tmp_path):
    """faults A10: they were refused at the next start, although the config that came with them was not."""
    folder = tmp_path / "run"
    config.update(steps=6)
    config.log.every, config.checkpoint.every = 1, 2
    killed_at(3, config, folder)
    replace(tmp_path / "a", 200)
    killed_at(3, config, folder, True)
    train(config, folder)
    assert [event["event"] for event in read_history(folder)].count("other images") == 1


def stopping(**changes):
    options = {"steps": 8, "checkpoint__every": 50, "log__every": 1, "eval__every": 2, "eval__suite": "probe"}
    return tiny_config(**options | {"eval__train_split": "val", "eval__split": "val_styles"} | changes)


def test_a_rule_that_is_taken_away_stays_away(no_report, tmp_path):
    """faults A10: killed before its next checkpoint, the run was over at the step of the rule; likewise a new run."""
    folder, rule = tmp_path / "run", {"metric": "geometry/alignment", "at_most": 10.0}
    train(stopping(eval__stop=(rule,)), folder)
    assert read_jsonl(folder / "metrics.jsonl")[-1]["step"] == 2
    free = stopping()
    train(stopping(checkpoint__resume_from=str(folder)), tmp_path / "other")
    killed_at(3, free, folder, True)
    train(free, folder)
    for name in ("run", "other"):
        assert read_jsonl(tmp_path / name / "metrics.jsonl")[-1]["step"] == 8


def test_another_rhythm_of_lines_loses_none(no_report, tmp_path, capsys):
    """faults B6: with another log.every a resumed run said that lines were lost which had never been due."""
    folder, changes = tmp_path / "run", {"steps": 14, "checkpoint__every": 6, "eval__suite": "none"}
    killed_at(10, tiny_config(**changes, log__every=10), folder)
    train(tiny_config(**changes, log__every=2), folder, True)
    assert "lacks the steps" not in capsys.readouterr().err
    assert [line["step"] for line in read_jsonl(folder / "metrics.jsonl")] == [8, 10, 12, 14]
    assert "metrics were lost" not in [event["event"] for event in read_history(folder)]
