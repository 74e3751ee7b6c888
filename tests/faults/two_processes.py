"""One of two processes of a run: python -m tests.faults.two_processes PORT PROCESS FOLDER [BATCH].

With BATCH, the second process gets SIGTERM at that batch, as from a cloud that takes its machine away.
"""

import itertools
import os
import signal
import sys
import time

import jax

import xsample_jax.loop
from tests.objectives.synthetic import LinearEncoder
from tests.tiny import tiny_config
from xsample_jax.errors import FINISHED, REQUEUE
from xsample_jax.faults.preemption import Preempted
from xsample_jax.models import towers


def main(port: str, process: str, folder: str, batch: str = "0") -> int:
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, int(process))
    towers.ENCODERS["resnet18"] = lambda config, rngs: LinearEncoder(rngs)
    xsample_jax.loop.write_report = lambda runs, path: None
    place, numbers = xsample_jax.loop.to_global, itertools.count(1)

    def to_global(values, mesh):
        if next(numbers) == int(batch) and process == "1":
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1 if int(batch) else 0)  # the notice takes a second to reach everyone
        return place(values, mesh)

    xsample_jax.loop.to_global = to_global
    try:
        xsample_jax.loop.train(tiny_config(steps=60, checkpoint__every=100, log__every=1), folder)
    except Preempted:
        return REQUEUE
    return FINISHED


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
