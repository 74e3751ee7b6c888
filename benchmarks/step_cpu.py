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

import jax
import numpy as np

from benchmarks.gemm import seconds_per_flop
from benchmarks.report import HEADER, faster, finish, lacking
from benchmarks.timing import interleaved
from xsample_jax.config import default_config, resolve
from xsample_jax.data_facts import STAND_IN
from xsample_jax.mesh import make_mesh, to_global
from xsample_jax.metrics.flops import model_flops
from xsample_jax.parts import Parts


@dataclasses.dataclass(frozen=True)
class Case:
    """Side of the images, images of a batch (two views each), and how many times torch's speed is wanted."""

    size: int
    images: int
    target: float


CASES = {"resnet18": Case(64, 16, 0.8), "resnet50": Case(64, 8, 0.9), "vit_s": Case(224, 4, 0.8)}
SAME_LOSS = {1: 1e-4, 2: 1e-2}  # relative, by step: Adam's first update is the sign of the gradient, rounding and all
SAME_NORM = 1e-2  # batch norms over the few pixels of the last stage amplify rounding


def config_of(encoder: str, case: Case):
    config = default_config()
    config.steps, config.batch_size = 1000, case.images
    config.model.encoder = encoder
    config.augment.update(size=case.size, crop_scale=(), flip=0.0, jitter=0.0, grey=0.0)
    config.data.image_size = case.size
    config.optimizer.update(warmup=0.0, schedule="constant", learning_rate=1e-4, weight_decay=0.1)
    return resolve(config)


def batch_of(case: Case) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    # Captions that share a part, as those of real images do: the targets spread over the batch, the loss is about one.
    captions = rng.normal(size=STAND_IN.caption_dim) + 0.5 * rng.normal(size=(case.images, STAND_IN.caption_dim))
    smooth = rng.integers(0, 256, (case.images, 8, 8, 3), dtype=np.uint8)
    return {
        "image": smooth.repeat(case.size // 8, axis=1).repeat(case.size // 8, axis=2),
        "id": np.arange(case.images, dtype=np.int32),
        "label": np.full(case.images, -1, np.int32),
        "caption_embedding": captions.astype(np.float16),
    }


def with_open_branches(params: dict) -> dict:
    """Scales that start at zero would switch off the residual branches, and a comparison would not see them."""
    return {name: value + 0.5 * (value == 0) if name.endswith("/scale") else value for name, value in params.items()}


def forms_of(encoder: str, case: Case) -> tuple[dict, dict]:
    """({"ours": function, "torch": function}, facts), after both were found to do the same."""
    from benchmarks.torch_step import TorchStep

    config, host = config_of(encoder, case), batch_of(case)
    parts = Parts(config, STAND_IN, make_mesh(config.mesh, config.batch_size, jax.devices()[:1]))
    batch = to_global({name: host[name] for name in parts.abstract_batch}, parts.mesh)
    state = parts.new_state()
    state = dataclasses.replace(state, params=with_open_branches(state.params))
    network = parts.model.merge(state.params, state.statistics, training=True)
    captions = host["caption_embedding"].astype(np.float32)
    arrays = {name: np.asarray(value) for name, value in {**state.params, **state.statistics}.items()}
    theirs = TorchStep(config, network.encoder, arrays, host["image"], captions)
    compiled = parts.train_step.lower(parts.abstract_state, parts.abstract_batch).compile()
    metrics = {}

    def ours() -> float:
        nonlocal state, metrics
        state, metrics = compiled(state, batch)
        return float(metrics["loss"])

    for step in (1, 2):
        found, expected = ours(), float(theirs())
        norm = float(sum(p.grad.square().sum() for p in theirs.model.parameters() if p.grad is not None) ** 0.5)
        print(
            f"    {encoder} step {step}: loss {found:.6f} and {expected:.6f}, "
            f"norm of the gradient {float(metrics['gradient_norm']):.5f} and {norm:.5f}"
        )
        np.testing.assert_allclose(found, expected, rtol=SAME_LOSS[step], err_msg=f"{encoder}, loss of step {step}")
        if step == 1:
            np.testing.assert_allclose(metrics["gradient_norm"], norm, rtol=SAME_NORM, err_msg=f"{encoder}, gradient")
    return {"ours": ours, "torch": theirs}, {"flops": model_flops(parts)}


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
