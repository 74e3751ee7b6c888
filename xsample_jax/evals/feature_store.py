"""The features of the splits of one state, each extracted once and shared by all evaluators."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import jax
import numpy as np

from xsample_jax.augment.backgrounds import choose_donors, from_images, random_colors
from xsample_jax.augment.ids import ids_of
from xsample_jax.data.dataset import Dataset, eval_batches, open_evaluated
from xsample_jax.errors import lookup
from xsample_jax.evals.features import Features, extract_features
from xsample_jax.metrics.progress_bar import progress
from xsample_jax.setup import RunSetup
from xsample_jax.sharding import gather_rows, process_rows, to_global
from xsample_jax.state import TrainState


class FeatureStore:
    """Features of the splits of one state, each computed once: `store(split, background=None)`.

    crop: share of the side of every image that is seen, in its middle; 1 shows the whole center square. 224 of 256
    pixels (0.875) is the custom of ImageNet papers.
    encode: in place of that of the parts, with the same arguments and results.
    """

    def __init__(self, parts: RunSetup, state: TrainState, crop: float = 1.0, encode: Callable | None = None):
        self.parts, self.state, self._crop = parts, state, crop
        self._encoder = encode or parts.encode
        self._features: dict[tuple[str, str | None], Features] = {}
        self._examples: dict[str, Dataset] = {}

    def like(self, state: TrainState, encode: Callable | None = None) -> "FeatureStore":
        """A store of another state, or another encoder, over the same examples."""
        other = FeatureStore(self.parts, state, self._crop, encode)
        other._examples = self._examples
        return other

    def examples(self, split: str) -> Dataset:
        """The decoded examples of a split with attributes and, where the set has them, caption embeddings."""
        if split not in self._examples:
            self._examples[split] = open_evaluated(self.parts.config, split)
        return self._examples[split]

    def __call__(self, split: str, background: str | None = None) -> Features:
        key = (split, background)
        if key not in self._features:
            examples = self.examples(split)
            self._features[key] = self.encoded(
                examples,
                f"{split}{f' on {background}' if background else ''}",
                background=lookup(BACKGROUNDS, background, "background")(examples) if background else None,
                attribute_names=examples.source.manifest.attributes,
            )
        return self._features[key]

    def side(self, whole: bool = False) -> int:
        """Side in pixels at which images from files are to be decoded, so that nothing is resized after that."""
        size = self.parts.config.augment.size
        return size if whole else round(size / self._crop)

    def encoded(
        self, examples: Sequence, title: str, whole: bool = False, background=None, attribute_names=None
    ) -> Features:
        """Features of examples (with image, id, label) by index. whole: without the crop."""
        parts = self.parts
        devices = parts.mesh.size
        batch_size = math.ceil(parts.config.eval.batch_size / devices) * devices  # padding is dropped anyway
        batches = eval_batches(examples, batch_size, parts.config.data.threads, process_rows(parts.mesh, batch_size))
        by = " by the moving average" if self.state.ema else ""
        count = -(-len(examples) // batch_size)
        return extract_features(
            partial(self._encode, crop=1.0 if whole else self._crop),
            progress(batches, f"features of {title}{by}", count, enabled=jax.process_index() == 0),
            background=background,
            with_ids=parts.config.eval.views > 0,
            attribute_names=attribute_names,
            gather=partial(gather_rows, mesh=parts.mesh),
        )

    def _encode(self, images: np.ndarray, background: np.ndarray | None = None, ids=None, crop: float = 1.0):
        arrays = {"image": images} if background is None else {"image": images, "background": background}
        side = images.shape[1]
        if side == images.shape[2]:  # not of vectors, which have no middle
            inner = round(crop * side)
            middle = slice((side - inner) // 2, (side - inner) // 2 + inner)
            arrays = {name: array[:, middle, middle] for name, array in arrays.items()}
        arrays = to_global(arrays if ids is None else arrays | {"ids": np.asarray(ids, np.int32)}, self.parts.mesh)
        return self._encoder(self.state, arrays["image"], arrays.get("background"), arrays.get("ids"))


def _mixed(examples: Dataset, same: bool) -> Callable[[dict], np.ndarray]:
    """A background in the colors of another image: of the same group, or of another (as ImageNet-9)."""
    records = [examples.source[index] for index in range(len(examples))]
    donors = choose_donors(np.array([record["attributes"]["group"] for record in records]), same=same, seed=0)
    donor_of = {record["id"]: int(donor) for record, donor in zip(records, donors, strict=True)}

    def background(batch: dict) -> np.ndarray:
        images = np.stack([examples[donor_of[int(i)]]["image"] for i in ids_of(batch["id"])])
        return np.asarray(from_images(batch["image"], images), np.float32)

    return background


def _random_color(examples: Dataset) -> Callable[[dict], np.ndarray]:
    def background(batch: dict) -> np.ndarray:
        colors = np.asarray(random_colors(batch["id"], seed=0), np.float32)
        return np.broadcast_to(colors.reshape(-1, 1, 1, 3), (*batch["image"].shape[:3], 3)).copy()

    return background


BACKGROUNDS = {
    "mixed_same": lambda examples: _mixed(examples, same=True),
    "mixed_rand": lambda examples: _mixed(examples, same=False),
    "random_color": _random_color,
}
