"""Where the time of a train step goes on a GPU: the ten kernels that take most of it.

    python -m benchmarks.gpu_profile --encoder resnet50 [--tiny]

Traces a few steps of benchmarks/gpu_step.py (no peer) and sums the durations of the events of the device by name. On a
CPU (--tiny) the events are XLA's operations on its threads.
"""

import argparse
import collections
import pathlib
import re
import sys
import tempfile

import jax

from benchmarks.gpu_step import IMAGES, QUICK, config_of
from benchmarks.our_step import OurStep
from benchmarks.report import finish

STEPS, TOP = 3, 10


def device_events(folder: str) -> dict[str, float]:
    """{name: nanoseconds} of the device operations in the trace below a folder; numbers are taken off the names."""
    (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
    total = collections.Counter()
    planes = list(jax.profiler.ProfileData.from_file(str(path)).planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:GPU")]
    for plane in devices or [plane for plane in planes if plane.name == "/host:CPU"]:
        for line in plane.lines:
            # A device has lines of streams, and lines that say the same by module and operation; a CPU has threads.
            if "Stream" in line.name if devices else re.search("XLA|Eigen|PjRt", line.name):
                for event in line.events:
                    total[re.sub(r"[._]\d+", "", event.name)] += event.duration_ns
    return dict(total)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", choices=list(IMAGES), default="resnet50")
    parser.add_argument("--tiny", action="store_true", help="a size for a CPU")
    given = parser.parse_args()
    step = OurStep(config_of(given.encoder, given.tiny), QUICK if given.tiny else None)
    jax.block_until_ready(step())
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(STEPS):
                loss = step()
            jax.block_until_ready(loss)
        events = device_events(folder)
    if not events:
        raise RuntimeError("the trace has no events of the device: was the profiler kept from the card (CUPTI)?")
    whole = sum(events.values())
    top = sorted(events.items(), key=lambda item: -item[1])[:TOP]
    print(f"{given.encoder}: {1e-6 * whole / STEPS:.2f} ms of kernels a step, {len(events)} names")
    for name, nanoseconds in top:
        print(f"  {100 * nanoseconds / whole:5.1f} %  {1e-6 * nanoseconds / STEPS:9.3f} ms  {name[:100]}")
    kernels = [{"name": name, "ms": 1e-6 * value / STEPS, "share": value / whole} for name, value in top]
    finish(f"gpu_profile {given.encoder}", [], tiny=given.tiny, ms_of_kernels=1e-6 * whole / STEPS, top=kernels)
    return 0


if __name__ == "__main__":
    sys.exit(main())
