"""What two random views of an image cost on the device: FLOPs and bytes of the compiled SimCLR augmentation.

    python -m benchmarks.augment_jit [--images 8] [--side 256] [--size 224]

Crop, flip, jitter, gray and blur of uint8 images, as in the train step, counted by the compiler for one view (a loop
over views would be counted once). From the counts follows the least time on an H100, which nothing was run on: the
larger of FLOPs over its float32 peak and bytes over its memory bandwidth, against a ResNet-50 step at 4,000 views/s.
"""

import argparse
import sys

import jax
import jax.numpy as jnp

from benchmarks.report import HEADER, at_most, finish
from xsample_jax.augment.views import make_views
from xsample_jax.config import default_config
from xsample_jax.reports.dry_run import compiled_report

FLOPS_PER_VIEW, BYTES_PER_VIEW = 320e6, 20e6
H100_FLOPS, H100_BYTES = 67e12, 3.0e12  # per second: float32 without tensor cores (data sheet), memory as measured
SHARE, VIEWS_PER_SECOND = 0.03, 4000


def simclr_augmentation(size: int):
    """The `augment` section for SimCLR's views: everything on."""
    augment = default_config().augment
    augment.size, augment.blur = size, 0.5
    return augment


def cost_of_a_view(images: int, side: int, size: int) -> tuple[float, float]:
    """(FLOPs, bytes accessed) of one view, by the compiler's count."""
    augment = simclr_augmentation(size)
    views = jax.jit(lambda image, ids, step: make_views(image, ids, 0, step, augment, 1))
    shapes = [
        jax.ShapeDtypeStruct(shape, dtype)
        for shape, dtype in (((images, side, side, 3), jnp.uint8), ((images,), jnp.int32), ((), jnp.int32))
    ]
    report = compiled_report(views.lower(*shapes).compile())
    return report.flops / images, report.bytes_accessed / images


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--side", type=int, default=256, help="of the images that the host delivers")
    parser.add_argument("--size", type=int, default=224, help="side of the views")
    given = parser.parse_args()
    flops, moved = cost_of_a_view(given.images, given.side, given.size)
    seconds = max(flops / H100_FLOPS, moved / H100_BYTES)
    found = [
        at_most("augment_jit MFLOP per view", flops / 1e6, FLOPS_PER_VIEW / 1e6),
        at_most("augment_jit MB moved per view", moved / 1e6, BYTES_PER_VIEW / 1e6),
        at_most("augment_jit floor on an H100, microseconds per view", 1e6 * seconds, 1e6 * SHARE / VIEWS_PER_SECOND),
    ]
    print(HEADER, " counted by the compiler, and its limit")
    for comparison in found:
        print(comparison)
    return finish("augment_jit", found, unit="MFLOP, MB, us", flops=flops, bytes=moved)


if __name__ == "__main__":
    sys.exit(main())
