"""Notices: taken while the main thread is busy, limited in time, passed on to all processes, harmless elsewhere."""

import os
import signal
import threading
import time

import portpicker
import pytest

from tests.xla_flags import QUICK
from xsample_jax.errors import FINISHED, REQUEUE
from xsample_jax.faults.preemption import Notice, Preempted, preemption_notice
from xsample_jax.io.code_version import TRAINS
from xsample_jax.io.run_dir import read_history
from xsample_jax.metrics.jsonl import read_jsonl


def never(step):
    raise AssertionError("one process does not ask jax's service")


def wait_for(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_a_notice_and_the_handlers_come_back(number, capfd):
    before = signal.getsignal(number)
    with preemption_notice(grace=60) as notice:
        assert not notice.reached(0, never)
        os.kill(os.getpid(), number)
        assert wait_for(lambda: notice.reached(1, never))
        assert notice.reached(2, never)  # it stays
    assert signal.getsignal(number) == before
    assert signal.set_wakeup_fd(-1) == -1
    assert not [t for t in threading.enumerate() if t.name == "preemption" or isinstance(t, threading.Timer)]
    assert f"{signal.Signals(number).name}: saving and stopping within 60 s" in capfd.readouterr().err


def test_long_work_ends_with_the_signal():
    with preemption_notice(grace=60) as notice:
        start = time.monotonic()
        timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM))
        timer.start()
        with pytest.raises(Preempted), notice.interrupts():
            time.sleep(20)
        assert time.monotonic() - start < 10
        assert wait_for(lambda: notice.reached(1, never))
        with pytest.raises(Preempted), notice.interrupts():
            raise AssertionError("not begun after a notice")


def test_grace_and_a_second_notice_end_the_process(capfd):
    left = []
    notice = Notice(0.1, leave=left.append)
    notice.give("SIGTERM")
    assert wait_for(lambda: left == [REQUEUE])
    notice.give("SIGTERM")
    assert left == [REQUEUE, REQUEUE]
    assert "again: stopping at once" in capfd.readouterr().err
    closed = Notice(0.1, leave=left.append)
    closed.give("SIGTERM")
    closed.close()  # as a run does that has saved in time
    time.sleep(0.3)
    assert len(left) == 2


def test_in_another_thread_nobody_listens_and_nothing_breaks():
    found = []

    def run():
        with preemption_notice(grace=1) as notice:
            found.append(notice.reached(0, never))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [False]


@pytest.mark.slow
def test_with_jax_distributed_the_notice_goes_through_its_preemption_service(forks):
    for code, printed, said in forks.run("tests.faults.noticed", [["SIGTERM"], ["SIGINT"]], {}, seconds=120):
        assert code == 0, said
        assert "reached" in printed
        assert "preemption notice: saving and stopping within 20 s" in said


@pytest.mark.slow
def test_a_notice_to_one_of_two_processes_stops_both_at_the_same_step(forks, tmp_path):
    def life(*arguments):
        port = str(portpicker.pick_unused_port())
        lists = [[port, str(number), str(tmp_path), *arguments] for number in range(2)]
        ended = forks.run("tests.faults.two_processes", lists, {"XLA_FLAGS": QUICK}, seconds=240)
        return [code for code, *_ in ended], ["".join(texts) for _, *texts in ended]

    codes, texts = life("5")
    assert codes == [REQUEUE, REQUEUE], texts
    (checkpoint,) = (tmp_path / "checkpoints").iterdir()  # written by both together
    (event,) = [event for event in read_history(tmp_path) if event["event"] != TRAINS]
    assert event["step"] == int(checkpoint.name) < 60
    codes, texts = life()
    assert codes == [FINISHED, FINISHED], texts
    assert f"resumed at step {checkpoint.name} of 60" in texts[0]
    assert [line["step"] for line in read_jsonl(tmp_path / "metrics.jsonl")] == list(range(1, 61))
