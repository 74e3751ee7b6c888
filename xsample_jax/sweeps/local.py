"""Runs the points of a grid on this machine, several at once; finished ones are skipped, stopped ones resume."""

import contextlib
import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from xsample_jax.errors import REQUEUE, ConfigError, UserError
from xsample_jax.evals.catalog import read_scores
from xsample_jax.io.console import say
from xsample_jax.io.files import EVALUATION, JSONL
from xsample_jax.io.paths import as_path, in_bucket
from xsample_jax.metrics.jsonl import read_jsonl
from xsample_jax.sweeps.grid import Point

# Whether one more process fits into the memory of the host, by what the others took (Linux; elsewhere unknown).


MARGIN = 1.15  # over the measured memory: runs of one grid differ a little


def available() -> int | None:
    """Bytes that can be taken without swapping."""
    return _kilobytes(Path("/proc/meminfo"), "MemAvailable")


def peak(pid: int) -> int | None:
    """The most bytes that a process has held at once; None when it is gone."""
    return _kilobytes(Path(f"/proc/{pid}/status"), "VmHWM")


def held(pid: int) -> int | None:
    """Bytes that a process holds now."""
    return _kilobytes(Path(f"/proc/{pid}/status"), "VmRSS")


def fits(needed: int | None, growing: int = 0) -> bool:
    """Whether `needed` bytes are there, besides those that running processes may still ask for."""
    there = available()
    return needed is None or there is None or there > MARGIN * needed + growing


def _kilobytes(file: Path, name: str) -> int | None:
    try:
        match = re.search(rf"^{name}:\s+(\d+) kB", file.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(match[1]) * 1024 if match else None


# How far the run of a point is, read off its folder.


FINISHED, STARTED, ABSENT = "finished", "started", "absent"
TAIL = 65_536  # bytes, more than any line has


@dataclasses.dataclass(frozen=True)
class State:
    """status: finished, started or absent. step: the last that was logged. training, evaluation: newest values."""

    status: str
    step: int
    training: Mapping[str, float]
    evaluation: Mapping[str, float]


def state_of(folder: str | Path) -> State:
    """The state of the run in `folder`; one whose evaluation is damaged, or cannot be read for now, is not finished."""
    folder = as_path(folder)
    log = folder / JSONL
    lines = _or_said(lambda: read_jsonl(log) if log.exists() else []) or []
    evaluation = _or_said(lambda: read_scores(folder / EVALUATION))
    training = next((line for line in reversed(lines) if "loss" in line), {})
    status = FINISHED if evaluation is not None else STARTED if folder.exists() else ABSENT
    step = max((line["step"] for line in lines), default=0)
    return State(status, step, training, evaluation or {})


def _or_said(read: Callable):
    """What it reads; None, and a warning, where it cannot: a run that goes on mends the file, or says why not."""
    try:
        return read()
    except UserError as error:
        say(f"warning: {error}", error=True)
        return None


def last_step(folder: str | Path) -> int:
    """The last step that was logged, 0 without any; reads the end of the log only, so it may be asked often."""
    log = Path(folder) / JSONL
    if not log.is_file():
        return 0
    with log.open("rb") as file:
        file.seek(max(log.stat().st_size - TAIL, 0))
        lines = file.read().split(b"\n")[:-1]  # what comes after the last newline is not whole
    for line in reversed(lines):
        with contextlib.suppress(ValueError, TypeError, KeyError):  # a damaged one: the run itself mends it
            return int(json.loads(line)["step"])
    return 0


def log_file(out: Path, name: str) -> Path:
    """Where the output of a point's run goes."""
    return out / "logs" / f"{name}.txt"


POLL = 0.5  # seconds between two looks at the processes
KILLED = -signal.SIGKILL  # what the kernel does when memory runs out


class Keeps(Protocol):
    """Where results stay (kept.py): whether that of a point is there, and what makes it of a finished run."""

    def done(self, point: Point) -> bool: ...

    def command(self, point: Point) -> list[str]: ...


class Stopped(Exception):
    """The sweep was asked to stop; its runs have saved."""


@dataclasses.dataclass
class Job:
    """A running point. `resumed`: the last step logged before it started; `peak`: bytes it has held at most so far.

    trains: whether it is the training; else it makes the result of a finished one.
    """

    point: Point
    process: subprocess.Popen
    gpu: str | None
    resumed: int
    trains: bool = True
    peak: int = 0


class _Pool:
    """The runs of a sweep that are going, those that wait, and how those that are over have ended."""

    def __init__(self, points: Sequence[Point], is_done: Callable[[Point], bool], jobs: int, say: Callable):
        self.waiting = [point for point in points if not is_done(point)]
        self.done, self.total = len(points) - len(self.waiting), len(points)
        self.is_done, self.jobs, self.say = is_done, jobs, say
        self.running: list[Job] = []
        self.failed: dict[str, int] = {}
        self.most = 0  # bytes that a run took

    def collect(self, out: pathlib.Path) -> list[Job]:
        """Looks at every run once; those that are over are counted, or wait for another turn. Returns them."""
        over = []
        for job in list(self.running):
            job.peak = peak(job.process.pid) or job.peak
            self.most = max(self.most, job.peak)
            code = job.process.poll()
            if code is not None:
                self.running.remove(job)
                over.append(job)
                self._end(job, code, out)
        return over

    def _end(self, job: Job, code: int, out: pathlib.Path) -> None:
        point = job.point
        if code == KILLED and self.running:
            self.jobs = len(self.running)
            self.waiting.insert(0, point)
            self.say(f"killed   {point.name}, for memory it seems: {self.jobs} at once from here, and it runs again")
        elif code == REQUEUE:
            self.waiting.append(point)
            self.say(f"stopped  {point.name} from outside: it runs again later")
        elif code:
            self.failed[point.name] = code
            self.say(f"FAILED   {point.name} with exit code {code}: {log_file(out, point.name)}")
        elif job.trains and not self.is_done(point):
            self.waiting.insert(0, point)
            self.say(f"trained  {point.name}")
        else:
            self.done += 1
            self.say(f"finished {point.name} ({self.done} of {self.total})")

    def stop(self, sweep: str) -> None:
        """Tells all runs to save and end, and waits for them."""
        for job in self.running:
            job.process.send_signal(signal.SIGTERM)
        self.say(f"{sweep}: {len(self.running)} runs are told to save and end")
        for job in self.running:
            job.process.wait()


@dataclasses.dataclass(frozen=True)
class Workers:
    """What runs on this machine at once.

    jobs: how many runs, at most. gpus: numbers of GPUs; each run gets one for itself, and there are no more runs at
    once than GPUs. environment: of the runs; None: this process's.
    """

    jobs: int = 1
    gpus: Sequence[str] = ()
    environment: Mapping[str, str] | None = None


ONE_AT_A_TIME = Workers()


def run_points(
    points: Sequence[Point],
    sweep: str,
    out: str | pathlib.Path,
    workers: Workers = ONE_AT_A_TIME,
    say: Callable[[str], None] = print,
    keep: Keeps | None = None,
) -> dict[str, int]:
    """Runs what is not finished and returns {name: exit code} of the points that failed.

    Args:
      points: of one grid, started in this order.
      sweep: its name.
      out: each point has the run folder out/name, and its output in out/logs/name.txt.
      workers: how many at once. A second one starts when the first is past its first steps and memory is left for as
        much as any run has taken so far; if the system kills one for memory, it is run again beside fewer.
      say: told about starts and ends.
      keep: where results stay: a point is done when its result is there, and a finished run without one is evaluated.

    Raises Stopped after Ctrl-C or SIGTERM: the runs are told, and save before they end.
    """
    if in_bucket(out):
        raise ConfigError("--out", str(out), "a local folder for runs on this machine", "Runs in a bucket: --emit.")
    out, jobs, gpus = pathlib.Path(out), workers.jobs, workers.gpus
    is_done = keep.done if keep is not None else lambda point: state_of(out / point.name).status == FINISHED
    pool = _Pool(points, is_done, min(jobs, len(gpus)) if gpus else jobs, say)
    say(f"{sweep}: {len(points)} runs, {pool.done} of them finished, {jobs if not gpus else len(gpus)} at once")
    free = list(gpus)
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        while pool.waiting or pool.running:
            while pool.waiting and len(pool.running) < pool.jobs and _room(pool.running, out, pool.most):
                point = pool.waiting.pop(0)
                trains = keep is None or state_of(out / point.name).status != FINISHED
                command = trainer_command(point, sweep, str(out / point.name)) if trains else keep.command(point)
                job = _start(point, command, out, free.pop(0) if free else None, workers.environment)
                pool.running.append(dataclasses.replace(job, trains=trains))
                if trains:
                    say(f"started  {point.name}")
            time.sleep(POLL)
            free += [job.gpu for job in pool.collect(out) if job.gpu is not None]
    except KeyboardInterrupt:
        pool.stop(sweep)
        raise Stopped from None
    finally:
        signal.signal(signal.SIGTERM, before)
    return pool.failed


def _interrupt(*_) -> None:
    raise KeyboardInterrupt


def _room(running: Sequence[Job], out: pathlib.Path, most: int) -> bool:
    """Whether one more run may start beside those that run: they have shown what they take, and as much is left.

    An evaluation logs no step, so none waits for it; what it may still ask for is held back as for the others.
    """
    if not running:
        return True
    if not all(last_step(out / job.point.name) > job.resumed for job in running if job.trains):
        return False
    growing = sum(max(most - (held(job.process.pid) or most), 0) for job in running)
    return fits(most or None, growing)


def _start(
    point: Point, command: Sequence[str], out: pathlib.Path, gpu: str | None, environment: Mapping | None
) -> Job:
    values = dict(os.environ if environment is None else environment)
    if gpu is not None:
        values["CUDA_VISIBLE_DEVICES"] = gpu
    resumed = last_step(out / point.name)
    log = log_file(out, point.name)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        # A session of its own: Ctrl-C is for this process, which tells the runs once.
        process = subprocess.Popen(
            [sys.executable, "-u", *command],
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=values,
            start_new_session=True,
        )
    return Job(point, process, gpu, resumed)


def trainer_command(point: Point, sweep: str, workdir: str) -> list[str]:
    """What trains a point, after `python`."""
    return ["-m", "xsample_jax.main", *trainer_arguments(point, sweep, workdir)]


def trainer_arguments(point: Point, sweep: str, workdir: str) -> list[str]:
    return [f"--config={point.config}", f"--workdir={workdir}", *point.overrides(sweep)]
