"""Preemption (SIGTERM, SIGHUP, Ctrl-C, a maintenance notice): save, then exit with a code that asks for a retry.

One process hears its signals itself. With jax.distributed the SIGTERM of any process goes through jax's preemption
service, which picks one step for all of them; Ctrl-C is passed on as such a SIGTERM.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

import jax

from xsample_jax.errors import REQUEUE
from xsample_jax.io.console import say


class Preempted(Exception):
    """The run was asked to stop and has saved what it could. `main` ends with exit code 75."""


class Notice:
    """Whether the run was asked to stop.

    Args:
      grace: seconds from the notice until the process ends by itself, saved or not.
      leave: what ends the process; tests pass their own.
    """

    def __init__(self, grace: float, leave: Callable[[int], None] = os._exit):
        self.grace, self._leave = grace, leave
        self._given = threading.Event()
        self._timer: threading.Timer | None = None
        self._interruptible = False
        self._distributed = jax.distributed.is_initialized()

    def reached(self, step: int, synchronized: Callable[[int], bool]) -> bool:
        """Whether to save and leave before `step`: the same answer on all processes. Ask once at every step.

        synchronized(step): the answer of jax's preemption service (orbax' `reached_preemption`).
        """
        if not self._distributed:
            return self._given.is_set()
        reached = synchronized(step)
        if reached:
            self.give("preemption notice")
        return reached

    def give(self, reason: str) -> None:
        """Takes notice, and starts the time limit; given again, ends the process at once."""
        if self._given.is_set():
            if not self._distributed:
                say(f"{reason} again: stopping at once", error=True)
                self._leave(REQUEUE)
            return
        self._given.set()
        say(f"{reason}: saving and stopping within {self.grace:g} s", error=True)
        self._timer = threading.Timer(self.grace, self._expire)
        self._timer.daemon = True
        self._timer.start()

    @contextlib.contextmanager
    def interrupts(self) -> Iterator[None]:
        """Lets a notice end the block with Preempted: for long work that is simply done again, as an evaluation.

        With several processes it does not: they would stop at different places and wait for one another.
        """
        if self._given.is_set() and not self._distributed:
            raise Preempted
        self._interruptible = not self._distributed
        try:
            yield
        finally:
            self._interruptible = False

    def close(self) -> None:
        """Ends the time limit."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()

    def _expire(self) -> None:
        say(f"stopping unsaved: {self.grace:g} s are over. The last checkpoint counts.", error=True)
        self._leave(REQUEUE)

    def _on_signal(self, number: int, frame) -> None:
        """Runs in the main thread, as soon as that runs Python again."""
        if self._distributed:
            os.kill(os.getpid(), signal.SIGTERM)  # Ctrl-C: jax's preemption service listens for this one
            signal.signal(number, signal.SIG_DFL)  # and a second one ends the process
        elif self._interruptible:
            self._interruptible = False
            raise Preempted


@contextlib.contextmanager
def preemption_notice(grace: float) -> Iterator[Notice]:
    """Listens for SIGTERM, SIGHUP and Ctrl-C during the block; SIGUSR1 and SIGUSR2 do not end the process.

    SIGUSR1 asks for a profile while steps run (metrics/profiling.py). A SIGHUP that `nohup` ignores stays ignored.

    A thread takes the notice, since Python's own handlers wait for the main thread, which may be compiling for minutes.
    Outside the main thread, where signals cannot be handled, it does nothing.
    """
    notice = Notice(grace)
    if threading.current_thread() is not threading.main_thread():
        yield notice
        return
    signals = [signal.SIGINT] if notice._distributed else [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signals.append(signal.SIGHUP)
    read, write = os.pipe()
    os.set_blocking(write, False)

    def listen() -> None:
        while number := os.read(read, 1):
            if number[0] in signals and not notice._distributed:
                notice.give(signal.Signals(number[0]).name)

    listener = threading.Thread(target=listen, daemon=True, name="preemption")
    listener.start()
    handlers = {number: signal.signal(number, notice._on_signal) for number in signals}
    handlers |= {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGUSR1, signal.SIGUSR2)}
    wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    try:
        yield notice
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.close(write)  # ends the listener
        listener.join()
        os.close(read)
        notice.close()
