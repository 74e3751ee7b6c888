"""The whole train step on a CPU against a plain PyTorch X-CLR step (torch_step.py) from the same weights.

    python -m benchmarks.step_cpu [--encoder resnet18 resnet50 vit_s] [--repeats 5]

Both get uint8 images and captions, make two views of each image (the whole image: nothing is random), and do encoder,
head, loss, gradient and AdamW in float32. The losses of the first two steps, the second after an update, and the norm
of the first gradient are compared before anything is timed. Judged by the wall, on all cores: torch's threads wait in a
busy loop, which counts as CPU time.
"""

import argparse
import dataclasses
import sys

import numpy as np

from benchmarks.gemm import seconds_per_flop
from benchmarks.our_step import OurStep, step_config
from benchmarks.report import HEADER, faster, finish, lacking
from benchmarks.timing import interleaved
from xsample_jax.metrics.profiling import model_flops


@dataclasses.dataclass(frozen=True)
class Case:
    """Side of the images, images of a batch (two views each), and how many times torch's speed is wanted."""

    size: int
    images: int
    target: float


CASES = {"resnet18": Case(64, 16, 0.8), "resnet50": Case(64, 8, 0.9), "vit_s": Case(224, 4, 0.8)}
SAME_LOSS = {1: 1e-4, 2: 1e-2}  # relative, by step: Adam's first update is the sign of the gradient, rounding and all
SAME_NORM = 1e-2  # batch norms over the few pixels of the last stage amplify rounding


def forms_of(encoder: str, case: Case) -> tuple[dict, dict]:
    """({"ours": function, "torch": function}, facts), after both were found to do the same."""
    ours = OurStep(step_config(encoder, case.images, case.size))
    theirs = ours.by_torch()
    for step in (1, 2):
        metrics, expected = ours(), float(theirs())
        norm = float(sum(p.grad.square().sum() for p in theirs.model.parameters() if p.grad is not None) ** 0.5)
        print(
            f"    {encoder} step {step}: loss {metrics['loss']:.6f} and {expected:.6f}, "
            f"norm of the gradient {metrics['gradient_norm']:.5f} and {norm:.5f}"
        )
        where = f"{encoder}, step {step}"
        np.testing.assert_allclose(metrics["loss"], expected, rtol=SAME_LOSS[step], err_msg=f"loss of {where}")
        if step == 1:
            np.testing.assert_allclose(metrics["gradient_norm"], norm, rtol=SAME_NORM, err_msg=f"gradient of {where}")
    forms = {"ours": lambda: float(ours()["loss"]), "torch": theirs}
    return forms, {"flops": model_flops(ours.parts)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    missing = lacking("torch", "timm")
    found, rates, limit = [], {}, {}
    for encoder in [] if missing else arguments.encoder:
        case = CASES[encoder]
        forms, facts = forms_of(encoder, case)
        times = interleaved(forms, arguments.repeats)
        name = f"step_cpu {encoder}, {case.images} images of {case.size} px"
        found.append(faster(name, times["ours"], times["torch"], case.target, clock="wall"))
        rates[encoder] = {form: case.images / one.wall for form, one in times.items()}
        limit[encoder] = case.images / (facts["flops"] * seconds_per_flop().wall)
    print(HEADER, " seconds per step on the wall, forward, backward and update")
    for comparison in found:
        print(comparison)
    facts = {"images_per_second": rates, "limit": limit, "repeats": arguments.repeats}
    return finish("step_cpu", found, missing, unit="s", **facts)


if __name__ == "__main__":
    sys.exit(main())
