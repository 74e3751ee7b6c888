"""Benchmarks, each a module to run: `python -m benchmarks.NAME`. They need the repository, not only the package."""

import os

from xsample_jax.topology import quiet_environment, without_tpu

if without_tpu():  # before jax is imported: it would search for one
    quiet_environment(os.environ)
