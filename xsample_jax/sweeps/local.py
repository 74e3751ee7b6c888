"""Runs the points of a grid on this machine, several at once; finished ones are skipped, stopped ones resume."""

import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from xsample_jax.errors import ConfigError
from xsample_jax.exit_codes import REQUEUE
from xsample_jax.storage.paths import in_bucket
from xsample_jax.sweeps import memory
from xsample_jax.sweeps.grid import Point
from xsample_jax.sweeps.state import FINISHED, last_step, log_file, state_of

POLL = 0.5  # seconds between two looks at the processes
KILLED = -signal.SIGKILL  # what the kernel does when memory runs out


class Stopped(Exception):
    """The sweep was asked to stop; its runs have saved."""


@dataclasses.dataclass
class Job:
    """A running point. `resumed`: the last step logged before it started; `peak`: bytes it has held at most so far."""

    point: Point
    process: subprocess.Popen
    gpu: str | None
    resumed: int
    peak: int = 0


def run_points(
    points: Sequence[Point],
    sweep: str,
    out: str | pathlib.Path,
    jobs: int = 1,
    gpus: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, int]:
    """Runs what is not finished and returns {name: exit code} of the points that failed.

    Args:
      points: of one grid, started in this order.
      sweep: its name.
      out: each point has the run folder out/name, and its output in out/logs/name.txt.
      jobs: how many at once at most. A second one starts when the first is past its first steps and memory is left
        for as much as any run has taken so far; if the system kills one for memory, it is run again beside fewer.
      gpus: numbers of GPUs; each run gets one for itself, and there are no more runs at once than GPUs.
      environment: of the runs; default: this process's.
      say: told about starts and ends.

    Raises Stopped after Ctrl-C or SIGTERM: the runs are told, and save before they end.
    """
    if in_bucket(out):
        raise ConfigError("--out", str(out), "a local folder for runs on this machine", "Runs in a bucket: --emit.")
    out = pathlib.Path(out)
    waiting = [point for point in points if state_of(out / point.name).status != FINISHED]
    done = len(points) - len(waiting)
    say(f"{sweep}: {len(points)} runs, {done} of them finished, {jobs if not gpus else len(gpus)} at once")
    jobs, free = (min(jobs, len(gpus)) if gpus else jobs), list(gpus)
    running: list[Job] = []
    failed: dict[str, int] = {}
    most = 0  # bytes that a run took
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        while waiting or running:
            while waiting and len(running) < jobs and _room(running, out, most):
                running.append(_start(waiting.pop(0), sweep, out, free.pop(0) if free else None, environment))
                say(f"started  {running[-1].point.name}")
            time.sleep(POLL)
            for job in list(running):
                job.peak = memory.peak(job.process.pid) or job.peak
                most = max(most, job.peak)
                code = job.process.poll()
                if code is None:
                    continue
                running.remove(job)
                free += [job.gpu] if job.gpu is not None else []
                name = job.point.name
                if code == KILLED and running:
                    jobs = len(running)
                    waiting.insert(0, job.point)
                    say(f"killed   {name}, for memory it seems: {jobs} at once from here, and it runs again")
                elif code == REQUEUE:
                    waiting.append(job.point)
                    say(f"stopped  {name} from outside: it runs again later")
                elif code:
                    failed[name] = code
                    say(f"FAILED   {name} with exit code {code}: {log_file(out, name)}")
                else:
                    done += 1
                    say(f"finished {name} ({done} of {len(points)})")
    except KeyboardInterrupt:
        for job in running:
            job.process.send_signal(signal.SIGTERM)
        say(f"{sweep}: {len(running)} runs are told to save and end")
        for job in running:
            job.process.wait()
        raise Stopped from None
    finally:
        signal.signal(signal.SIGTERM, before)
    return failed


def _interrupt(*_) -> None:
    raise KeyboardInterrupt


def _room(running: Sequence[Job], out: pathlib.Path, most: int) -> bool:
    """Whether one more run may start beside those that run: they have shown what they take, and as much is left."""
    if not running:
        return True
    if not all(last_step(out / job.point.name) > job.resumed for job in running):
        return False
    growing = sum(max(most - (memory.held(job.process.pid) or most), 0) for job in running)
    return memory.fits(most or None, growing)


def _start(point: Point, sweep: str, out: pathlib.Path, gpu: str | None, environment: Mapping | None) -> Job:
    command = trainer_command(point, sweep, str(out / point.name))
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
