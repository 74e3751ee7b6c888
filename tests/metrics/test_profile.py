"""Traces of a window of steps and of the steps after a signal; the handler is given back."""

import os
import signal

import jax
import jax.numpy as jnp
import pytest

from xsample_jax.metrics.profiling import STEPS_ON_SIGNAL, Profiler


def traces(folder):
    return sorted(folder.rglob("*.xplane.pb"))


def run(profiler, steps, signal_before=None):
    """Numbers of the steps after which a new trace file lay in the folder."""
    square, x, found, seen = jax.jit(lambda x: x @ x), jnp.ones((8, 8)), [], 0
    for number in steps:
        if number == signal_before:
            os.kill(os.getpid(), signal.SIGUSR1)
        with profiler.step(number):
            x = square(x)
        profiler.end_of_step(x)
        if len(traces(profiler._folder)) > seen:
            seen += 1
            found.append(number)
    return found


def test_a_window_by_step_numbers(tmp_path):
    profiler = Profiler(tmp_path / "profile", (3, 2))
    assert run(profiler, range(1, 8)) == [4]
    profiler.close()
    (trace,) = traces(tmp_path / "profile")
    assert b"jit_" in trace.read_bytes()
    resumed = Profiler(tmp_path / "again", (3, 4))
    assert run(resumed, range(5, 9)) == [6]  # a run that was resumed inside the window
    resumed.close()


def test_the_signal_traces_the_next_steps_and_the_handler_is_given_back(tmp_path):
    before = signal.getsignal(signal.SIGUSR1)
    profiler = Profiler(tmp_path)
    assert run(profiler, range(1, 12), signal_before=4) == [3 + STEPS_ON_SIGNAL]
    assert signal.getsignal(signal.SIGUSR1) != before
    profiler.close()
    assert signal.getsignal(signal.SIGUSR1) == before


def test_a_run_that_ends_inside_the_window_still_writes_it(tmp_path):
    profiler = Profiler(tmp_path, (2, 100))
    assert run(profiler, range(1, 4)) == []
    profiler.close()
    assert len(traces(tmp_path)) == 1


@pytest.mark.parametrize("window", [(), (5, 2)])
def test_nothing_is_written_without_a_window(tmp_path, window):
    profiler = Profiler(tmp_path / "profile", window)
    assert run(profiler, range(1, 4)) == []
    profiler.close()
    assert not (tmp_path / "profile").exists()
