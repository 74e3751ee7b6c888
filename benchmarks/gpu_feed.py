"""What feeds the train step on one GPU: the cost of making views there, and whether JPEGs on the disk keep up with it.

    python -m benchmarks.gpu_feed [--tiny]

SimCLR's augmentation alone, per view, against a ResNet-50 step at 4,000 views/s; then the step on batches that are
read, decoded and transferred while it runs, against the same step on one batch that is there already.
"""

import argparse
import contextlib
import sys
import tempfile

import jax
import numpy as np

from benchmarks.gpu_step import QUICK, config_of
from benchmarks.gpu_timing import seconds_in_turn
from benchmarks.prepare_cpu import photograph
from benchmarks.report import HEADER, at_most, finish
from xsample_jax.augment.views import make_views
from xsample_jax.config import resolve
from xsample_jax.data.dataset import open_dataset, train_batches
from xsample_jax.data.records import open_records
from xsample_jax.data.writer import write_records
from xsample_jax.reports.dry_run import placeholder_setup
from xsample_jax.sharding import to_global

SHARE, VIEWS_PER_SECOND = 0.03, 4000  # augmentation may take this share of a step at this speed
WAIT = 1.05  # reading may make a step this much longer
CAPTIONS = {
    "name": "random",
    "revision": "1",
    "pooling": "mean",
    "dim": 768,
    "normalized": True,
    "template": "{caption}",
}


def with_augmentation(tiny: bool):
    config = config_of("resnet50", tiny).copy_and_resolve_references()
    with config.unlocked():
        config.augment.update(crop_scale=(0.08, 1.0), flip=0.5, jitter=0.8, gray=0.2, blur=0.5)
        config.data.image_size = 64 if tiny else 256
    return resolve(config)


def write_photographs(folder: str, count: int, different: int) -> None:
    """Records of JPEGs of 341 x 256, as `tools.prepare` leaves them, with random captions."""
    rng = np.random.default_rng(0)
    images = [photograph(seed, 341, 256) for seed in range(different)]

    def record(number):
        embeddings = rng.normal(size=(1, 768)).astype(np.float16)
        captions = {"captions": [f"photograph {number}"], "caption_embeddings": embeddings}
        return {"id": number, "image": images[number % different], "label": number % 2, "attributes": {}} | captions

    write_records(folder, "photographs", {"train": map(record, range(count))}, ["even", "odd"], {}, CAPTIONS)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="a size for a CPU")
    given = parser.parse_args()
    config = with_augmentation(given.tiny)
    found = []
    images = np.random.default_rng(0).integers(0, 256, (config.batch_size, *[config.data.image_size] * 2, 3), np.uint8)
    images, ids = jax.device_put((images, np.arange(config.batch_size, dtype=np.int32)))
    views = jax.jit(lambda step: make_views(images, ids, 0, step, config.augment, config.views))
    seconds = seconds_in_turn({"views": (lambda: views(1), jax.block_until_ready)}, given.repeats)["views"]
    microseconds = 1e6 * seconds / (config.views * config.batch_size)
    found.append(at_most("gpu_feed augmentation, us per view", microseconds, 1e6 * SHARE / VIEWS_PER_SECOND))
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(folder, 4 * config.batch_size, 4 if given.tiny else 64)
        source = open_records(folder, "train")
        parts = placeholder_setup(config, jax.devices()[:1])
        fields = frozenset(parts.abstract_batch) - {"image", "id"}
        examples = open_dataset(config, "train", fields, source)
        with contextlib.closing(train_batches(examples, config, 0)) as batches:

            def fetched():
                batch = next(batches)
                return to_global({name: batch[name] for name in parts.abstract_batch}, parts.mesh)

            state, there = parts.new_state(), fetched()
            lowered = parts.train_step.lower(parts.abstract_state, parts.abstract_batch)
            compiled = lowered.compile(compiler_options=QUICK if given.tiny else None)

            def step(batch):
                nonlocal state
                state, metrics = compiled(state, batch)
                return metrics["loss"]

            forms = {
                "fed": (lambda: step(fetched()), jax.block_until_ready),
                "there": (lambda: step(there), jax.block_until_ready),
            }
            forms |= {"reading alone": (fetched, jax.block_until_ready)}
            seconds = seconds_in_turn(forms, given.repeats, calls=4)
    found.append(at_most("gpu_feed step on read batches / on one batch", seconds["fed"] / seconds["there"], WAIT))
    print(HEADER)
    for comparison in found:
        print(comparison)
    rates = {name: config.batch_size / took for name, took in seconds.items()}
    print("; ".join(f"{name}: {rate:,.0f} images/s" for name, rate in rates.items()))
    finish("gpu_feed", found, unit="us, ratio", tiny=given.tiny, images_per_second=rates, us_per_view=microseconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
