"""A finished run is finished for the data that it has learned from: images, sets of a mixture, files of data.side."""

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
from xsample_jax.sweeps.grid import grid
from xsample_jax.sweeps.kept import fingerprint_of
from xsample_jax.sweeps.launch import check_points

pytestmark = pytest.mark.usefixtures("linear_encoder")
NAMES = ["cat", "dog"]


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Of a run that trains on two sets and reads a side file."""
    monkeypatch.setattr(xsample_jax.loop, "write_report", lambda runs, path: path.write_text(""))
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
