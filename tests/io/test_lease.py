"""One writer at a time in a folder of a bucket."""

import json
import os
import subprocess
import sys
import time

import pytest

from xsample_jax.errors import CheckpointError
from xsample_jax.io import locks as lease
from xsample_jax.io.locks import leased
from xsample_jax.io.paths import as_path


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lease, "RENEW", 0.1)
    monkeypatch.setattr(lease, "EXPIRY", 0.6)


def as_written_by(host, process):
    return json.dumps({"host": host, "process": process, "time": 0.0})


def test_it_is_there_during_the_block_and_renewed(bucket):
    folder = as_path(f"{bucket}/run")
    with leased(folder) as held:
        first = (folder / ".lock").read_text()
        time.sleep(0.4)
        assert (folder / ".lock").read_text() != first
        held.check()
    assert not (folder / ".lock").exists()
    with leased(folder):
        pass


def test_a_holder_that_lives_is_named(bucket, monkeypatch):
    folder = as_path(f"{bucket}/run")
    with leased(folder):
        monkeypatch.setattr(lease, "_was_here", lambda value: False)  # as another process sees it
        start = time.monotonic()
        with (
            pytest.raises(CheckpointError, match=rf"no other run uses \(process {os.getpid()} on .* is\)"),
            leased(folder),
        ):
            pytest.fail("two writers")
        assert time.monotonic() - start < 0.5  # it was seen to be renewed


def test_a_process_of_this_machine_that_was_killed_is_replaced_at_once(bucket, monkeypatch):
    monkeypatch.setattr(lease, "EXPIRY", 60.0)
    folder = as_path(f"{bucket}/run")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (folder / ".lock").write_text(as_written_by(lease.socket.gethostname(), ended.pid))
    with leased(folder):
        assert json.loads((folder / ".lock").read_text())["process"] == os.getpid()


def test_one_of_another_machine_when_it_was_silent_for_long_enough(bucket):
    folder = as_path(f"{bucket}/run")
    (folder / ".lock").write_text(as_written_by("elsewhere", 1))
    start = time.monotonic()
    with leased(folder):
        assert time.monotonic() - start >= 0.6


def test_a_folder_that_was_taken_over_is_not_written_to_any_more(bucket):
    folder = as_path(f"{bucket}/run")
    with leased(folder) as held:
        (folder / ".lock").write_text(as_written_by("elsewhere", 7))
        time.sleep(0.5)
        with pytest.raises(CheckpointError, match="process 7 on elsewhere"):
            held.check()
    assert json.loads((folder / ".lock").read_text())["host"] == "elsewhere"  # it is not ours to remove


def test_a_bucket_that_may_not_be_written_to_is_an_error_that_says_so(bucket, store):
    store.failing[:] = [403]
    with pytest.raises(CheckpointError, match=r"--workdir = .*may write to .*403"), leased(as_path(f"{bucket}/run")):
        pytest.fail("no rights")


def test_a_renewal_that_fails_is_made_up_for(bucket, store):
    folder = as_path(f"{bucket}/run")
    with leased(folder) as held:
        store.failing[:] = [400] * 3
        time.sleep(0.6)
        assert not store.failing
        held.check()
    assert not (folder / ".lock").exists()
