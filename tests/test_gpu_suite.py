"""The runner of the GPU benchmarks (benchmarks/gpu_suite.py): what it keeps of each, and that it ends in time."""

import pytest

from benchmarks import gpu_suite


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Writes benchmarks that are found before the real ones."""
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "good.py").write_text('print(\'a line\'); print(\'{"benchmark": "good", "value": 3}\')')
    (folder / "bad.py").write_text("raise RuntimeError('no card')")
    (folder / "slow.py").write_text("import time; print('before'); time.sleep(60)")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("programs")
def test_keeps_what_each_found_and_cuts_off_what_takes_too_long(capsys):
    good, bad, slow = (
        gpu_suite.run((name,), tiny=False, seconds=limit) for name, limit in (("good", 30), ("bad", 30), ("slow", 2))
    )
    assert (good["status"], good["value"]) == (0, 3)
    assert bad["status"] == 1
    assert bad["output"][-1] == "RuntimeError: no card"
    assert (slow["status"], slow["output"]) == ("cut off", ["before"])
    assert "a line" in capsys.readouterr().out
