"""Running a grid here: at most so many at once, finished ones skipped, stopped ones gone on with, killed ones again."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.csv
import pyarrow.parquet
import pytest

from xsample_jax.sweeps import local
from xsample_jax.sweeps import local as memory
from xsample_jax.sweeps.grid import grid
from xsample_jax.sweeps.launch import write_results
from xsample_jax.sweeps.local import ABSENT, FINISHED, STARTED, last_step, run_points, state_of

ROOT = Path(__file__).parent.parent.parent
TRAINER = Path(__file__).parent / "trainer.py"


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """plan({name: what the run does}) with a stand-in for the trainer."""
    monkeypatch.setattr(local, "POLL", 0.02)
    monkeypatch.setattr(local, "trainer_command", lambda *args: [str(TRAINER), *local.trainer_arguments(*args)])
    monkeypatch.setenv("PLAN", str(tmp_path / "plan.json"))

    def write(what):
        (tmp_path / "plan.json").write_text(json.dumps(what))

    write({})
    return write


def points(count):
    return grid("x.py", {"seed": range(count)})


def spans(out, count):
    found = []
    for number in range(count):
        lines = (out / f"seed={number}" / "starts").read_text().split("\n")[:-1]
        found.append((float(lines[-2].split()[0]), float(lines[-1].split()[0])))
    return found


def most_at_once(found):
    return max(sum(start <= moment < end for start, end in found) for moment, _ in found)


def test_as_many_at_once_as_asked_and_each_once(tmp_path, plan):
    plan({f"seed={n}": {"seconds": 0.5} for n in range(4)})
    out = tmp_path / "out"
    assert run_points(points(4), "s", out, local.Workers(2)) == {}
    assert most_at_once(spans(out, 4)) == 2
    said = []
    assert run_points(points(4), "s", out, local.Workers(2), say=said.append) == {}
    assert said == ["s: 4 runs, 4 of them finished, 2 at once"]


def test_a_failure_does_not_stop_the_others_and_is_tried_again_next_time(tmp_path, plan):
    plan({"seed=0": {"code": 1}})
    out = tmp_path / "out"
    assert run_points(points(3), "s", out) == {"seed=0": 1}
    assert [state_of(out / f"seed={n}").status for n in range(3)] == [STARTED, FINISHED, FINISHED]
    plan({})
    assert run_points(points(3), "s", out) == {}
    assert [len((out / f"seed={n}" / "starts").read_text().split("\n")) for n in range(3)] == [4, 3, 3]


def test_killed_for_memory_runs_again_beside_fewer(tmp_path, plan):
    plan({"seed=0": {"seconds": 0.6}, "seed=1": {"code": -9, "once": True}})
    said = []
    assert run_points(points(3), "s", tmp_path / "out", local.Workers(2), say=said.append) == {}
    assert any("killed   seed=1" in line and "1 at once from here" in line for line in said)
    assert all(state_of(tmp_path / "out" / f"seed={n}").status == FINISHED for n in range(3))


def test_preempted_runs_go_on(tmp_path, plan):
    plan({"seed=0": {"code": 75, "once": True}})
    assert run_points(points(2), "s", tmp_path / "out") == {}


def test_no_second_run_where_memory_is_short(tmp_path, plan, monkeypatch):
    plan({f"seed={n}": {"seconds": 0.3} for n in range(3)})
    monkeypatch.setattr(memory, "available", lambda: 1)
    out = tmp_path / "out"
    assert run_points(points(3), "s", out, local.Workers(3)) == {}
    assert most_at_once(spans(out, 3)) == 1


def test_no_second_run_before_the_first_has_shown_what_it_takes(tmp_path, plan):
    plan({f"seed={n}": {"seconds": 0.5, "silent": n == 0} for n in range(2)})
    out = tmp_path / "out"
    assert run_points(points(2), "s", out, local.Workers(2)) == {}
    (first, end), (second, _) = spans(out, 2)
    assert first + 0.5 <= second < end


def test_the_last_step_of_a_log_that_is_being_written(tmp_path):
    assert last_step(tmp_path) == 0
    log = tmp_path / "metrics.jsonl"
    log.write_text("".join(json.dumps({"step": n, "text": "x" * 1000}) + "\n" for n in range(200)) + '{"step": 2')
    assert last_step(tmp_path) == 199
    log.write_text('{"step"')
    assert last_step(tmp_path) == 0


def test_memory_is_read_off_the_system():
    assert memory.peak(os.getpid()) >= memory.held(os.getpid()) > 2**20
    assert memory.available() > 2**20
    assert memory.peak(2**22 + 1) is None
    assert not memory.fits(memory.available() * 2)
    assert memory.fits(None)


def test_each_run_has_a_gpu_for_itself(tmp_path, plan):
    plan({f"seed={n}": {"seconds": 0.3} for n in range(4)})
    out = tmp_path / "out"
    assert run_points(points(4), "s", out, local.Workers(8, ["2", "5"])) == {}
    of_run = [(out / f"seed={n}" / "starts").read_text().split()[1] for n in range(4)]
    assert set(of_run) == {"2", "5"}
    found = spans(out, 4)
    for gpu in ("2", "5"):
        assert most_at_once([span for span, own in zip(found, of_run) if own == gpu]) == 1


def test_stopping_tells_the_runs_and_the_same_command_goes_on(tmp_path, plan):
    plan({f"seed={n}": {"seconds": 30} for n in range(2)})
    code = f"""
import pathlib
from xsample_jax.sweeps import local
from xsample_jax.sweeps.grid import grid
local.POLL = 0.02
local.trainer_command = lambda *args: [{str(TRAINER)!r}, *local.trainer_arguments(*args)]
try:
    local.run_points(grid("x.py", {{"seed": range(3)}}), "s", {str(tmp_path / "out")!r}, local.Workers(2))
except local.Stopped:
    raise SystemExit(75)
"""
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)})
    out = tmp_path / "out"
    deadline = time.monotonic() + 60
    while not all((out / f"seed={n}" / "metrics.jsonl").exists() for n in range(2)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 75
    assert all((out / f"seed={n}" / "saved").exists() for n in range(2))
    assert [state_of(out / f"seed={n}").status for n in range(3)] == [STARTED, STARTED, ABSENT]
    plan({})
    assert run_points(points(3), "s", out, local.Workers(2)) == {}


def test_a_result_that_cannot_be_read_for_now_is_no_result_and_ends_nothing(tmp_path, plan, monkeypatch, capsys):
    """faults B6: one evaluation.json behind a mount that went away ended the whole sweep."""
    plan({})
    run_points(points(1), "s", tmp_path / "out", local.Workers(1))
    read = Path.read_text

    def gone(self, *arguments, **options):
        if self.name == "evaluation.json":
            raise OSError(errno.EIO, "Input/output error")
        return read(self, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", gone)
    assert state_of(tmp_path / "out" / "seed=0").status == STARTED
    assert "evaluation.json" in capsys.readouterr().err


def test_table_of_what_there_is(tmp_path, plan):
    plan({"seed=2": {"code": 1}})
    out, runs = tmp_path / "out", points(3)
    run_points(runs, "s", out)
    runs += grid({"simclr": "y.py"}, {"data.samples_per_class": (3, None)})
    table = write_results(runs, out)
    assert pyarrow.parquet.read_table(out / "results.parquet").equals(table)
    assert pyarrow.csv.read_csv(out / "results.csv").column_names == table.column_names
    rows = table.to_pylist()
    assert [row["status"] for row in rows] == [FINISHED, FINISHED, STARTED, ABSENT, ABSENT]
    assert [row["eval/label/knn"] for row in rows] == [0.25, 1.25, None, None, None]
    assert [row["train/loss"] for row in rows] == [2.5, 2.5, 2.5, None, None]
    assert [row["seed"] for row in rows] == [0, 1, 2, None, None]
    assert [row["data.samples_per_class"] for row in rows] == [None, None, None, 3, None]
    assert rows[3]["run"] == "simclr,samples_per_class=3"
    assert [row["config"] for row in rows] == ["x.py"] * 3 + ["y.py"] * 2


@pytest.mark.parametrize("text", ["{", "[]", "null", '{"label/knn": null}', ""])
def test_a_run_whose_evaluation_is_damaged_is_not_finished(tmp_path, plan, capsys, text):
    """faults B6: a traceback ended every command of the sweep, also for the other runs."""
    out = tmp_path / "out"
    folder = out / "seed=0"
    folder.mkdir(parents=True)
    (folder / "evaluation.json").write_text(text)
    (folder / "metrics.jsonl").write_bytes(b'{"step": 3, "loss": 1.0}\nno\xff line\n[]\n')
    state = state_of(folder)
    assert (state.status, state.step, dict(state.evaluation)) == (STARTED, 0, {})
    error = capsys.readouterr().err
    assert error.count("evaluation.json is damaged") == error.count("metrics.jsonl") == 1
    assert last_step(folder) == 3
    assert write_results(points(1), out).num_rows == 1
    (folder / "metrics.jsonl").unlink()
    (folder / "metrics.jsonl").mkdir()
    assert last_step(folder) == 0
