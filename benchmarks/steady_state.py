"""The training loop once it runs: programs compiled, values the host waits for, and time spent waiting for data.

    python -m benchmarks.steady_state [--steps 16]

The loop of `train` on the embedded set, as in the quickstart, with a log line at every step and a checkpoint on the
way. Counted from the third step on. What may be read is a step's metrics, in one explicit transfer when the next step
is under way, and the checkpoint; transfers that nobody asked for raise an error.
"""

import argparse
import pathlib
import statistics
import sys
import tempfile

import jax
import pytest

import xsample_jax.loop
from benchmarks.report import HEADER, Comparison, at_most, finish
from tests.host_reads import HostReads
from xsample_jax.checkpoint import Checkpoints
from xsample_jax.config import load_config
from xsample_jax.hooks import DeferredMetrics
from xsample_jax.metrics.jsonl import read_jsonl

ROOT = pathlib.Path(__file__).parent.parent
WARM = 3  # steps after which nothing is compiled: the first compiles the step, the first checkpoint its copies
WAITING = 0.02  # share of the time


def run(config) -> tuple[list[int], list[dict]]:
    """(values that the host has read after each step, lines of metrics.jsonl) of a run."""
    seen = []
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        reads = HostReads(patch)
        patch.setattr(DeferredMetrics, "settle", reads.allow_in(DeferredMetrics.settle))
        patch.setattr(Checkpoints, "save", reads.allow_in(Checkpoints.save))

        class Timers(xsample_jax.loop.Timers):
            def step(self):
                super().step()
                seen.append(reads.count)

        patch.setattr(xsample_jax.loop, "Timers", Timers)
        with jax.transfer_guard("disallow"):
            xsample_jax.loop.train(config, folder)
        return seen, read_jsonl(pathlib.Path(folder) / "metrics.jsonl")


def compare(config) -> list[Comparison]:
    reads, lines = run(config)
    steady = [line for line in lines if line["step"] > WARM]
    compiled = steady[-1]["compilations"] - lines[WARM - 1]["compilations"]
    waited = statistics.median(line["data_wait_share"] for line in steady if "data_wait_share" in line)
    return [
        at_most(f"steady_state programs compiled after step {WARM}", compiled, 0),
        at_most(f"steady_state reads by the host after step {WARM}", reads[-1] - reads[WARM - 1], 0),
        at_most("steady_state share of the time waiting for data", waited, WAITING, clock="wall"),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=16)
    given = parser.parse_args()
    config = load_config(
        str(ROOT / "configs" / "quickstart.py"),
        [
            f"--config.steps={given.steps}",
            "--config.checkpoint.every=2",
            "--config.log.every=1",
            "--config.eval.suite=none",
        ],
    )
    found = compare(config)
    print(HEADER, " counts; share of the time")
    for comparison in found:
        print(comparison)
    return finish("steady_state", found, unit="count, share", steps=given.steps)


if __name__ == "__main__":
    sys.exit(main())
