"""The folder of a run that writes: on a disk it is that folder, in a bucket it is a copy on this machine.

Files of a run are appended to, cut, locked and renamed, which objects cannot be. So a run in a bucket gets them in a
temporary folder, and what has changed there is copied to the bucket: before every checkpoint, every PUSH seconds, and
at the end. Checkpoints do not pass through it: orbax writes them into the bucket itself, from all processes.
"""

import contextlib
import datetime
import json
import os
import pathlib
import tempfile
import threading
from collections.abc import Iterator

from xsample_jax.errors import SaveError
from xsample_jax.io.console import say
from xsample_jax.io.files import append_whole
from xsample_jax.io.locks import Lease, leased, locked
from xsample_jax.io.paths import absolute, check_run_path, download, file_sizes, in_bucket, upload

PUSH = 30.0  # seconds


class RunFolder:
    """Attributes:
    place: the run folder as it was named; its checkpoints are read and written there.
    files: the folder for all other files: `place` itself, or the copy of a bucket's.
    """

    def __init__(self, place: pathlib.Path, files: pathlib.Path | None = None, lease: Lease | None = None):
        self.place, self.files = place, place if files is None else files
        self._lease = lease
        self._known: dict[str, tuple[int, int]] = {}  # what the bucket has of the copy: name -> (time, bytes)
        self._pushing = threading.Lock()

    def pull(self) -> None:
        """Fetches the files (not what is in folders: a run only adds to those)."""
        for name in file_sizes(self.place):
            if not name.startswith("."):
                download(self.place / name, self.files / name)
        self._known = self._marks()

    def push(self) -> bool:
        """Copies what has changed to where it belongs; returns whether all of it is there. On a disk it is.

        Raises CheckpointError when another run has taken the folder over.
        """
        if self.files is self.place:
            return True
        with self._pushing:
            if self._lease is not None:
                self._lease.check()
            try:
                marks = self._marks()
                # In the order in which they were written: what is last may say that all is there.
                for name in sorted(marks, key=marks.get):
                    if marks[name] != self._known.get(name):
                        upload(self.files / name, self.place / name)
                        self._known[name] = marks[name]
                for name in self._known.keys() - marks.keys():
                    (self.place / name).unlink(missing_ok=True)
                    del self._known[name]
            except Exception as error:  # of every family: the network, rights, the service
                say(f"warning: {self.place} cannot be written: {str(error)[:400]}", error=True)
                return False
        return True

    def _marks(self) -> dict[str, tuple[int, int]]:
        marks = {}
        for path in self.files.rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # a temporary one
                if path.is_file() and not path.name.endswith(".partial"):
                    about = path.stat()
                    marks[path.relative_to(self.files).as_posix()] = (about.st_mtime_ns, about.st_size)
        return marks


@contextlib.contextmanager
def open_run_folder(workdir: str | os.PathLike, first_process: bool = True) -> Iterator[RunFolder]:
    """The folder of a run for the time of the block, in which the first process holds it alone.

    Raises CheckpointError when another run holds it; ConfigError for a path that cannot be one.
    """
    place = absolute(workdir, "--workdir")
    check_run_path(place)
    if not in_bucket(place):
        with locked(place) if first_process else contextlib.nullcontext():
            yield RunFolder(place)
        return
    with (
        leased(place) if first_process else contextlib.nullcontext() as lease,
        tempfile.TemporaryDirectory(prefix="xsample_jax-run-", ignore_cleanup_errors=True) as files,
    ):
        run = RunFolder(place, pathlib.Path(files), lease)
        run.pull()
        with _pushed_in_background(run):
            try:
                yield run
            finally:
                whole = run.push()
        if not whole and first_process:
            raise SaveError("--workdir", str(place), "a bucket that takes the last files of the run", "See above.")


@contextlib.contextmanager
def _pushed_in_background(run: RunFolder) -> Iterator[None]:
    over = threading.Event()

    def push() -> None:
        while not over.wait(PUSH):
            with contextlib.suppress(Exception):  # that the folder was taken over is found when it is next needed
                run.push()

    thread = threading.Thread(target=push, daemon=True, name="push")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


# history.jsonl of a run folder: one line for every stop, fault and change of a run, with date and time.


HISTORY = "history.jsonl"


def log_event(folder: pathlib.Path, event: str, **facts) -> None:
    """Appends a line {"time", "event", ...}, from the first process; one that cannot be written is only logged.

    It begins on a line of its own, also behind one that a kill has torn.
    """
    import jax  # takes seconds, which tools that only read run folders need not wait for

    if jax.process_index() != 0:
        return
    time = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    line = json.dumps({"time": time, "event": event} | facts, default=str) + "\n"
    try:
        with (folder / HISTORY).open("a+b", buffering=0) as file:
            torn = file.seek(0, os.SEEK_END) and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n"
            append_whole(file, (b"\n" if torn else b"") + line.encode())
    except OSError as error:
        say(f"warning: no line in {folder / HISTORY} ({error}): {line.strip()}", error=True)


def read_history(folder: pathlib.Path) -> list[dict]:
    """Returns the events in order, without lines that are damaged; none where the file cannot be read."""
    try:
        lines = (folder / HISTORY).read_bytes().decode("utf-8", "replace").splitlines()
    except OSError:
        return []
    events = []
    for line in lines:
        with contextlib.suppress(json.JSONDecodeError, RecursionError):
            events.append(json.loads(line))
    return [event for event in events if isinstance(event, dict) and "event" in event]


CONTINUES = "continues another run"


def first_step(folder: pathlib.Path) -> int:
    """The step that the run in `folder` began at: that of the run it continues (checkpoint.resume_from), else 0."""
    steps = [event.get("step") for event in read_history(folder) if event["event"] == CONTINUES]
    return steps[-1] if steps and isinstance(steps[-1], int) else 0
