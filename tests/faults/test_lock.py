"""One run in a folder: another process is refused, and what a killed one leaves behind is no lock."""

import errno
import fcntl
import resource
import signal
import subprocess
import sys

import pytest

from xsample_jax.errors import CheckpointError, DataError
from xsample_jax.io.locks import locked

HOLD = """
import pathlib, sys, time
from xsample_jax.io.locks import locked
with locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_run_is_refused_and_a_killed_one_holds_nothing(tmp_path):
    folder = tmp_path / "run"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with (
        pytest.raises(CheckpointError, match=rf"no other process.*process {holder.pid} on .*another folder"),
        locked(folder),
    ):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    with locked(folder):
        with pytest.raises(CheckpointError, match="no other process"), locked(folder):
            pass
        with locked(tmp_path / "other"):
            pass
    with locked(folder):
        pass


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK])
def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch, code):
    def flock(*_):
        raise OSError(code, "what the system says")

    monkeypatch.setattr(fcntl, "flock", flock)
    expected = rf"--out = '{tmp_path}': .*what the system says.*another folder, or mount .* with flock"
    with pytest.raises(DataError, match=expected), locked(tmp_path, "--out", DataError):
        pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(CheckpointError, match=r"--workdir.*a folder that can be made"), locked(folder):
            pass


def test_a_full_disk_does_not_end_a_run_that_says_who_it_is(tmp_path):
    """faults B3: the text of the lock could not be written, and every start ended with a traceback.

    RLIMIT_FSIZE ends a write within the file, as a full disk does.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    (tmp_path / ".lock").write_text("process 1 on another, killed")
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with locked(tmp_path), pytest.raises(CheckpointError, match="no other process"), locked(tmp_path):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / ".lock").read_text() == ""
