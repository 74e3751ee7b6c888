"""Runs the CPU benchmarks one after the other, each in a process of its own, and publishes what they found.

    python -m benchmarks.all [NAME ...]       make bench

benchmarks/cpu.json keeps the figures, from which the table and the figures of docs/notes/benchmarks.md are made. With
names only those are run and the others stay as they were. The exit status is 1 when a benchmark broke, a peer is not
installed, or a figure that does not depend on the machine missed its target; times that missed theirs are only told.
"""

import argparse
import datetime
import json
import os
import pathlib
import subprocess
import sys
import threading
import time

from benchmarks.figures import draw
from benchmarks.report import write_json
from benchmarks.table import failures, markdown, misses
from xsample_jax.reports.style import insert

ROOT = pathlib.Path(__file__).parent.parent
RECORD, PAGE = ROOT / "benchmarks" / "cpu.json", ROOT / "docs" / "notes" / "benchmarks.md"
LIMIT = 600  # seconds after which a benchmark is taken to hang

SUITE = {  # name: (module, arguments)
    "loss_cpu": ("loss_cpu", "--compile"),
    "loss_cpu:8192": ("loss_cpu", "--rows", "8192"),
    "loss_memory": ("loss_memory",),
    "loss_exact": ("loss_exact",),
    "loss_classtable": ("loss_classtable",),
    "decode": ("decode",),
    "pipeline": ("pipeline",),
    "augment_jit": ("augment_jit",),
    "step_cpu:resnet18": ("step_cpu", "--encoder", "resnet18"),
    "step_cpu:resnet50": ("step_cpu", "--encoder", "resnet50"),
    "step_cpu:vit_s": ("step_cpu", "--encoder", "vit_s"),
    "overhead": ("overhead",),
    "bank": ("bank",),
    "step_memory": ("step_memory",),
    "embed_cpu": ("embed_cpu",),
    "prepare_cpu": ("prepare_cpu",),
    "comm_bytes": ("comm_bytes",),
    "grad_comm": ("grad_comm",),
    "steady_state": ("steady_state",),
}


def run(name: str) -> dict | None:
    """Runs a benchmark, passes on what it prints and returns its JSON, or None when it has not come to it."""
    module, *arguments = SUITE[name]
    command = [sys.executable, "-u", "-m", f"benchmarks.{module}", *arguments]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONWARNINGS": "ignore"}
    start, found = time.monotonic(), None
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        watch = threading.Timer(LIMIT, process.kill)
        watch.start()
        for line in process.stdout:
            if line.startswith('{"benchmark"'):
                found = json.loads(line)
            else:
                print(f"  {line}", end="", flush=True)
        process.wait()
        watch.cancel()
    if found is None or process.returncode not in (0, 1):
        print(f"  {name} broke with exit status {process.returncode}", flush=True)
        return None
    return found | {
        "command": " ".join(["python -m", f"benchmarks.{module}", *arguments]),
        "date": datetime.date.today().isoformat(),
        "seconds": round(time.monotonic() - start, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *SUITE], metavar="NAME", help=", ".join(SUITE))
    names = parser.parse_args().names or list(SUITE)
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    begin, broken = time.monotonic(), []
    for number, name in enumerate(names, 1):
        print(f"{number}/{len(names)} {name}, {time.monotonic() - begin:.0f} s so far", flush=True)
        found = run(name)
        if found is None:
            broken.append(name)
            record.pop(name, None)
            continue
        print(f"  took {found['seconds']:.0f} s", flush=True)
        record[name] = found
        record = {name: record[name] for name in SUITE if name in record}
        write_json(RECORD, record)
    insert(PAGE, "table", markdown(record))
    draw(record, PAGE.parent)
    ran = {name: record[name] for name in names if name in record}
    print(f"\n{len(names)} benchmarks in {(time.monotonic() - begin) / 60:.1f} minutes")
    print("\n".join(["missed targets:", *(misses(ran) or ["  none"])]))
    wrong = [*(f"{name} broke" for name in broken), *failures(ran)]
    print(*wrong, f"table and figures: {PAGE.relative_to(ROOT)}", sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
