"""Runs that are started, stopped and started again, each through the real command in a process of its own.

A server imports everything once and forks a process for every life of a run, so a life takes about a second, not ten.
The encoder is a linear map (tests/objectives/synthetic.py): these tests are about the loop.
"""

import concurrent.futures
import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import resource
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence

from tests.server import ROOT, Server, warm_up
from tests.xla_flags import QUICK

SAME = ("loss", "kl", "gradient_norm", "parameter_norm", "learning_rate", "skipped_updates")  # and eval/*


@dataclasses.dataclass(frozen=True)
class Life:
    """How a life ended: exit code (negative: killed by that signal) and output."""

    code: int
    out: str
    err: str


class Lives(Server):
    """The server.

    Args:
      encoder: "linear", or anything else for that of the config.
      config: of the runs; relative to the repository.
    """

    def __init__(self, encoder: str = "linear", config: str = "tests/lives_config.py"):
        self._config = str(ROOT / config)
        self._cache = tempfile.TemporaryDirectory()
        environment = {
            "JAX_COMPILATION_CACHE_DIR": self._cache.name,  # not that of other tests: a kill may leave half an entry
            "XLA_FLAGS": QUICK,  # and one device: these tests are about time
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PLATFORMS": "cpu",
        }
        super().__init__("tests.lives", encoder, environment=environment)

    def __exit__(self, *error):
        super().__exit__(*error)
        self._cache.cleanup()

    def run(
        self,
        folder: pathlib.Path,
        *overrides: str,
        signals: Sequence[tuple[int, float, int]] = (),
        full: tuple[int, int] = (0, 0),
        hook: str = "",
    ) -> Life:
        """One life of the run in `folder`.

        Args:
          overrides: of the config, and other flags of main.
          signals: (number of the batch, seconds after it, signal): what the life gets, and when.
          full: the disk is full from the first of these batches to the second.
          hook: Python code executed before it starts, to make something fail.
        """
        arguments = [f"--config={self._config}", f"--workdir={folder}", *overrides]
        return Life(**self.ask([arguments, list(signals), full, hook]))


def differences(whole: pathlib.Path, other: pathlib.Path) -> tuple[int, list[str]]:
    """(number of bits, what) that differ between two finished runs: the arrays of the last checkpoint; metrics.jsonl.

    An array or a line that only one of them has counts with all its bits.
    """
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    from xsample_jax.io.paths import absolute, as_path
    from xsample_jax.metrics.jsonl import read_jsonl

    def final(folder):
        folder = as_path(folder)
        step = max(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdigit())
        with ocp.StandardCheckpointer() as reader:
            saved = reader.restore(absolute(folder / "checkpoints" / str(step) / "state"))
        arrays = {jax.tree_util.keystr(keys): value for keys, value in jax.tree.flatten_with_path(saved)[0]}
        lines = [
            {name: value for name, value in line.items() if name in ("step", *SAME) or name.startswith("eval/")}
            for line in read_jsonl(folder / "metrics.jsonl")
        ]
        texts = {f"line {number} of metrics.jsonl": json.dumps(line) for number, line in enumerate(lines, 1)}
        return {name: np.asarray(value).tobytes() for name, value in arrays.items()} | {
            name: text.encode() for name, text in texts.items()
        }

    one, two = final(whole), final(other)
    bits = {}
    for name in one | two:
        a, b = one.get(name, b""), two.get(name, b"")
        changed = sum((x ^ y).bit_count() for x, y in zip(a, b, strict=False)) + 8 * abs(len(a) - len(b))
        bits |= {name: changed} if changed else {}
    return sum(bits.values()), list(bits)


def _serve(encoder: str) -> None:
    import xsample_jax.loop  # noqa: F401  (what a life needs is imported before the fork)
    from tests.objectives.synthetic import LinearEncoder
    from xsample_jax.models import towers

    warm_up()
    if encoder == "linear":
        towers.ENCODERS["resnet18"] = lambda config, rngs: LinearEncoder(rngs)
    for line in sys.stdin:
        arguments, signals, full, hook = json.loads(line)
        pipes = {name: os.pipe() for name in ("out", "err")}  # not files: those end where the disk is full
        child = os.fork()
        if child == 0:
            for number, (_, write) in enumerate(pipes.values(), 1):
                os.dup2(write, number)
            _live(arguments, signals, full, hook)
        for _, write in pipes.values():
            os.close(write)
        with concurrent.futures.ThreadPoolExecutor() as readers:  # gone again before the next fork
            texts = dict(zip(pipes, readers.map(_read, [read for read, _ in pipes.values()]), strict=True))
        _, status = os.waitpid(child, 0)
        print(json.dumps({"code": os.waitstatus_to_exitcode(status)} | texts), flush=True)


def _read(pipe: int) -> str:
    with os.fdopen(pipe, errors="replace") as file:
        return file.read()


def _live(arguments, signals, full, hook) -> None:
    import xsample_jax.loop
    import xsample_jax.main
    from xsample_jax.faults.preemption import Notice

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    place, numbers = xsample_jax.loop.to_global, itertools.count(1)
    give, taken = Notice.give, threading.Event()

    def noted(self, reason):
        give(self, reason)
        taken.set()

    Notice.give = noted

    def to_global(batch, mesh):
        number = next(numbers)
        if number in full:  # a limit on the size of files ends a write within the file, as a full disk does
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000 if number == full[0] else soft, hard))
        for at, seconds, what in signals:
            if at == number:
                timer = threading.Timer(seconds, os.kill, (os.getpid(), what))
                timer.daemon = True
                timer.start()
                if not seconds:  # it comes within this very step, and is taken notice of, by a thread of its own
                    timer.join()
                    taken.wait(5)
                    taken.clear()
        return place(batch, mesh)

    xsample_jax.loop.to_global = to_global
    xsample_jax.loop.write_report = lambda runs, path: path.write_text("")  # its images would be half of the time
    exec(hook, {})
    sys.argv = ["main", *arguments]
    code = 1
    try:
        xsample_jax.main.run()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _serve(sys.argv[1])
