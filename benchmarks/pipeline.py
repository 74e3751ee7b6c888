"""Two SimCLR views of every image from JPEGs on the disk: our pipeline against a torch DataLoader with torchvision.

    python -m benchmarks.pipeline [--images 64] [--repeats 5]

Ours decodes in threads to uint8 squares of 256, which is what travels to the device, and makes the views there, in one
jitted program. "delivered" is the host's part alone; in "views made" the device is this very CPU, which is hard on us:
a GPU or TPU would do it beside the step. The peer does everything in PIL on the host, with the blur of torchvision or
with PIL's own, in this process without workers (they would only add to its CPU time). CPU-seconds of all threads per
image. Before timing, the images are compared with the random part switched off.
"""

import argparse
import contextlib
import io
import sys
import tempfile

import jax
import numpy as np
from PIL import Image, ImageFilter

from benchmarks.augment_jit import simclr_augmentation
from benchmarks.prepare_cpu import photograph
from benchmarks.report import HEADER, Comparison, faster, finish, lacking
from benchmarks.timing import Times, interleaved
from xsample_jax.augment.views import make_views
from xsample_jax.data import dataset as records_dataset
from xsample_jax.data.records import open_records
from xsample_jax.data.writer import write_records

SIDE, SIZE, BATCH = 256, 224, 16
COPIES = 8  # of each photograph in the records: threads start and caches fill once per pass, which should not count
SIZES = {"500 x 375": (500, 375), "341 x 256, prepared": (341, 256)}
# (what of ours, of which records, against which blur) -> how many times the speed is wanted.
TARGETS = {
    ("delivered", "500 x 375", "PIL blur"): 10.0,
    ("delivered", "500 x 375", "torchvision blur"): 50.0,
    ("delivered", "341 x 256, prepared", "PIL blur"): 20.0,
    ("views made", "500 x 375", "PIL blur"): 1.0,
    ("views made", "500 x 375", "torchvision blur"): 3.0,
}
NEAR = 0.05  # mean difference of normalized views, whose deviation is about 1


def ours(folder: str, then=lambda batch: None):
    """Function that goes once through the records in `folder` and waits for what `then` does with each batch."""
    examples = records_dataset.Dataset(open_records(folder, "train"), SIDE, "first")

    def run():
        # One pass, so that nothing is read ahead before the clock starts or left to do when it stops.
        for batch in records_dataset.eval_batches(examples, BATCH, threads=2):
            assert batch["image"].shape == (BATCH, SIDE, SIDE, 3)
            jax.block_until_ready(then(batch))

    return run


class PilBlur:
    """Gaussian blur by Pillow with a random sigma, as most PyTorch recipes of SimCLR have it."""

    def __init__(self):
        self.random = np.random.default_rng(0)

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(self.random.uniform(0.1, 2.0)))


def peer(photographs: list[bytes], blur: str):
    """Function that goes once through a DataLoader with SimCLR's transformations, two views an image."""
    import torch
    from torchvision import transforms as t

    torch.set_num_threads(1)
    one = t.Compose(
        [
            t.RandomResizedCrop(SIZE),
            t.RandomHorizontalFlip(),
            t.RandomApply([t.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            t.RandomGrayscale(0.2),
            t.RandomApply([PilBlur() if blur == "PIL blur" else t.GaussianBlur(23, (0.1, 2.0))], p=0.5),
            t.ToTensor(),
            t.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )

    class Images(torch.utils.data.Dataset):
        def __len__(self):
            return len(photographs)

        def __getitem__(self, index):
            image = Image.open(io.BytesIO(photographs[index])).convert("RGB")
            return one(image), one(image)

    loader = torch.utils.data.DataLoader(Images(), batch_size=BATCH)

    def run():
        for first, second in loader:
            assert first.shape == second.shape == (BATCH, 3, SIZE, SIZE)

    return run


def check_same_images(data: bytes, image: np.ndarray) -> None:
    """With everything random off, a view of ours is the image that torchvision would deliver."""
    from torchvision import transforms as t

    augment = simclr_augmentation(SIZE)
    augment.update(crop_scale=(), flip=0.0, jitter=0.0, gray=0.0, blur=0.0)
    ours = make_views(image[None], np.zeros(1, np.int32), 0, 0, augment, 1)[0]
    same = t.Compose([t.CenterCrop(min(Image.open(io.BytesIO(data)).size)), t.Resize(SIDE), t.Resize(SIZE)])
    tensor = t.Compose([same, t.ToTensor(), t.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))])
    theirs = tensor(Image.open(io.BytesIO(data)).convert("RGB")).permute(1, 2, 0).numpy()
    off = np.abs(ours - theirs).mean()
    assert off <= NEAR, f"views differ by {off:.3f}"


def compare(images: int, repeats: int) -> tuple[list[Comparison], dict]:
    """Comparisons in seconds per image, and images per second and core {who: rate}."""
    augment = simclr_augmentation(SIZE)
    views = jax.jit(lambda image, ids: make_views(image, ids, 0, 0, augment, 2))
    forms = {}
    with contextlib.ExitStack() as stack:
        for size, shape in SIZES.items():
            photographs = [photograph(seed, *shape) for seed in range(images)]
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            records = [{"id": i, "image": data} for i, data in enumerate(COPIES * photographs)]
            write_records(folder, "photographs", {"train": records})
            forms["delivered", size] = ours(folder)
            if size == "500 x 375":
                check_same_images(
                    photographs[0], records_dataset.Dataset(open_records(folder, "train"), SIDE, "first")[0]["image"]
                )
                forms["views made", size] = ours(folder, lambda batch: views(batch["image"], batch["id"]))
                forms |= {blur: peer(photographs, blur) for blur in ("PIL blur", "torchvision blur")}
        for form in forms.values():
            form()
        copies = {name: 1 if isinstance(name, str) else COPIES for name in forms}
        times: dict[object, Times] = {
            name: one.scaled(1 / images / copies[name]) for name, one in interleaved(forms, repeats).items()
        }
    found = [
        faster(f"pipeline {what}, {size}, {blur}", times[what, size], times[blur], target)
        for (what, size, blur), target in TARGETS.items()
    ]
    names = {name: name if isinstance(name, str) else ", ".join(name) for name in times}
    return found, {names[name]: 1 / one.cpu for name, one in times.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=32, help=f"a multiple of the batch of {BATCH}")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    missing = lacking("torch", "torchvision")
    found, rates = ([], {}) if missing else compare(given.images, given.repeats)
    print(HEADER, " CPU-seconds per image")
    for comparison in found:
        print(comparison)
    facts = {"images_per_second_and_core": rates, "repeats": given.repeats}
    return finish("pipeline", found, missing, unit="CPU-seconds", **facts)


if __name__ == "__main__":
    sys.exit(main())
