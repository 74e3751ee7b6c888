"""One process at a time in a folder of a run, or of a dataset that is being made."""

import contextlib
import fcntl
import json
import os
import pathlib
import socket
import threading
import time
from collections.abc import Iterator

import tensorstore

from xsample_jax.errors import CheckpointError, UserError
from xsample_jax.io.console import say
from xsample_jax.io.files import open_lock
from xsample_jax.io.paths import SCHEME

LOCK = ".lock"


@contextlib.contextmanager
def locked(folder: pathlib.Path, flag: str = "--workdir", error: type[UserError] = CheckpointError) -> Iterator[None]:
    """Holds the folder for the time of the block.

    The lock is flock's, which the kernel releases however the process ends: there are no stale locks. The
    text of the file (host and process) is for the message only.

    Raises `error`, which names `flag`, when the folder cannot be made, another process holds it, or the file system
    has no such lock.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        opened = open_lock(folder / LOCK)
    except OSError as refused:
        expected = f"a folder that can be made and written to ({refused.strerror})"
        raise error(flag, str(folder), expected, "Use another folder.") from refused
    with opened as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            expected = f"a folder that no other process is using ({holder} is)"
            raise error(flag, str(folder), expected, "Wait for it, stop it, or use another folder.") from None
        except OSError as refused:  # Lustre mounted with noflock, NFS without its lock daemon
            expected = f"a folder whose file system can lock files (flock: {refused.strerror})"
            raise error(flag, str(folder), expected, "Use another folder, or mount this one with flock.") from None
        holder = f"process {os.getpid()} on {socket.gethostname()}".encode()
        with contextlib.suppress(OSError):  # a full disk
            os.ftruncate(file.fileno(), 0)
            os.pwrite(file.fileno(), holder, 0)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                os.ftruncate(file.fileno(), 0)


# One run at a time in a folder of a bucket, where no kernel releases locks.
#
# The holder writes an object and renews it every few seconds. Every write has a condition, the generation of the
# object that it replaces, so of two writers one learns that it was too late. A process that finds the object watches
# it: if it is renewed, its run is alive; if it stays unchanged for a while, its run was killed, and the lock is taken
# over. No clocks are compared.


LEASE = ".lock"
RENEW, EXPIRY = 15.0, 60.0  # seconds between renewals, and without one until a run counts as killed


class Lease:
    """The right to write into a folder of a bucket, which is the value of `field`. Of `leased`."""

    def __init__(self, folder: pathlib.Path, field: str):
        bucket, _, name = os.fspath(folder).removeprefix(SCHEME).partition("/")
        self._folder, self._field = folder, field
        self._objects = tensorstore.KvStore.open({"driver": "gcs", "bucket": bucket, "path": f"{name}/"}).result()
        self._generation: bytes | None = None
        self._over = threading.Event()
        self._lost = ""
        self._thread = threading.Thread(target=self._renew_until_over, daemon=True, name="lease")

    def check(self) -> None:
        """Raises CheckpointError when another run has taken over, as this one was not heard of for too long."""
        if self._lost:
            fix = "This run was cut off from the bucket for too long. Leave the other one alone, or stop it."
            raise CheckpointError(self._field, os.fspath(self._folder), f"no other writer ({self._lost})", fix)

    def take(self) -> None:
        watched, since = None, time.monotonic()
        while True:
            found = self._objects.read(LEASE).result()
            generation = found.stamp.generation
            free = found.state == "missing" or _was_here(found.value)
            if watched not in (None, generation) and not free:
                raise CheckpointError(
                    self._field,
                    os.fspath(self._folder),
                    f"a folder that no other run uses ({_holder(found.value)} is)",
                    "Wait for it, stop it, or use another folder.",
                )
            if free or time.monotonic() - since > EXPIRY:
                if self._write(generation):
                    break
            elif watched is None:
                say(f"{self._folder}: held by {_holder(found.value)}; waiting up to {EXPIRY:g} s for it to be renewed")
            watched = generation if found.state == "value" else None
            time.sleep(min(1.0, RENEW / 2))
        self._thread.start()

    def release(self) -> None:
        self._over.set()
        self._thread.join()
        if not self._lost:
            self._objects.write(LEASE, None, if_equal=self._generation).result()

    def _write(self, expected: bytes) -> bool:
        """Writes the object if its generation is still the expected one; returns whether it was."""
        text = json.dumps({"host": socket.gethostname(), "process": os.getpid(), "time": time.time()})
        self._generation = self._objects.write(LEASE, text.encode(), if_equal=expected).result().generation or None
        return self._generation is not None

    def _renew_until_over(self) -> None:
        while not self._over.wait(RENEW):
            mine = self._generation
            try:
                if self._write(mine):
                    continue
                found = self._objects.read(LEASE).result()
                if found.state == "value" and _is_ours(found.value):
                    self._generation = found.stamp.generation  # our own write, whose answer was lost
                    continue
                self._lost = f"{_holder(found.value)} is"
                return
            except ValueError:  # the bucket cannot be reached; perhaps later
                self._generation = mine


@contextlib.contextmanager
def leased(folder: pathlib.Path, field: str = "--workdir") -> Iterator[Lease]:
    """Holds the folder for the time of the block.

    Raises CheckpointError when another run does.
    """
    try:
        lease = Lease(folder, field)
        lease.take()
    except CheckpointError:
        raise
    except ValueError as error:  # of tensorstore, whatever it is
        expected = f"a bucket that is there and that this account may write to ({str(error)[:300]})"
        raise CheckpointError(field, os.fspath(folder), expected, "gcloud auth application-default login?") from error
    try:
        yield lease
    finally:
        lease.release()


def _holder(value: bytes) -> str:
    with contextlib.suppress(ValueError, KeyError):
        found = json.loads(value)
        return f"process {found['process']} on {found['host']}"
    return "another process"


def _is_ours(value: bytes) -> bool:
    """Whether this process has written it; or one with its number before it, in a container that was started again."""
    return _holder(value) == f"process {os.getpid()} on {socket.gethostname()}"


def _was_here(value: bytes) -> bool:
    """Whether the holder was a process of this machine that has ended."""
    with contextlib.suppress(ValueError, KeyError):
        found = json.loads(value)
        if found["host"] != socket.gethostname():
            return False
        try:
            os.kill(found["process"], 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
    return _is_ours(value)
