"""What a bank of all images costs a train step: to keep it, and to compare with some of its rows or with all.

    python -m benchmarks.bank [--encoder resnet18] [--size 32] [--images 64] [--dataset 50000] [--repeats 6]

One view of each image, the same encoder, head and optimizer. The step without a bank compares images with images of the
batch (SimCLR on one view against itself, whose cost is that of its logits). A target is set for what is drawn: at most
a tenth more time than without. Judged by CPU time; FLOPs are the compiler's.
"""

import argparse
import dataclasses
import sys

import jax
import numpy as np

from benchmarks.our_step import stand_in_batch, step_config
from benchmarks.report import HEADER, faster, finish
from benchmarks.timing import interleaved
from xsample_jax.setup import PLACEHOLDER_SPEC, RunSetup
from xsample_jax.sharding import make_mesh, to_global

TARGET = 1 / 1.1  # of the speed without a bank, with 4096 drawn rows
FORMS = {  # what a step is compared with; None: without a bank
    "batch alone": None,
    "4096 rows drawn": {"preset": "instance_discrimination"},
    "all rows": {"preset": "instance_discrimination", "bank.keys": 0},
}


class Step:
    """Callable that takes one compiled step of a form and waits for its loss."""

    def __init__(self, changes: dict | None, arguments):
        named = {f"objective.{name}": value for name, value in (changes or {"preset": "simclr"}).items()}
        views = {"views": 1 if changes else 2}
        images = arguments.images if changes else arguments.images // 2  # as many views through the encoder
        config = step_config(arguments.encoder, images, arguments.size, **named, **views)
        spec = dataclasses.replace(PLACEHOLDER_SPEC, count=arguments.dataset)
        self.parts = RunSetup(config, spec, make_mesh(config.mesh, images, jax.devices()[:1]))
        batch = stand_in_batch(images, arguments.size)
        batch["index"] = np.random.default_rng(0).permutation(arguments.dataset)[:images].astype(np.int32)
        self.batch = to_global({name: batch[name] for name in self.parts.abstract_batch}, self.parts.mesh)
        self.state = self.parts.new_state()
        self.compiled = self.parts.train_step.lower(self.parts.abstract_state, self.parts.abstract_batch).compile()

    def __call__(self) -> float:
        self.state, metrics = self.compiled(self.state, self.batch)
        return float(metrics["loss"])

    @property
    def flops(self) -> float:
        return self.compiled.cost_analysis()["flops"]

    @property
    def bank_bytes(self) -> int:
        return sum(value.nbytes for name, value in self.state.memory.items() if name.startswith("bank/"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--dataset", type=int, default=50_000)
    parser.add_argument("--repeats", type=int, default=6)
    arguments = parser.parse_args()
    steps = {name: Step(changes, arguments) for name, changes in FORMS.items()}
    for step in steps.values():
        step()
    times = interleaved(steps, arguments.repeats)
    plain, *others = steps
    found = [
        faster(f"bank, {name}, {arguments.encoder}", times[name], times[plain], TARGET if "drawn" in name else 0.1)
        for name in others
    ]
    print(HEADER, " CPU seconds per step, of ours with a bank and of the step without")
    for comparison in found:
        print(comparison)
    for name, step in steps.items():
        print(f"    {name:<20} {step.flops / 1e9:8.2f} GFLOP  {step.bank_bytes / 1e6:8.1f} MB of bank")
    facts = {"gflop": {name: step.flops / 1e9 for name, step in steps.items()}, "dataset": arguments.dataset}
    return finish("bank", found, unit="s", **facts)


if __name__ == "__main__":
    sys.exit(main())
