"""How fast raw images become records on one core, against the same libraries called bare, and in how much memory.

    python -m benchmarks.prepare_cpu [--images 150]

The bare loop decodes, resizes and encodes images that are in memory; ours also reads the tar, checks, hashes, splits
and writes records. Interleaved repeats in CPU-seconds, the least of each. Memory is the peak of a fresh process.
"""

import argparse
import io
import json
import pathlib
import subprocess
import sys
import tarfile
import tempfile

import numpy as np
import simplejpeg
from PIL import Image, ImageFilter

from benchmarks.report import HEADER, at_most, faster, finish
from benchmarks.timing import interleaved
from xsample_jax.prepare.example import Fields
from xsample_jax.prepare.job import ImageOptions, Job
from xsample_jax.prepare.shards import prepare_shard
from xsample_jax.prepare.webdataset import webdataset_source

SIZE, QUALITY = 256, 92
REPEATS = 2  # of each image in the tar: what is done once per tar should not count


def photograph(seed: int, width: int = 500, height: int = 375) -> bytes:
    """A JPEG of about 50 kB: smooth colors with grain, as large as a typical photograph of ImageNet."""
    rng = np.random.default_rng(seed)
    smooth = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize((width, height))
    grain = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    Image.blend(smooth, grain.filter(ImageFilter.GaussianBlur(1)), 0.35).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write_tar(path: pathlib.Path, images: list[bytes], count: int) -> None:
    with tarfile.open(path, "w") as tar:
        for number in range(count):
            row = json.dumps({"caption": f"caption {number}"}).encode()
            for suffix, data in (("jpg", images[number % len(images)]), ("json", row)):
                info = tarfile.TarInfo(f"{number:09d}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def bare(images: list[bytes]) -> None:
    for data in images:
        image = Image.fromarray(simplejpeg.decode_jpeg(data, "RGB", min_height=2 * SIZE, min_width=2 * SIZE))
        scale = SIZE / min(image.size)
        image = image.resize([round(side * scale) for side in image.size], Image.Resampling.BILINEAR)
        simplejpeg.encode_jpeg(np.ascontiguousarray(image), QUALITY, "RGB", "420")


def ours(tar: pathlib.Path, size: int) -> None:
    job = Job("t", webdataset_source(str(tar), Fields()), {"train": 0.9, "val": 0.1}, ImageOptions(size, QUALITY))
    with tempfile.TemporaryDirectory() as folder:
        prepare_shard(job, 0, folder)


def peak_mib(tar: pathlib.Path) -> float:
    """Peak memory in MiB of a process that prepares a tar."""
    code = (
        "import pathlib, resource, sys\n"
        "from benchmarks.prepare_cpu import SIZE, ours\n"
        "ours(pathlib.Path(sys.argv[1]), SIZE)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tar)], capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=150)
    count = parser.parse_args().images
    images = [photograph(seed) for seed in range(count)]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write_tar(folder / "a.tar", images, REPEATS * count)
        forms = {
            "shrinking": lambda: ours(folder / "a.tar", SIZE),
            "libraries": lambda: bare(REPEATS * images),
            "keeping": lambda: ours(folder / "a.tar", 400),
        }
        times = interleaved(forms, 5)
        small = [photograph(seed, 80, 60) for seed in range(50)]
        for number in (1_000, 10_000):
            write_tar(folder / f"{number}.tar", small, number)
        few, many = (peak_mib(folder / f"{number}.tar") for number in (1_000, 10_000))
    comparisons = [
        faster("prepare_cpu shrunk to 256", times["shrinking"], times["libraries"], 0.9),
        at_most("prepare_cpu peak MiB at 10,000 images against 1,000 + 16", many, few + 16),
    ]
    print(HEADER, *comparisons, sep="\n")
    return finish(
        "prepare_cpu",
        comparisons,
        unit="CPU-seconds, MiB",
        images_per_second=REPEATS * count / times["shrinking"].cpu,
        images_per_second_kept=REPEATS * count / times["keeping"].cpu,
        bytes_in=float(np.mean([len(data) for data in images])),
        peak_mib=[few, many],
    )


if __name__ == "__main__":
    sys.exit(main())
