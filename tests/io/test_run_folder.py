"""The copy of a run folder that is in a bucket."""

import resource
import time

import pytest

from xsample_jax.errors import CheckpointError
from xsample_jax.io import run_dir as run_folder
from xsample_jax.io.paths import as_path
from xsample_jax.io.run_dir import log_event, open_run_folder, read_history


def test_a_folder_on_a_disk_is_itself_and_locked(tmp_path):
    with open_run_folder(tmp_path / "run") as run:
        assert run.place == run.files == tmp_path / "run"
        assert run.push()
        with pytest.raises(CheckpointError, match="no other process"), open_run_folder(tmp_path / "run"):
            pytest.fail("two runs")


def test_files_come_and_go_with_the_run(bucket, store):
    place = as_path(f"{bucket}/run")
    (place / "metrics.jsonl").write_text("old\n")
    (place / "evaluation.json").write_text("{}")
    (place / "checkpoints" / "2" / "data").write_text("large")
    with open_run_folder(f"{bucket}/run") as run:
        assert sorted(path.name for path in run.files.iterdir()) == ["evaluation.json", "metrics.jsonl"]
        with (run.files / "metrics.jsonl").open("a") as file:
            file.write("new\n")
        (run.files / "evaluation.json").unlink()
        (run.files / "faults").mkdir()
        (run.files / "faults" / "step-1.json").write_text("dump")
        (run.files / "half.partial").write_text("half")
        assert run.push()
        assert (place / "metrics.jsonl").read_text() == "old\nnew\n"
        before = len(store.requests)
        assert run.push()
        uploads = [request for request in store.requests[before:] if request.startswith("POST")]
        assert not [upload for upload in uploads if ".lock" not in upload]  # nothing has changed
        (run.files / "report.html").write_text("at the end")
    assert not run.files.exists()
    assert store.names(bucket.removeprefix("gs://")) == [
        "run/checkpoints/2/data",
        "run/faults/step-1.json",
        "run/metrics.jsonl",
        "run/report.html",
    ]


def test_who_reads_along_sees_lines_while_the_run_runs(bucket, monkeypatch):
    monkeypatch.setattr(run_folder, "PUSH", 0.1)
    with open_run_folder(f"{bucket}/run") as run:
        (run.files / "metrics.jsonl").write_text("line\n")
        deadline = time.monotonic() + 10
        while not (run.place / "metrics.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert (run.place / "metrics.jsonl").read_text() == "line\n"


def test_what_could_not_be_written_is_written_later(bucket, store, capsys):
    with open_run_folder(f"{bucket}/run") as run:
        (run.files / "metrics.jsonl").write_text("line\n")
        store.failing[:] = [403]
        assert not run.push()
        assert "cannot be written" in capsys.readouterr().err
        assert run.push()
        assert (run.place / "metrics.jsonl").read_text() == "line\n"


def test_the_end_of_a_run_that_failed_is_kept_too(bucket):
    def diverges():
        with open_run_folder(f"{bucket}/run") as run:
            (run.files / "history.jsonl").write_text("the run stops\n")
            raise RuntimeError("diverged")

    with pytest.raises(RuntimeError, match="diverged"):
        diverges()
    assert as_path(f"{bucket}/run/history.jsonl").read_text() == "the run stops\n"
    assert not as_path(f"{bucket}/run/.lock").exists()


def test_other_processes_neither_lock_nor_write_what_they_have_read(bucket, store):
    (as_path(f"{bucket}/run") / "config.json").write_text("{}")
    with open_run_folder(f"{bucket}/run") as first, open_run_folder(f"{bucket}/run", first_process=False) as other:
        (first.files / "config.json").write_text("new")
        first.push()
        (other.files / "stalled-1.txt").write_text("stacks")
    assert (first.place / "config.json").read_text() == "new"
    assert (first.place / "stalled-1.txt").read_text() == "stacks"


def test_a_torn_line_of_the_history_hides_no_event(tmp_path, capsys):
    """faults B6: the next event was appended to the torn line, and both were lost."""
    log_event(tmp_path, "first")
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"time": "2026-11-30T16:18:12+00:00", "event": "tra')
    log_event(tmp_path, "second")
    size = (tmp_path / "history.jsonl").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, hard))  # ends a write within the file, as a full disk does
    try:
        log_event(tmp_path, "third")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "no line in" in capsys.readouterr().err
    assert (tmp_path / "history.jsonl").stat().st_size == size
    log_event(tmp_path, "fourth")
    assert [event["event"] for event in read_history(tmp_path)] == ["first", "second", "fourth"]
