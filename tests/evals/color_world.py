"""A small world in which a class is a color: images in the official layouts, and an encoder that sees colors."""

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from tests.tiny import tiny_config
from xsample_jax.data.class_texts import read_classes
from xsample_jax.data.dataset import eval_batches
from xsample_jax.data.writer import write_records
from xsample_jax.evals.features import Features
from xsample_jax.evals.robust_sets import VARIANTS

WORDNET_IDS = [wordnet_id for wordnet_id, _ in read_classes()]
# ImageNet number -> color. 6, 11, 151, 207, 47, 402, 407, 954 are in ImageNet-A; 409 and 530 are one ObjectNet folder.
COLORS = {
    0: (250, 10, 10),
    6: (10, 250, 10),
    11: (10, 10, 250),
    47: (250, 250, 10),
    151: (250, 10, 250),
    207: (10, 250, 250),
    300: (10, 10, 10),
    402: (250, 250, 250),
    407: (130, 10, 10),
    409: (10, 130, 250),
    530: (130, 250, 130),
    954: (250, 130, 130),
}
ORDER = [954, 6, 407, 0, 530, 151, 11, 409, 300, 47, 402, 207]  # label -> ImageNet number: not sorted


def image(path: Path, number: int, side: int = 12, border: tuple | None = None) -> None:
    """Writes an image in the color of a class; with a border of two pixels in another color."""
    path.parent.mkdir(parents=True, exist_ok=True)
    inner = Image.new("RGB", (side, side + 4), COLORS[number])
    if border is not None:
        framed = Image.new("RGB", (side + 4, side + 8), border)
        framed.paste(inner, (2, 2))
        inner = framed
    inner.save(path)


def encode(images: np.ndarray) -> np.ndarray:
    """uint8 [n, s, s, 3] -> features [n, 9]: mean color and its products."""
    x = images.reshape(len(images), -1, 3).mean(axis=1) / 255
    return np.concatenate([x, x**2, x * np.roll(x, 1, axis=1)], axis=1).astype(np.float32)


class ColorStore:
    """What evaluators ask of a FeatureStore. Labels are places in ORDER."""

    def __init__(self, side: int = 8):
        self._side, self.encodings = side, []

    def __call__(self, split: str, background=None) -> Features:
        rng = np.random.default_rng(len(split))
        label = np.repeat(np.arange(len(ORDER)), 10)
        color = np.array([COLORS[ORDER[place]] for place in label])[:, None, None]
        images = np.clip(color + rng.normal(scale=6, size=(len(label), 1, 1, 3)), 0, 255)
        return Features(encode(images), None, np.arange(len(label)), label)

    def side(self, whole: bool = False) -> int:
        return self._side

    def encoded(self, examples, title: str, whole: bool = False) -> Features:
        self.encodings.append((title, whole))
        images = np.concatenate([batch["image"][batch["mask"]] for batch in eval_batches(examples, 4, threads=1)])
        assert images.shape[1:] == (self._side, self._side, 3)
        return Features(encode(images), None, np.arange(len(images)), np.full(len(images), -1))


def write_colors(folder: Path, of_each: int = 3) -> None:
    """A dataset of images in nearly the colors of the classes, with splits train and val."""
    rng, splits = np.random.default_rng(0), {"train": [], "val": []}
    for number in range(2 * of_each * len(ORDER)):
        label = number % len(ORDER)
        shade = np.clip(np.array(COLORS[ORDER[label]]) + rng.integers(-6, 7, 3), 0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(np.tile(shade, (16, 16, 1))).save(file, "png")
        split = "train" if number < of_each * len(ORDER) else "val"
        splits[split].append({"id": number, "image": file.getvalue(), "label": label})
    write_records(folder, "colors", splits, [WORDNET_IDS[number] for number in ORDER])


def color_config(folder: Path):
    """A config whose dataset is written to `folder`: what checks read."""
    write_colors(folder, of_each=1)
    return tiny_config(data__source="records", data__path=str(folder), eval__suite="none", eval__split="val")


FOLDERS_9 = (
    "dog",
    "bird",
    "wheeled vehicle",
    "reptile",
    "carnivore",
    "insect",
    "musical instrument",
    "primate",
    "fish",
)


def write_sets(root):
    """All sets in their layouts. The color is what the probe will say; the folder is the truth."""
    by_id = lambda folder, truth, name, said: image(root / folder / WORDNET_IDS[truth] / name, said)  # noqa: E731
    # ImageNet: 6 images, 4 right.
    said = {1: (0, 0), 2: (0, 6), 3: (11, 11), 4: (11, 407), 5: (954, 954), 6: (409, 409)}
    for number, (truth, color) in said.items():
        by_id("imagenet/val", truth, f"ILSVRC2012_val_{number:08d}.JPEG", color)
    # ReaL: 2 gets a label that the probe says, 3 loses its own, 5 has none: 4 right of 5 (1, 2, 6 and 4 by 407).
    (root / "real.json").write_text(json.dumps([[0], [0, 6], [207], [11, 407], [], [409]]))
    # V2: 3 of 4, folders by number.
    for place, (truth, color) in enumerate([(0, 0), (11, 11), (954, 954), (407, 409)]):
        image(root / "imagenetv2-matched-frequency-format-val" / str(truth) / f"{place}.jpeg", color)
    # A: tench (0) and clock (409) are none of its 200 classes. An image between tench and stingray is a stingray then.
    for place, (truth, color) in enumerate([(6, 6), (11, 207), (151, 151), (402, 402)]):
        by_id("imagenet-a", truth, f"{place}.jpg", color)
    for place, (truth, color) in enumerate([(11, 11), (151, 47)]):
        by_id("imagenet-r", truth, f"art_{place}.jpg", color)
    for place, (truth, color) in enumerate([(0, 0), (954, 407), (530, 6)]):
        by_id("sketch", truth, f"sketch_{place}.JPEG", color)
    # ImageNet-9: another dog counts, a clock (no superclass) and a bird do not.
    for variant in VARIANTS:
        for place, (truth, color) in enumerate([(0, 151), (0, 207), (0, 11), (1, 11), (8, 0), (8, 409)]):
            if variant == "mixed_rand" and place == 4:
                color = 407
            image(root / "bg_challenge" / variant / "val" / f"{truth:02d}_{FOLDERS_9[truth]}" / f"{place}.JPEG", color)
    # ObjectNet: alarm_clock is both clocks; an unknown folder is not looked at; the border is red, which would be 0.
    red = COLORS[0]
    for place, (folder, color) in enumerate(
        [("alarm_clock", 409), ("alarm_clock", 530), ("banana", 954), ("banana", 0), ("air_freshener", 954)]
    ):
        image(root / "objectnet-1.0" / "images" / folder / f"{place}.png", color, side=8, border=red)
