"""All benchmarks of one GPU, one after the other, within eight minutes: `make bench-gpu`.

    python -m benchmarks.gpu_suite [--tiny] [--minutes 8] [--out gpu.json]

Each in a process of its own, whose memory is free for the next. What does not fit in the time is cut off and said to
be; what was found before is kept. --tiny: the same code at sizes for a CPU, which says nothing about a GPU.
"""

import argparse
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

from benchmarks.report import write_json

# In the order of what one would miss most; seconds that each may take at most.
RUNS = [
    (("gpu_step", "--encoder", "resnet50"), 170),
    (("gpu_loss", "--rows", "32768", "65536"), 110),
    (("gpu_step", "--encoder", "vit_b"), 140),
    (("gpu_profile", "--encoder", "resnet50"), 60),
    (("gpu_feed",), 90),
    (("gpu_profile", "--encoder", "vit_b"), 60),
    (("gpu_loss", "--rows", "262144", "1048576"), 120),
]


def run(command: tuple[str, ...], tiny: bool, seconds: float) -> dict:
    """Runs a benchmark, shows what it prints, and returns its JSON with the exit status, or what became of it."""
    name, *arguments = command
    if tiny:
        arguments = [*(arguments if name != "gpu_loss" else ["--rows", "256"]), "--tiny"]
    environment = dict(os.environ) | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "PYTHONUNBUFFERED": "1"}
    call = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
    result = {"command": " ".join(call[1:])}
    start = time.monotonic()
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(call, **output, env=environment, start_new_session=True)
    # With the processes that it started (torch.compile's workers), which would hold its output open.
    timer = threading.Timer(seconds, lambda: os.killpg(process.pid, signal.SIGKILL))
    timer.start()
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip())
        if not line.startswith('{"benchmark"'):  # JSON is kept for the end
            print(f"  {lines[-1]}", flush=True)
    process.wait()
    timer.cancel()
    cut_off = process.returncode == -signal.SIGKILL
    result |= {
        "wall_seconds": round(time.monotonic() - start, 1),
        "status": "cut off" if cut_off else process.returncode,
    }
    found = [line for line in lines if line.startswith('{"benchmark"')]
    return result | (json.loads(found[-1]) if found else {"output": lines[-20:]})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="sizes for a CPU")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--out", default="gpu.json")
    given = parser.parse_args()
    end = time.monotonic() + 60 * given.minutes
    results = []
    for command, most in RUNS:
        left = end - time.monotonic()
        print(f"{' '.join(command)}: at most {min(most, left):.0f} s", flush=True)
        if left < 10:
            results.append({"command": " ".join(command), "status": "no time left"})
            continue
        results.append(run(command, given.tiny, left if given.tiny else min(most, left)))
        write_json(pathlib.Path(given.out), results)
    print()
    for result in results:
        print(f"{result['command']}: status {result['status']}, {result.get('wall_seconds', 0)} s")
    print(json.dumps({"benchmark": "gpu_suite", "tiny": given.tiny, "results": results}))
    return 0 if all(result["status"] == 0 for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
