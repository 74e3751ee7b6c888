"""The commands that start the points of a grid elsewhere: the scripts of launch/, one run each."""

import re
import shlex
from collections.abc import Callable, Sequence

from xsample_jax.errors import ConfigError, lookup
from xsample_jax.sweeps.grid import Point
from xsample_jax.sweeps.local import trainer_arguments

LONGEST = 40  # characters of a workload's name


def _script(script: str, action: str | None = None, named: bool = True) -> Callable:
    def command(name: str, options: list[str], trainer: list[str]) -> list[str]:
        own = [f"--name={name}"] if named else []
        return [f"launch/{script}", *([action] if action else []), *own, *options, "--", *trainer]

    return command


KINDS = {
    "shell": lambda name, options, trainer: ["python", "-m", "xsample_jax.main", *trainer],
    "gpu_host": _script("gpu_host.sh", "run", named=False),
    "slurm": lambda name, options, trainer: ["sbatch", f"--job-name={name}", *options, "launch/slurm.sbatch", *trainer],
    "xpk": _script("xpk.sh", "run"),
    "gke": _script("gke.sh", "run"),
    "queued": _script("queued.sh", "create"),
    "babysit": _script("babysit.sh"),
}


def emit(kind: str, points: Sequence[Point], sweep: str, out: str, options: str = "") -> list[str]:
    """One line of shell for each point.

    Args:
      kind: a name of KINDS.
      points: of one grid.
      sweep: its name.
      out: folder or gs://BUCKET/FOLDER; each point has the run folder out/name.
      options: of the launcher, as "--cluster=c --zone=z --project=p --type=v5litepod-16 --image=i".

    Raises ConfigError for an unknown kind, or options where the kind takes none.
    """
    make = lookup(KINDS, kind, "--emit")
    if options and kind == "shell":
        raise ConfigError("--options", options, "none for --emit=shell, which has no launcher")
    lines = []
    for number, point in enumerate(points):
        name = _workload(sweep, number, len(points))
        trainer = trainer_arguments(point, sweep, f"{out.rstrip('/')}/{point.name}")
        lines.append(shlex.join(make(name, shlex.split(options), trainer)))
    return lines


def _workload(sweep: str, number: int, count: int) -> str:
    """A name that every cloud takes: small letters, digits and hyphens, not too long."""
    digits = len(str(count - 1))
    stem = re.sub(r"[^a-z0-9]+", "-", sweep.lower()).strip("-")[: LONGEST - digits - 1].rstrip("-")
    return f"{stem}-{number:0{digits}d}"
