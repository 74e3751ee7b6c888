"""One process at a time in a folder: of a run, of a set that is made."""

import contextlib
import fcntl
import os
import pathlib
import socket
from collections.abc import Iterator

from xsample_jax.errors import CheckpointError, UserError

LOCK = ".lock"


@contextlib.contextmanager
def locked(folder: pathlib.Path, flag: str = "--workdir", error: type[UserError] = CheckpointError) -> Iterator[None]:
    """Holds the folder for the time of the block.

    The lock is flock's, which the kernel lets go when the process ends in whatever way: there are no stale locks. The
    text of the file (host and process) is for the message only.

    Raises `error`, which names `flag`, when the folder cannot be made, another process holds it, or the file system
    has no such lock.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        opened = (folder / LOCK).open("a+")
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
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)
