"""The X-CLR train step on one GPU: views per second and MFU, against the same step by torch.compile on the same card.

    python -m benchmarks.gpu_step --encoder resnet50 [--tiny]

Both do encoder, head, loss, gradient and AdamW in bfloat16 on views that are whole images, from the same weights;
losses of two steps are compared before anything is timed. --tiny: a size for a CPU, in float32, the peer not compiled.
"""

import argparse
import importlib.util
import sys

import jax
import numpy as np

from benchmarks.gpu_timing import seconds_in_turn
from benchmarks.our_step import OurStep, step_config
from benchmarks.report import HEADER, Comparison, finish, less_is_better
from xsample_jax.metrics.profiling import model_flops, peak_flops

IMAGES = {"resnet50": 256, "vit_b": 128}  # of a batch, two views each
TARGETS = {"resnet50": ("views/s", 4000.0), "vit_b": ("MFU, %", 45.0)}  # on an H100
TINY = {"resnet50": ("resnet18", 8, 32), "vit_b": ("vit_ti", 4, 32)}
# With --tiny compiling on a CPU is what takes long.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
ALIKE = {"float32": 1e-4, "bfloat16": 5e-3}  # relative difference of the losses


def config_of(encoder: str, tiny: bool):
    name, images, size = TINY[encoder] if tiny else (encoder, IMAGES[encoder], 224)
    changes = {"model.patch_size": 16, "precision.compute": "float32" if tiny else "bfloat16"}
    if tiny:
        changes["model.head.hidden"] = (64,)
    return step_config(name, images, size, **changes)


def torch_form(ours: OurStep, tiny: bool):
    from benchmarks.gpu_torch import DEVICE, wait

    return ours.by_torch(DEVICE, compiled=not tiny), wait


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", choices=list(IMAGES), default="resnet50")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="a size for a CPU")
    given = parser.parse_args()
    config = config_of(given.encoder, given.tiny)
    device = jax.devices()[0].device_kind
    print(f"{config.model.encoder}, {config.batch_size} images, {config.precision.compute}, {device}")
    ours = OurStep(config, QUICK if given.tiny else None)
    forms = {"ours": (ours, jax.block_until_ready)}
    has_torch = all(importlib.util.find_spec(name) for name in ("torch", "timm"))
    if has_torch:
        step, wait = torch_form(ours, given.tiny)
        for number in (1, 2):
            found, expected = float(ours()["loss"]), float(step())
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
