"""A process that answers lines of JSON, for tests that would start python too often."""

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping

from xsample_jax.io.code_version import code_version

ROOT = pathlib.Path(__file__).parent.parent


def warm_up() -> None:
    """Imports what a run would import later, so that its forks need not; does not start jax's devices."""
    import jax.interpreters.mlir  # noqa: F401
    import jaxlib.mlir.dialects.mhlo  # noqa: F401
    import PIL.Image

    PIL.Image.init()
    code_version()


class Server:
    """`python -m module arguments`, in the repository. Use it in a `with` block.

    Args:
      environment: added to the environment of this process.
      options: of subprocess.Popen.
    """

    def __init__(self, module: str, *arguments: str, environment: Mapping[str, str] | None = None, **options):
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments], cwd=ROOT, text=True,
            env=os.environ | {"PYTHONPATH": path} | (environment or {}),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options,
        )  # fmt: skip

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def ask(self, job: object) -> object:
        """Sends a job and waits for the answer."""
        print(json.dumps(job), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        assert answer, "the server has died: its own words are above"
        return json.loads(answer)
