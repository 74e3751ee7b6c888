"""Runs that are started, stopped and started again, each through the real command in a process of its own.

A server imports everything once and forks a process for every life of a run, so a life takes about a second, not ten.
The encoder is a linear map (tests/objectives/synthetic.py): these tests are about the loop.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).parent.parent
SAME = ("loss", "kl", "gradient_norm", "update_norm", "learning_rate", "skipped_updates")  # and what starts with eval/


@dataclasses.dataclass(frozen=True)
class Life:
    """How a life ended: exit code (negative: killed by that signal) and output."""

    code: int
    out: str
    err: str


class Lives:
    """The server. Use it in a `with` block."""

    def __init__(self, encoder: str = "linear"):
        environment = os.environ | {
            "XLA_FLAGS": "--xla_backend_optimization_level=0",  # and one device: these tests are about time
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "PYTHONPATH": str(ROOT),
        }
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.lives", encoder], cwd=ROOT, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()

    def run(self, folder, *overrides: str, signals: Sequence[tuple[int, float, int]] = (), hook: str = "") -> Life:
        """One life of the run in `folder`.

        Args:
          overrides: of tests/lives_config.py, and other flags of main.
          signals: (number of the batch, seconds after it, signal): what the life gets, and when.
          hook: Python code executed before it starts, to make something fail.
        """
        arguments = [f"--config={ROOT / 'tests' / 'lives_config.py'}", f"--workdir={folder}", *overrides]
        print(json.dumps([arguments, list(signals), hook]), file=self._server.stdin, flush=True)
        return Life(**json.loads(self._server.stdout.readline()))


def differences(whole: pathlib.Path, other: pathlib.Path) -> list[str]:
    """What differs between two finished runs: arrays of the last checkpoint bit by bit, and lines of metrics.jsonl."""
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    from xsample_jax.metrics.writers import read_jsonl

    def final(folder):
        step = max(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdigit())
        with ocp.StandardCheckpointer() as reader:
            saved = reader.restore((folder / "checkpoints" / str(step) / "state").absolute())
        return {"step": step} | {jax.tree_util.keystr(k): v for k, v in jax.tree.flatten_with_path(saved)[0]}

    def lines(folder):
        return [
            {name: value for name, value in line.items() if name in ("step", *SAME) or name.startswith("eval/")}
            for line in read_jsonl(folder / "metrics.jsonl")
        ]

    expected, found = final(whole), final(other)
    wrong = [name for name in expected | found if name not in expected or name not in found]
    bits = lambda value: np.asarray(value).tobytes()  # noqa: E731
    wrong += [name for name in expected.keys() & found.keys() if bits(expected[name]) != bits(found[name])]
    if lines(whole) != lines(other):
        wrong.append(f"metrics: steps {[line['step'] for line in lines(other)]}, or their values")
    return wrong


def _serve(encoder: str) -> None:
    import xsample_jax.train  # noqa: F401  (what a life needs is imported before the fork)
    from tests.objectives.synthetic import LinearEncoder
    from xsample_jax.models import towers

    if encoder == "linear":
        towers.ENCODERS["resnet18"] = lambda config, rngs: LinearEncoder(rngs)
    for line in sys.stdin:
        arguments, signals, hook = json.loads(line)
        folder = pathlib.Path(f"/tmp/lives-{os.getpid()}")
        folder.mkdir(exist_ok=True)
        child = os.fork()
        if child == 0:
            _live(arguments, signals, hook, folder)
        _, status = os.waitpid(child, 0)
        texts = {name: (folder / name).read_text(errors="replace") for name in ("out", "err")}
        print(json.dumps({"code": os.waitstatus_to_exitcode(status)} | texts), flush=True)


def _live(arguments, signals, hook, folder) -> None:
    import xsample_jax.main
    import xsample_jax.train

    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    place, numbers = xsample_jax.train.to_global, itertools.count(1)

    def to_global(batch, mesh):
        number = next(numbers)
        for at, seconds, what in signals:
            if at == number:
                timer = threading.Timer(seconds, os.kill, (os.getpid(), what))
                timer.daemon = True
                timer.start()
                if not seconds:
                    timer.join()  # it comes within this very step
        return place(batch, mesh)

    xsample_jax.train.to_global = to_global
    xsample_jax.train.write_report = lambda runs, path: path.write_text("")  # its pictures would be half of the time
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
