import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import pytest

from tests.launch.cases import ROOT

PROGRAMS = ("gcloud", "kubectl", "xpk", "sbatch", "scontrol", "squeue", "srun", "sudo", "uv", "git", "gcsfuse",
            "mountpoint", "hostname")  # fmt: skip


class Cloud:
    """A cloud that is a folder (fake_cloud.py), and the launchers run against it."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        (folder / "bin").mkdir(parents=True)
        fake = pathlib.Path(__file__).parent / "fake_cloud.py"
        for program in PROGRAMS:
            path = folder / "bin" / program
            path.write_text(f'#!/bin/sh\nexec {sys.executable} -S {fake} {program} "$@"\n')
            path.chmod(0o755)
        shutil.copytree(ROOT / "launch", folder / "repository" / "launch")
        (folder / "calls.log").touch()

    def plan(self, **plan) -> None:
        (self.folder / "plan.json").write_text(json.dumps(plan))

    def launch(self, script: str, *words: str, trainer: str, timeout: float = 300, **variables: str):
        """Runs launch/SCRIPT; `trainer` is the module that stands for xsample_jax.main on the workers."""
        environment = os.environ | {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "FAKE_CLOUD": str(self.folder),
            "FAKE_TRAINER": trainer,
            **variables,
        }
        command = ["bash", str(self.folder / "repository" / "launch" / script), *words]
        return subprocess.run(command, env=environment, cwd=self.folder / "repository", capture_output=True, text=True,
                              timeout=timeout)  # fmt: skip

    def calls(self, words: str) -> int:
        """How many commands began with these words."""
        return sum(line.startswith(words) for line in (self.folder / "calls.log").read_text().splitlines())

    def bucket(self, path: str) -> pathlib.Path:
        return self.folder / "buckets" / path

    def logs(self) -> list[pathlib.Path]:
        return sorted(self.bucket("lab/run/logs").iterdir())


@pytest.fixture
def make_cloud():
    made = []

    def make(folder: pathlib.Path) -> Cloud:
        made.append(Cloud(folder))
        return made[-1]

    yield make
    for cloud in made:
        for path in cloud.folder.glob("workers/*/state/pid"):  # a test that failed leaves no trainer behind
            line = pathlib.Path(f"/proc/{path.read_text().strip()}/cmdline")
            if line.exists() and str(cloud.folder) in line.read_text():
                os.killpg(os.getpgid(int(path.read_text())), signal.SIGKILL)


@pytest.fixture
def cloud(make_cloud, tmp_path):
    return make_cloud(tmp_path / "cloud")
