"""Evaluates one state: hands the suite the features it asks for, and keeps what the report needs."""

import math
import pathlib
from collections.abc import Callable, Sequence
from functools import partial

import jax
import numpy as np

from xsample_jax.data.backgrounds import choose_donors, from_images, random_colours
from xsample_jax.data.pipeline import Examples, eval_batches
from xsample_jax.errors import lookup
from xsample_jax.evals.batch_graphs import graphs_of, side_of
from xsample_jax.evals.embedding_map import map_arrays
from xsample_jax.evals.features import Features, extract_features
from xsample_jax.evals.result import SuiteResult
from xsample_jax.evals.snapshot import find_neighbours, save_snapshot
from xsample_jax.evals.suites import SUITES
from xsample_jax.evals.worst_errors import error_arrays, find_errors
from xsample_jax.examples import open_evaluated
from xsample_jax.mesh import gather_rows, process_rows, to_global
from xsample_jax.metrics.progress import progress
from xsample_jax.parts import Parts
from xsample_jax.state import TrainState

SNAPSHOT_IMAGES = 48


class FeatureStore:
    """Features of the splits of one state, each computed once: `store(split, background=None)`.

    crop: share of the side of every picture that is seen, in its middle; 1 shows the whole centre square. 224 of 256
    pixels (0.875) is the custom of ImageNet papers.
    """

    def __init__(self, parts: Parts, state: TrainState, crop: float = 1.0):
        self._parts, self._state, self._crop = parts, state, crop
        self._features: dict[tuple[str, str | None], Features] = {}
        self._examples: dict[str, Examples] = {}

    def examples(self, split: str) -> Examples:
        """The decoded examples of a split with attributes and, where the set has them, caption embeddings."""
        if split not in self._examples:
            self._examples[split] = open_evaluated(self._parts.config, split)
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
        """Side in pixels at which pictures from files are to be decoded, so that nothing is resized after that."""
        size = self._parts.config.augment.size
        return size if whole else round(size / self._crop)

    def encoded(
        self, examples: Sequence, title: str, whole: bool = False, background=None, attribute_names=None
    ) -> Features:
        """Features of examples (with image, id, label) by index. whole: without the crop."""
        parts = self._parts
        devices = parts.mesh.size
        batch_size = math.ceil(parts.config.eval.batch_size / devices) * devices  # padding is dropped anyway
        batches = eval_batches(examples, batch_size, parts.config.data.threads, process_rows(parts.mesh, batch_size))
        by = " by the moving average" if self._state.ema else ""
        count = -(-len(examples) // batch_size)
        return extract_features(
            partial(self._encode, crop=1.0 if whole else self._crop),
            progress(batches, f"features of {title}{by}", count, enabled=jax.process_index() == 0),
            background=background,
            attribute_names=attribute_names,
            gather=partial(gather_rows, mesh=parts.mesh),
        )

    def _encode(self, images: np.ndarray, background: np.ndarray | None = None, crop: float = 1.0):
        arrays = {"image": images} if background is None else {"image": images, "background": background}
        side = images.shape[1]
        inner = round(crop * side)
        middle = slice((side - inner) // 2, (side - inner) // 2 + inner)
        arrays = {name: array[:, middle, middle] for name, array in arrays.items()}
        arrays = to_global(arrays, self._parts.mesh)
        return self._parts.encode(self._state, arrays["image"], arrays.get("background"))


def _mixed(examples: Examples, same: bool) -> Callable[[dict], np.ndarray]:
    """Ground from the picture of another image: of the same group, or of another (as ImageNet-9)."""
    records = [examples.source[index] for index in range(len(examples))]
    donors = choose_donors(np.array([record["attributes"]["group"] for record in records]), same=same, seed=0)
    donor_of = {record["id"]: int(donor) for record, donor in zip(records, donors, strict=True)}

    def ground(batch: dict) -> np.ndarray:
        pictures = np.stack([examples[donor_of[int(i)]]["image"] for i in batch["id"]])
        return np.asarray(from_images(batch["image"], pictures), np.float32)

    return ground


def _random_colour(examples: Examples) -> Callable[[dict], np.ndarray]:
    def ground(batch: dict) -> np.ndarray:
        colours = np.asarray(random_colours(batch["id"], seed=0), np.float32)
        return np.broadcast_to(colours.reshape(-1, 1, 1, 3), (*batch["image"].shape[:3], 3)).copy()

    return ground


BACKGROUNDS = {
    "mixed_same": lambda examples: _mixed(examples, same=True),
    "mixed_rand": lambda examples: _mixed(examples, same=False),
    "random_colour": _random_colour,
}


def evaluate(parts: Parts, state: TrainState) -> tuple[SuiteResult, FeatureStore]:
    """Runs the suite of the config on a state; also returns the features, for the snapshot."""
    store = FeatureStore(parts, state)
    return lookup(SUITES, parts.config.eval.suite, "eval.suite")(store, parts.config), store


def write_snapshot(path: pathlib.Path, parts: Parts, state: TrainState, store: FeatureStore) -> None:
    """Saves the similarity graphs of one batch of held-out images, and what the report shows of their features.

    All processes call it, as the state is spread over them; the first one writes.
    """
    config, split = parts.config, parts.config.eval.split
    examples, features = store.examples(split), store(split)
    train_examples, train = store.examples(config.eval.train_split), store(config.eval.train_split)
    captioned = features if features.caption_embedding is None else features.captioned()
    drawn = captioned if len(captioned) else features
    drawn = drawn.rows(np.linspace(0, len(drawn) - 1, min(SNAPSHOT_IMAGES, len(drawn))).astype(int))
    batch = [examples[int(index)] for index in drawn.index]
    images = np.stack([example["image"] for example in batch])
    side = side_of(parts, batch)
    graphs = graphs_of(parts, state, images, side)
    # Large galleries are searched by the devices of all processes.
    errors, neighbours = find_errors(train, features), find_neighbours(features)
    if jax.process_index() != 0:
        return
    class_names = examples.source.manifest.class_names
    groups = drawn.attributes.get("group", drawn.label)
    names = features.attribute_names.get("group", class_names)
    words = features.attribute_names.get(errors.target, class_names) if errors else None
    picture = partial(_picture, examples, features)
    embedding = side.get("caption_embedding")
    save_snapshot(
        path,
        images=images,
        captions=[_caption(examples, index) for index in drawn.index],
        groups=[str(names[group] if names and group >= 0 else group) for group in groups],
        target=graphs.target,
        student=graphs.student,
        stand_in=graphs.stand_in,
        views=config.views,
        similarity=None
        if embedding is None
        else np.asarray(embedding, np.float32) @ np.asarray(embedding, np.float32).T,
        neighbours=neighbours,
        picture_of=picture,
        more=map_arrays(features, class_names)
        | error_arrays(errors, picture, partial(_picture, train_examples, train), words),
    )


def _picture(examples: Examples, features: Features, row: int) -> tuple[np.ndarray, str]:
    """(image, first caption) of the example that a row of features is of."""
    index = int(features.index[row])
    return examples[index]["image"], _caption(examples, index)


def _caption(examples: Examples, index: int) -> str:
    return (examples.source[int(index)]["captions"] or [""])[0]
