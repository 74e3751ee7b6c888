"""Batches with a time limit: the same batches, errors passed on, and an end to waiting, with all stacks."""

import threading
import time

import numpy as np
import pytest

from xsample_jax.errors import DataError, StalledError
from xsample_jax.faults.watchdog import STACKS, TimedBatches


class Batches:
    def __init__(self, values):
        self._values, self.closed = iter(values), False

    def __next__(self):
        value = next(self._values)
        if callable(value):
            value = value()
        return {"id": np.array([value])}

    def close(self):
        self.closed = True


def test_batches_and_errors_pass_in_order(tmp_path):
    def broken():
        raise DataError("record", 3, "a readable one")

    inner = Batches([0, 1, 2, broken])
    batches = TimedBatches(inner, 10, tmp_path)
    assert [int(next(batches)["id"][0]) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DataError, match="readable"):
        next(batches)
    batches.close()
    assert inner.closed


def test_closing_ends_the_thread_that_is_ahead(tmp_path):
    inner = Batches(iter(range(10**9)))
    batches = TimedBatches(inner, 10, tmp_path)
    next(batches)
    batches.close()
    assert inner.closed
    assert not [thread for thread in threading.enumerate() if thread.name == "batches"]


def test_a_hung_worker_is_shown_where_it_hangs(tmp_path, capfd):
    release = threading.Event()

    def the_place_that_hangs():
        release.wait()
        return 1

    batches = TimedBatches(Batches([0, the_place_that_hangs]), 0.3, tmp_path)
    next(batches)
    start = time.monotonic()
    with pytest.raises(StalledError, match=r"no batch for 0\.3 s.*data_timeout"):
        next(batches)
    batches.close()  # returns although the worker still hangs
    assert time.monotonic() - start < 5
    assert "the_place_that_hangs" in (tmp_path / STACKS).read_text()
    assert "the_place_that_hangs" in capfd.readouterr().err
    release.set()


@pytest.mark.slow
def test_the_process_ends_although_a_thread_hangs(forks, tmp_path):
    ((code, _, said),) = forks.run("tests.faults.hanging_run", [[str(tmp_path)]], {}, seconds=120)
    assert code == 1, said
    assert "error: data = 'no batch'" in said
    assert "Traceback" not in said
