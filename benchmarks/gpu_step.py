"""The X-CLR train step on one GPU: views per second and MFU, against the same step by torch.compile on the same card.

    python -m benchmarks.gpu_step --encoder resnet50 [--tiny]

Both do encoder, head, loss, gradient and AdamW in bfloat16 on views that are whole images, from the same weights;
losses of two steps are compared before anything is timed. --tiny: a size for a CPU, in float32, the peer not compiled.
"""

import argparse
import dataclasses
import importlib.util
import sys

import jax
import numpy as np

from benchmarks.gpu_timing import seconds_in_turn
from benchmarks.report import HEADER, Comparison, finish, less_is_better
from xsample_jax.config import default_config, resolve
from xsample_jax.data_facts import STAND_IN
from xsample_jax.mesh import make_mesh, to_global
from xsample_jax.metrics.flops import model_flops
from xsample_jax.metrics.hardware import peak_flops
from xsample_jax.parts import Parts

IMAGES = {"resnet50": 256, "vit_b": 128}  # of a batch, two views each
TARGETS = {"resnet50": ("views/s", 4000.0), "vit_b": ("MFU, %", 45.0)}  # on an H100
TINY = {"resnet50": ("resnet18", 8, 32), "vit_b": ("vit_ti", 4, 32)}
# With --tiny compiling on a CPU is what takes long.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
ALIKE = {"float32": 1e-4, "bfloat16": 5e-3}  # relative difference of the losses


def config_of(encoder: str, tiny: bool):
    config = default_config()
    name, images, size = TINY[encoder] if tiny else (encoder, IMAGES[encoder], 224)
    config.steps, config.batch_size, config.model.encoder, config.model.patch_size = 1000, images, name, 16
    if tiny:
        config.model.head.hidden = (64,)
    config.augment.update(size=size, crop_scale=(), flip=0.0, jitter=0.0, grey=0.0)
    config.data.image_size = size
    config.precision.compute = "float32" if tiny else "bfloat16"
    config.optimizer.update(warmup=0.0, schedule="constant", learning_rate=1e-4, weight_decay=0.1)
    return resolve(config)


def random_batch(config) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    count, size = config.batch_size, config.augment.size
    smooth = rng.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return {
        "image": smooth.repeat(size // 8, axis=1).repeat(size // 8, axis=2),
        "id": np.arange(count, dtype=np.int32),
        "label": np.full(count, -1, np.int32),
        "caption_embedding": rng.normal(size=(count, STAND_IN.caption_dim)).astype(np.float16),
    }


class OurStep:
    """Callable that takes one step and returns the loss, an array."""

    def __init__(self, config, tiny: bool):
        self.parts = Parts(config, STAND_IN, make_mesh(config.mesh, config.batch_size, jax.devices()[:1]))
        self.host = random_batch(config)
        self.batch = to_global({name: self.host[name] for name in self.parts.abstract_batch}, self.parts.mesh)
        state = self.parts.new_state()
        # Scales that start at zero would switch residual branches off, and the comparison would not see them.
        params = {k: v + 0.5 * (v == 0) if k.endswith("/scale") else v for k, v in state.params.items()}
        self.state = dataclasses.replace(state, params=params)
        lowered = self.parts.train_step.lower(self.parts.abstract_state, self.parts.abstract_batch)
        self.compiled = lowered.compile(compiler_options=QUICK if tiny else None)

    def __call__(self):
        self.state, metrics = self.compiled(self.state, self.batch)
        return metrics["loss"]


def torch_form(ours: OurStep, tiny: bool):
    from benchmarks.gpu_torch import DEVICE, wait
    from benchmarks.torch_step import TorchStep

    config, state = ours.parts.config, ours.state
    network = ours.parts.model.merge(state.params, state.statistics, training=True)
    arrays = {name: np.asarray(value) for name, value in {**state.params, **state.statistics}.items()}
    captions = ours.host["caption_embedding"].astype(np.float32)
    return TorchStep(config, network.encoder, arrays, ours.host["image"], captions, DEVICE, compiled=not tiny), wait


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", choices=list(IMAGES), default="resnet50")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="a size for a CPU")
    given = parser.parse_args()
    config = config_of(given.encoder, given.tiny)
    device = jax.devices()[0].device_kind
    print(f"{config.model.encoder}, {config.batch_size} images, {config.precision.compute}, {device}")
    ours = OurStep(config, given.tiny)
    forms = {"ours": (ours, jax.block_until_ready)}
    has_torch = all(importlib.util.find_spec(name) for name in ("torch", "timm"))
    if has_torch:
        step, wait = torch_form(ours, given.tiny)
        for number in (1, 2):
            found, expected = float(ours()), float(step())
            print(f"step {number}: loss {found:.5f}, torch {expected:.5f}")
            np.testing.assert_allclose(found, expected, rtol=ALIKE[config.precision.compute], err_msg=f"step {number}")
        forms["torch"] = (step, lambda _: wait())
    else:
        print("torch or timm is not installed: no peer")
    if given.tiny:
        print("tiny: the peer is not compiled, and nothing here says how fast either is on a GPU")
    seconds = seconds_in_turn(forms, given.repeats, calls=3)
    views = config.batch_size * config.views
    flops, peak = model_flops(ours.parts), peak_flops(jax.devices()[:1])
    rates = {"views/s": views / seconds["ours"], "MFU, %": 100 * flops / seconds["ours"] / peak if peak else None}
    unit, target = TARGETS[given.encoder]
    found = []
    if rates[unit] is not None and not given.tiny:
        found.append(Comparison(f"gpu_step {given.encoder}, {unit}", rates[unit], target, rates[unit] / target, 1.0))
    if has_torch:
        found.append(less_is_better(f"gpu_step {given.encoder}, s / torch", seconds["ours"], seconds["torch"], 1.0))
    print(HEADER)
    for comparison in found:
        print(comparison)
    print(f"MFU {rates['MFU, %'] and round(rates['MFU, %'], 1)} %, {rates['views/s']:.0f} views/s")
    memory = ours.compiled.memory_analysis()
    finish(
        f"gpu_step {given.encoder}",
        found,
        unit="s",
        tiny=given.tiny,
        seconds=seconds,
        rates=rates,
        flops=flops,
        images=config.batch_size,
        temporaries_gib=memory.temp_size_in_bytes / 2**30,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
