"""Training under fire: random kills, SIGTERMs, full disks and damaged checkpoints; then every bit is compared.

    python -m benchmarks.soak --minutes 10 [--steps 60] [--encoder resnet18|linear] [--seed 0]

One run is left alone. Others of the same config are disturbed at random, started again until they are finished, and
compared with it: all arrays of the last checkpoint, all lines of metrics.jsonl. The last line counts the bits that
differ.
"""

import argparse
import collections
import dataclasses
import json
import pathlib
import random
import signal
import sys
import tempfile
import time

from tests.lives import Lives, differences
from xsample_jax.errors import FINISHED, REQUEUE
from xsample_jax.io.run_dir import HISTORY, read_history

LIFE = 12  # batches within which something happens
DAMAGES = ("flip", "cut", "remove")


@dataclasses.dataclass
class Soak:
    """What was done and what came of it."""

    runs: int = 0
    lives: int = 0
    bits: int = 0
    done: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    seen: collections.Counter = dataclasses.field(default_factory=collections.Counter)


def soak(lives: Lives, folder: pathlib.Path, minutes: float, overrides: list[str], seed: int) -> Soak:
    """Disturbs runs until the time is over. Raises RuntimeError when a life ends in a way it should not."""
    rng, result, whole = random.Random(seed), Soak(), folder / "whole"
    expect(lives.run(whole, *overrides), FINISHED)
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        run, code = folder / f"run-{result.runs}", None
        while code != FINISHED:
            life, allowed = one_life(lives, run, overrides, rng, result, time.monotonic() < end)
            expect(life, *allowed)
            code = life.code
            result.lives += 1
        bits, where = differences(whole, run)
        result.runs, result.bits = result.runs + 1, result.bits + bits
        if (run / HISTORY).exists():
            result.seen.update(event["event"] for event in read_history(run))
        if bits:
            print(f"{run}: {bits} bits differ: {where}")
        print(f"{result.runs} runs, {result.lives} lives, {result.bits} bits lost, {dict(result.done)}", flush=True)
    return result


def one_life(lives, run, overrides, rng, result: Soak, disturbed: bool):
    """A life with one disturbance. Returns it and the exit codes that are right."""
    kind = rng.choice(("kill", "kill", "SIGTERM", "Ctrl-C", "full disk", "damage")) if disturbed else "none"
    at = (rng.randint(1, LIFE), rng.uniform(0, 0.2))
    if kind == "damage" and not damage(run, rng, result):
        kind = "kill"
    if kind != "damage":
        result.done[kind] += 1
    if kind in ("kill", "damage"):
        return lives.run(run, *overrides, signals=[(*at, signal.SIGKILL)]), (-signal.SIGKILL, FINISHED)
    if kind in ("SIGTERM", "Ctrl-C"):
        what = signal.SIGTERM if kind == "SIGTERM" else signal.SIGINT
        return lives.run(run, *overrides, signals=[(*at, what)]), (REQUEUE, FINISHED)
    if kind == "full disk":
        full = (at[0], at[0] + rng.randint(1, LIFE))
        kill = [(full[1] + rng.randint(1, LIFE), 0.0, signal.SIGKILL)]
        # 1: it was full when the last checkpoint was to be written.
        return lives.run(run, *overrides, full=full, signals=kill), (-signal.SIGKILL, FINISHED, 1)
    return lives.run(run, *overrides), (FINISHED,)


def damage(run: pathlib.Path, rng: random.Random, result: Soak) -> bool:
    """Damages one file of the newest checkpoint, if there is an older one to fall back to."""
    steps = sorted(int(path.name) for path in (run / "checkpoints").glob("*[0-9]") if path.name.isdigit())
    if len(steps) < 2:
        return False
    path = rng.choice([path for path in sorted((run / "checkpoints" / str(steps[-1])).rglob("*")) if path.is_file()])
    how, data = rng.choice(DAMAGES), bytearray(path.read_bytes())
    if how == "remove":
        path.unlink()
    elif how == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
    result.done[f"checkpoint damaged ({how})"] += 1
    return True


def expect(life, *codes: int) -> None:
    if life.code not in codes:
        raise RuntimeError(f"exit code {life.code}, expected one of {codes}\n{life.out[-2000:]}\n{life.err[-6000:]}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--encoder", choices=("resnet18", "linear"), default="resnet18")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    overrides = [f"--config.steps={options.steps}", "--config.checkpoint.every=5", "--config.log.every=1"]
    start = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="soak_") as folder,
        Lives(options.encoder, "configs/quickstart.py:smoke") as lives,
    ):
        result = soak(lives, pathlib.Path(folder), options.minutes, overrides, options.seed)
    print(json.dumps(vars(result) | {"minutes": round((time.monotonic() - start) / 60, 1)}, indent=1))
    print(f"{result.bits} bits lost in {result.runs} runs and {result.lives} lives")
    return 1 if result.bits else 0


if __name__ == "__main__":
    sys.exit(main())
