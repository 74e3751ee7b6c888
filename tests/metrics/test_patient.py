"""Lines that cannot be written wait, and nothing is written by halves."""

import resource

import pytest

from xsample_jax.metrics.jsonl import JsonlWriter
from xsample_jax.metrics.writers import FanOut, RetryingWriter, TensorBoardWriter


class Failing:
    def __init__(self):
        self.broken, self.lines = False, []

    def write(self, step, values):
        if self.broken:
            raise OSError(28, "No space left on device")
        self.lines.append(step)

    def close(self):
        pass


def test_lines_wait_in_order_and_it_is_said_once(capsys):
    inner = Failing()
    writer = RetryingWriter(inner)
    writer.write(1, {})
    inner.broken = True
    writer.write(2, {})
    writer.write(3, {})
    assert not writer.flush()
    assert capsys.readouterr().err.count("No space left") == 1
    inner.broken = False
    writer.write(4, {})
    assert writer.flush()
    assert inner.lines == [1, 2, 3, 4]


@pytest.mark.parametrize("make", [lambda folder: JsonlWriter(folder / "metrics.jsonl"), TensorBoardWriter])
def test_a_file_has_whole_records_after_the_disk_was_full(tmp_path, make, capsys):
    def records(count):
        writers = FanOut((make(tmp_path / str(count)),))
        for step in range(1, count + 1):
            writers.write(step, {"loss": 1 / step})
        (path,) = (tmp_path / str(count)).iterdir()
        return writers, path

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    expected = records(3)[1].stat().st_size
    writers, path = records(1)
    size = path.stat().st_size
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5, hard))  # five bytes of the next record fit
        writers.write(2, {"loss": 1 / 2})
        assert not writers.flush()
        assert path.stat().st_size == size
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    writers.write(3, {"loss": 1 / 3})
    assert writers.flush()
    assert path.stat().st_size == expected
    assert "wait in memory" in capsys.readouterr().err
