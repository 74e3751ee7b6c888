"""A finished run is finished for the data that it has learned from: images, sets of a mixture, files of data.side."""

import json
import shutil

import numpy as np
import pytest

import xsample_jax.loop
from tests.data.test_mixture import write
from tests.tiny import tiny_config
from xsample_jax.data.side import write_side
from xsample_jax.data.sources import open_source
from xsample_jax.errors import CheckpointError, Problems
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
