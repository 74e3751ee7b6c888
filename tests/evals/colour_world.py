"""A small world in which a class is a colour: pictures in the official layouts, and an encoder that sees colours."""

import types
from pathlib import Path

import numpy as np
from PIL import Image

from xsample_jax.captions.imagenet_classes import read_classes
from xsample_jax.data.record_writer import write_records
from xsample_jax.evals.features import Features

WORDNET_IDS = [wordnet_id for wordnet_id, _ in read_classes()]
# ImageNet number -> colour. 6, 11, 151, 207, 47, 402, 407, 954 are in ImageNet-A; 409 and 530 are one ObjectNet folder.
COLOURS = {
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


def picture(path: Path, number: int, side: int = 12, border: tuple | None = None) -> None:
    """Writes a picture in the colour of a class; with a border of two pixels in another colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    inner = Image.new("RGB", (side, side + 4), COLOURS[number])
    if border is not None:
        framed = Image.new("RGB", (side + 4, side + 8), border)
        framed.paste(inner, (2, 2))
        inner = framed
    inner.save(path)


def encode(images: np.ndarray) -> np.ndarray:
    """uint8 [n, s, s, 3] -> features [n, 9]: mean colour and its products."""
    x = images.reshape(len(images), -1, 3).mean(axis=1) / 255
    return np.concatenate([x, x**2, x * np.roll(x, 1, axis=1)], axis=1).astype(np.float32)


class ColourStore:
    """What evaluators ask of a FeatureStore. Labels are places in ORDER."""

    def __init__(self, side: int = 8):
        self._side, self.encodings = side, []

    def __call__(self, split: str, background=None) -> Features:
        rng = np.random.default_rng(len(split))
        label = np.repeat(np.arange(len(ORDER)), 10)
        colour = np.array([COLOURS[ORDER[place]] for place in label])[:, None, None]
        images = np.clip(colour + rng.normal(scale=6, size=(len(label), 1, 1, 3)), 0, 255)
        return Features(encode(images), None, np.arange(len(label)), label)

    def side(self, whole: bool = False) -> int:
        return self._side

    def encoded(self, examples, title: str, whole: bool = False) -> Features:
        self.encodings.append((title, whole))
        images = np.stack([examples[index]["image"] for index in range(len(examples))])
        assert images.shape[1:] == (self._side, self._side, 3)
        return Features(encode(images), None, np.arange(len(images)), np.full(len(images), -1))


def colour_config(folder: Path):
    """A config whose record set is written to `folder`: what checks read."""
    record = {"image": b"never decoded", "label": 0}
    splits = {"train": [record | {"id": 0}], "val": [record | {"id": 1}]}
    write_records(folder, "colours", splits, [WORDNET_IDS[number] for number in ORDER])
    data = types.SimpleNamespace(source="records", path=str(folder), fingerprint=None)
    return types.SimpleNamespace(data=data, eval=types.SimpleNamespace(split="val", train_split="train"))
