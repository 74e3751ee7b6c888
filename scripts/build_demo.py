"""Writes xsample_jax/models/demo.npz, what `load_encoder("demo")` gives, of a finished run of the quickstart.

    python -m xsample_jax.main --config=quickstart --workdir=runs/demo
    python -m scripts.build_demo runs/demo

Kernels are stored in float16 (half the size; features change by less than a thousandth of their length).
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence

import numpy as np

from xsample_jax.encoder import DEMO_FILE, load_encoder
from xsample_jax.tools.cli import run_cli


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="run folder")
    encoder = load_encoder(parser.parse_args(arguments).run)
    halves = {name: array.astype(np.float16) if array.ndim > 1 else array for name, array in encoder.arrays.items()}
    dataclasses.replace(encoder, arrays=halves).save(DEMO_FILE)
    print(f"{DEMO_FILE}: {DEMO_FILE.stat().st_size / 2**20:.1f} MB")


if __name__ == "__main__":
    sys.exit(run_cli(main))
