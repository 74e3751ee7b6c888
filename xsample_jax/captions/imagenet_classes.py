"""The class texts of ImageNet-1k and their embeddings, shipped with the package.

With them the class_text graph of the X-CLR paper needs no text model. Sources and licences: `imagenet/SOURCE.md`.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from xsample_jax.data.manifest import file_checksum
from xsample_jax.errors import DataError

FOLDER = Path(__file__).parent / "imagenet"
TEMPLATE = "a photo of a {caption}"  # of the paper
FILES = ("classes.tsv", "class_embeddings.npy")


def read_classes(folder: Path = FOLDER) -> list[tuple[str, str]]:
    """(WordNet id, name) of the 1,000 classes, by id: index = the usual label."""
    lines = (folder / "classes.tsv").read_text(encoding="utf-8").splitlines()
    return [tuple(line.split("\t")) for line in lines]


def spelled_out(class_names: Sequence[str]) -> list[str]:
    """Class names as words: where all are WordNet ids of ImageNet, the names of these classes."""
    names = dict(read_classes())
    return [names[name] for name in class_names] if names.keys() >= set(class_names) else list(class_names)


def read_embeddings(folder: Path = FOLDER) -> np.ndarray:
    """float16 [1000, 768], unit rows in the order of `read_classes`; DataError when a file is not what was shipped."""
    about = json.loads((folder / "about.json").read_text())
    for name in FILES:
        if file_checksum(folder / name) != about["sha256"][name]:
            fix = "Install the package again, or rebuild it with xsample_jax.tools.build_class_texts."
            raise DataError(f"SHA-256 of {folder / name}", file_checksum(folder / name), about["sha256"][name], fix)
    return np.load(folder / "class_embeddings.npy")


def imagenet_text_encoder(folder: Path = FOLDER) -> dict:
    """The sentence encoder of `read_embeddings`, as manifests describe one."""
    return json.loads((folder / "about.json").read_text())["text_encoder"]


def imagenet_class_embeddings(class_names: Sequence[str]) -> np.ndarray | None:
    """Embeddings for the classes of a set [classes, 768], or None when one of them is not an ImageNet class.

    Args:
      class_names: WordNet ids or names (in any case), all 1,000 or some of them, in any order.
    """
    row = {}
    for index, (wordnet_id, name) in enumerate(read_classes()):
        row.setdefault(name.lower(), index)
        row[wordnet_id] = index
    rows = [row.get(name.lower()) for name in class_names]
    return None if None in rows or not rows else read_embeddings()[rows]
