"""Modules run as commands, each in a process of its own that is forked from a server which has imported everything.

A start then takes no time; python -m takes five CPU-seconds to import jax, flax, orbax and grain, in every process.
"""

import importlib
import json
import os
import pathlib
import runpy
import signal
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence

from tests.server import Server, warm_up


class Forks(Server):
    """The server."""

    def __init__(self):
        super().__init__("tests.forks", start_new_session=True)

    def run(
        self, module: str, argument_lists: Sequence[Sequence[str]], environment: Mapping[str, str], seconds: float = 400
    ) -> list[tuple[int, str, str]]:
        """Starts one process for each list of arguments, waits for all; returns [(exit code, stdout, stderr)].

        `environment` is set before jax looks for devices. After `seconds` all are killed and the test fails.
        """
        with tempfile.TemporaryDirectory() as folder:
            outputs = [[f"{folder}/{i}.{name}" for name in ("out", "err")] for i in range(len(argument_lists))]
            limit = threading.Timer(seconds, os.killpg, (self.process.pid, signal.SIGKILL))
            limit.start()
            try:
                codes = self.ask([module, list(zip(argument_lists, outputs, strict=True)), dict(environment)])
            finally:
                limit.cancel()
            texts = [[pathlib.Path(path).read_text(errors="replace") for path in paths] for paths in outputs]
        return [(code, *both) for code, both in zip(codes, texts, strict=True)]


def _serve() -> None:
    for name in ("xsample_jax.main", "xsample_jax.loop", "tests.objectives.synthetic"):
        importlib.import_module(name)
    warm_up()
    for line in sys.stdin:
        module, starts, environment = json.loads(line)
        children = []
        for arguments, outputs in starts:
            children.append(os.fork())
            if children[-1] == 0:
                for number, path in enumerate(outputs, 1):
                    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
                os.environ.update(environment)
                sys.argv = [module, *arguments]
                return runpy.run_module(module, run_name="__main__")  # and the interpreter ends as it always does
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(json.dumps(codes), flush=True)


if __name__ == "__main__":
    _serve()
