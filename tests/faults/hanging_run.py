"""A run that ends with StalledError while a thread of it hangs: python -m tests.faults.hanging_run FOLDER."""

import concurrent.futures
import sys
import threading

import xsample_jax.loop
import xsample_jax.main
from xsample_jax.errors import StalledError


def train(*args):
    concurrent.futures.ThreadPoolExecutor().submit(threading.Event().wait)  # as a decoding thread that hangs
    raise StalledError("data", "no batch", "one")


if __name__ == "__main__":
    xsample_jax.loop.train = train
    sys.argv = ["main", "--config=configs/quickstart.py:smoke", f"--workdir={sys.argv[1]}"]
    xsample_jax.main.run()
