"""Modules run as commands, each in a process of its own that is forked from a server which has imported everything.

A start then takes no time; python -m takes five CPU-seconds to import jax, flax, orbax and grain, in every process.
"""

import concurrent.futures
import contextlib
import importlib
import json
import os
import pathlib
import runpy
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from tests.server import Server, warm_up


class Forks(Server):
    """The server."""

    def __init__(self):
        super().__init__("tests.forks", start_new_session=True)

    def run(
        self,
        module: str,
        argument_lists: Sequence[Sequence[str]],
        environment: Mapping[str, str],
        seconds: float = 400,
        kill_when: Callable[[], bool] | None = None,
    ) -> list[tuple[int, str, str]]:
        """Starts one process for each list of arguments, waits for all; returns [(exit code, stdout, stderr)].

        `environment` is set before jax looks for devices. After `seconds` all are killed and the test fails. Once
        `kill_when` returns True, all get SIGKILL with the processes that they have started.
        """
        with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(1) as waiting:
            outputs = [[f"{folder}/{i}.{name}" for name in ("out", "err")] for i in range(len(argument_lists))]
            groups = f"{folder}/groups" if kill_when else ""
            limit = threading.Timer(seconds, self._kill, (groups, True))
            limit.start()
            try:
                job = [module, list(zip(argument_lists, outputs, strict=True)), dict(environment), groups]
                codes = waiting.submit(self.ask, job)
                while kill_when and not codes.done():
                    if kill_when() and os.path.exists(groups):  # before, there is no process to kill
                        self._kill(groups)
                        break
                    time.sleep(0.002)
                codes = codes.result()
            finally:
                limit.cancel()
            texts = [[pathlib.Path(path).read_text(errors="replace") for path in paths] for paths in outputs]
        return [(code, *both) for code, both in zip(codes, texts, strict=True)]

    def _kill(self, groups: str, server: bool = False) -> None:
        for group in pathlib.Path(groups).read_text().split() if groups and os.path.exists(groups) else ():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(int(group), signal.SIGKILL)
        if server:
            os.killpg(self.process.pid, signal.SIGKILL)


def _serve() -> None:
    for name in ("xsample_jax.main", "xsample_jax.loop", "tests.objectives.synthetic"):
        importlib.import_module(name)
    warm_up()
    for line in sys.stdin:
        module, starts, environment, groups = json.loads(line)
        children = []
        for arguments, outputs in starts:
            children.append(os.fork())
            if children[-1] == 0:
                if groups:
                    os.setsid()
                    with open(groups, "a") as file:
                        file.write(f"{os.getpid()}\n")
                for number, path in enumerate(outputs, 1):
                    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
                os.environ.update(environment)
                sys.argv = [module, *arguments]
                return runpy.run_module(module, run_name="__main__")  # and the interpreter ends as it always does
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(json.dumps(codes), flush=True)


if __name__ == "__main__":
    _serve()
