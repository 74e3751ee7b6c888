"""A trainer that is stopped hears of it once, whoever is signalled: a second signal would end it unsaved."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.launch.cases import ROOT
from xsample_jax.errors import REQUEUE

# Stands for the trainer: writes down what it hears within a second of the first signal.
TRAINER = f"""#!{sys.executable}
import pathlib, signal, sys, time
heard = []
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, lambda number, _: heard.append(signal.Signals(number).name))
print("listening", flush=True)
while not heard:
    time.sleep(0.05)
limit = time.monotonic() + 1
while time.monotonic() < limit:
    time.sleep(0.05)
print("heard", *heard, flush=True)
sys.exit({REQUEUE})
"""


@pytest.fixture
def start(tmp_path):
    """(folder, launcher, word, ...) -> its process, leader of a group as in a terminal, when the trainer listens."""
    trainer = tmp_path / "trainer"
    trainer.write_text(TRAINER)
    trainer.chmod(0o755)
    made = []

    def start(folder, *words):
        folder.mkdir(exist_ok=True)
        command = ["bash", *words, "--config=c.py", f"--workdir={folder / 'run'}"]
        environment = os.environ | {"XSAMPLE_PYTHON": str(trainer), "XSAMPLE_STATE": str(folder / "run" / "launch")}
        with (folder / "said").open("w") as said:
            made.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=said, start_new_session=True))
        limit = time.monotonic() + 30
        while (folder / "said").read_text() != "listening\n":
            assert time.monotonic() < limit
            time.sleep(0.05)
        return made[-1]

    yield start
    for process in made:
        process.kill()
        process.wait()
    for pid in tmp_path.glob("**/run/launch/pid"):  # of a test that failed
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid.read_text()), signal.SIGKILL)


def heard(process, folder):
    """What the trainer heard. Its end was shown, told, written down and copied."""
    assert process.wait(30) == REQUEUE
    assert (folder / "run" / "launch" / "exit").read_text() == f"{REQUEUE}\n"
    (log,) = (folder / "run" / "logs").iterdir()
    said = (folder / "said").read_text()
    assert log.read_text() == f"{said}exit code {REQUEUE}\n"
    return said.removeprefix("listening\nheard ").split()


def test_ctrl_c_goes_to_all_in_the_terminal_and_reaches_the_trainer_once(start, tmp_path):
    process = start(tmp_path, "launch/gpu_host.sh", "run", "--")
    os.killpg(process.pid, signal.SIGINT)
    assert heard(process, tmp_path) == ["SIGTERM"]


def test_what_reaches_the_shell_alone_is_passed_on(start, tmp_path):
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # three at a time: each waits a second for another signal
    processes = {number: start(tmp_path / number.name, "launch/worker.sh", "run") for number in numbers}
    for number, process in processes.items():
        process.send_signal(number)
    for number, process in processes.items():
        assert heard(process, tmp_path / number.name) == ["SIGTERM"], number
