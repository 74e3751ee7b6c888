"""metrics.jsonl without gaps or duplicates over kills and resumes; the progress line; the clocks."""

import io
import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from xsample_jax.errors import DataError
from xsample_jax.metrics.jsonl import JsonlWriter, read_jsonl
from xsample_jax.metrics.profiling import Timers
from xsample_jax.metrics.progress_bar import ProgressLine, clock
from xsample_jax.metrics.writers import open_writers


def write(path, steps, resume_step=0, **values):
    writer = JsonlWriter(path, resume_step)
    for step in steps:
        writer.write(step, {"loss": step / 10} | values)
    return writer


def test_resume_cuts_later_lines_and_goes_on(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, [10, 20, 30, 40])  # killed without close()
    write(path, [], resume_step=20).close()
    assert [line["step"] for line in read_jsonl(path)] == [10, 20]
    write(path, [30, 40, 50], resume_step=20, again=1).close()
    lines = read_jsonl(path)
    assert [line["step"] for line in lines] == [10, 20, 30, 40, 50]
    assert "again" not in lines[1]
    assert lines[2]["again"] == 1
    write(path, [10], resume_step=0).close()  # no checkpoint was ever written: start anew
    assert [line["step"] for line in read_jsonl(path)] == [10]


def test_a_torn_last_line_is_dropped_and_a_damaged_file_is_not_hidden(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, [10, 20]).close()
    with path.open("a") as file:
        file.write('{"step": 30, "lo')
    assert [line["step"] for line in read_jsonl(path)] == [10, 20]
    write(path, [30], resume_step=30).close()
    assert [line["step"] for line in read_jsonl(path)] == [10, 20, 30]
    path.write_text('{"step": 1}\nrubbish\n{"step": 2}\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl"):
        read_jsonl(path)


def test_a_line_is_on_disk_when_write_returns_and_is_plain_json(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = JsonlWriter(path)
    writer.write(np.int64(1), {"loss": jnp.float32(0.5), "kl": np.float64(2), "bad": float("nan"), "n": np.int32(3)})
    line = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert line == {"step": 1, "loss": 0.5, "kl": 2.0, "bad": None, "n": 3}
    assert math.isnan(read_jsonl(path)[0]["bad"])
    writer.close()


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_rewrites_on_a_terminal_and_lists_elsewhere():
    values = {"loss": 1.25, "kl": 0.5, "images_per_second": 1234.4}
    terminal, pipe = Terminal(), io.StringIO()
    for stream in (terminal, pipe):
        line = ProgressLine(200, lambda step: 3.0 * (200 - step), stream)
        line.write(10, values)
        line.write(20, values)
        line.write(20, {"eval/group/knn": 0.25})
        line.close()
    assert pipe.getvalue().splitlines()[0] == "step  10/200  loss 1.2500  KL 0.5000  1,234 images/s  ETA 9:30"
    assert len(pipe.getvalue().splitlines()) == 3
    assert terminal.getvalue().count("\r") == 2
    assert terminal.getvalue().count("\n") == 2  # the evaluation stands on a line of its own
    assert "group/knn 0.250" in terminal.getvalue()
    assert clock(3725.4) == "1:02:05"


def test_fan_out_writes_the_files_and_the_line(tmp_path):
    stream = io.StringIO()
    writers = open_writers(tmp_path / "run", ProgressLine(5, stream=stream))
    writers.write(1, {"loss": 1.0})
    writers.close()
    assert read_jsonl(tmp_path / "run" / "metrics.jsonl") == [{"step": 1, "loss": 1.0}]
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 1
    assert stream.getvalue() == "step 1/5  loss 1.0000\n"


class Time:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_clocks_leave_compilation_and_evaluation_aside():
    time = Time()
    clocks = Timers(64, chips=4, now=time)

    def spend(name, seconds):
        with clocks.measure(name):
            time.now += seconds

    assert clocks.seconds_left(10) is None
    spend("compile", 50)
    clocks.step()
    assert clocks.read() == {"compile_seconds": 50}
    for _ in range(4):
        spend("data_wait", 0.5)
        time.now += 1.5
        clocks.step()
    spend("evaluation", 30)
    spend("checkpoint", 7)
    assert clocks.read() == {
        "images_per_second": 32.0,
        "images_per_second_per_chip": 8.0,
        "seconds_per_step": 2.0,
        "data_wait_share": 0.25,
        "evaluation_seconds": 30,
        "checkpoint_seconds": 7,
    }
    assert clocks.seconds_left(100) == 200.0
    time.now += 6
    clocks.step()  # a slow step: the window shows it alone, the estimate averages
    assert clocks.read()["seconds_per_step"] == 6.0
    assert clocks.seconds_left(10) == pytest.approx(10 * 14 / 5)
