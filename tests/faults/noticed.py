"""A process with jax.distributed that signals itself: python -m tests.faults.noticed SIGNAL."""

import os
import signal
import sys
import time

import jax
import portpicker
from orbax.checkpoint import utils

from xsample_jax.faults.preemption import preemption_notice


def main(name: str) -> None:
    jax.distributed.initialize(f"127.0.0.1:{portpicker.pick_unused_port()}", 1, 0)
    with preemption_notice(20) as notice:
        for step in range(400):
            if step == 5:
                os.kill(os.getpid(), getattr(signal, name))
            if notice.reached(step, utils.reached_preemption):
                print("reached", flush=True)
                return
            time.sleep(0.05)


if __name__ == "__main__":
    main(sys.argv[1])
