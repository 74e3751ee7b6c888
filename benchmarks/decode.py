"""Images per second and core from JPEG bytes to pixels, and to the square that the pipeline delivers.

    python -m benchmarks.decode [--images 40] [--repeats 5]

Photographs of 500 x 375 (as ImageNet's) and of 341 x 256 (as `prepare` leaves them). The peers are Pillow and OpenCV;
the squares are the short side resized to 256 and the center taken. Ours write where the next image will, as in the
pipeline every image goes to its place in the batch. CPU-seconds, so that the figure is one of a core.
"""

import argparse
import functools
import io
import sys
from collections.abc import Callable

import numpy as np
from PIL import Image

from benchmarks.prepare_cpu import photograph
from benchmarks.report import HEADER, Comparison, faster, finish, lacking
from benchmarks.timing import interleaved
from xsample_jax.data.decode import decode_image, open_image

SIDE = 256
SIZES = {"500 x 375": (500, 375), "341 x 256": (341, 256)}
# What is done -> {peer: how many times its speed is wanted at each size}.
TARGETS = {
    "pixels": {"Pillow": (2.2, 1.3), "OpenCV": (1.1, 1.0)},
    "a square of 256": {"Pillow": (2.0, 1.2), "OpenCV": (1.1, 0.9)},
}
# Largest mean difference in levels of 0..255. Decoders round differently; OpenCV shrinks with another filter.
NEAR = {"pixels": 1.0, "a square of 256": 3.0}


def by_pillow(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image.convert("RGB")


def square_by_pillow(data: bytes) -> np.ndarray:
    image = by_pillow(data)
    short = min(image.size)
    left, top = (image.width - short) // 2, (image.height - short) // 2
    box = (left, top, left + short, top + short)
    if short == SIDE:
        return np.asarray(image.crop(box))
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box))


def by_opencv(data: bytes) -> np.ndarray:
    import cv2

    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)


def square_by_opencv(data: bytes) -> np.ndarray:
    import cv2

    pixels = by_opencv(data)
    height, width = pixels.shape[:2]
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    pixels = pixels[top : top + short, left : left + short]
    return pixels if short == SIDE else cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def ways(opencv: bool) -> dict[str, dict[str, Callable]]:
    """What is done -> {who: function of the bytes}."""
    found = {
        "pixels": {"ours": functools.partial(open_image, size=SIDE, reuse=True), "Pillow": by_pillow},
        "a square of 256": {
            "ours": functools.partial(decode_image, size=SIDE, channels=3, out=np.empty((SIDE, SIDE, 3), np.uint8)),
            "Pillow": square_by_pillow,
        },
    }
    if opencv:
        found["pixels"]["OpenCV"] = by_opencv
        found["a square of 256"]["OpenCV"] = square_by_opencv
    return found


def compare(images: int, repeats: int, opencv: bool) -> tuple[list[Comparison], dict]:
    """Comparisons in seconds per image, and images per second and core {what, size: {who: rate}}."""
    found, rates = [], {}
    for place, (size, shape) in enumerate(SIZES.items()):
        photographs = [photograph(seed, *shape) for seed in range(images)]
        for what, forms in ways(opencv).items():
            for name, form in forms.items():
                off = np.abs(np.int16(form(photographs[0])) - np.int16(forms["ours"](photographs[0]))).mean()
                assert off <= NEAR[what], f"{name}, {what}: {off:.2f} levels off"
            loops = {
                name: functools.partial(lambda form, data: [*map(form, data)], form, photographs)
                for name, form in forms.items()
            }
            times = {name: one.scaled(1 / images) for name, one in interleaved(loops, repeats).items()}
            rates[f"{what} of {size}"] = {name: 1 / one.cpu for name, one in times.items()}
            found += [
                faster(f"decode {size} to {what}, {name}", times["ours"], times[name], TARGETS[what][name][place])
                for name in times
                if name != "ours"
            ]
    return found, rates


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    missing = lacking("cv2")
    if not missing:
        import cv2

        cv2.setNumThreads(1)
    found, rates = compare(given.images, given.repeats, not missing)
    print(HEADER, " CPU-seconds per image")
    for comparison in found:
        print(comparison)
    facts = {"images_per_second_and_core": rates, "repeats": given.repeats}
    return finish("decode", found, missing, unit="CPU-seconds", **facts)


if __name__ == "__main__":
    sys.exit(main())
