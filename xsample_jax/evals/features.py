"""Features of whole splits: every batch is encoded once, and all evaluators of a state share what was found."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from xsample_jax.augment.backgrounds import choose_donors, from_images, random_colors
from xsample_jax.augment.ids import ids_of
from xsample_jax.data.dataset import Dataset, eval_batches, open_evaluated
from xsample_jax.errors import DataError, lookup
from xsample_jax.metrics.progress_bar import progress
from xsample_jax.setup import RunSetup
from xsample_jax.sharding import gather_rows, process_rows, to_global
from xsample_jax.state import TrainState

_ATTRIBUTE = "attribute/"


@dataclasses.dataclass(frozen=True)
class Features:
    """Rows of one split, in the order in which the batches came.

    Attributes:
      features: float32 [n, F], output of the encoder.
      embedding: float32 [n, D], unit rows of the projection head, or None.
      id: int [n], record ids.
      label: int [n], -1 where a record has none.
      attributes: name -> int [n].
      attribute_names: name -> the words behind the integers of that attribute (the manifest's list).
      caption_embedding: float32 [n, E] or None; a row of zeros where the example has no caption.
      index: int [n], numbers of the examples in their split, or None.
    """

    features: np.ndarray
    embedding: np.ndarray | None
    id: np.ndarray
    label: np.ndarray
    attributes: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    attribute_names: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    caption_embedding: np.ndarray | None = None
    index: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.id)

    def rows(self, keep: np.ndarray) -> "Features":
        """Returns the rows picked by a boolean mask [n] or an index array."""
        pick = lambda array: None if array is None else array[keep]  # noqa: E731
        return dataclasses.replace(
            self,
            features=pick(self.features),
            embedding=pick(self.embedding),
            id=pick(self.id),
            label=pick(self.label),
            attributes={name: pick(values) for name, values in self.attributes.items()},
            caption_embedding=pick(self.caption_embedding),
            index=pick(self.index),
        )

    @property
    def has_caption(self) -> np.ndarray:
        """bool [n]: the row has a caption embedding, which the split must have."""
        return self.caption_embedding.any(axis=1)

    def captioned(self) -> "Features":
        """Returns the rows that have a caption."""
        return self.rows(self.has_caption)

    def attribute(self, name: str) -> np.ndarray:
        """Returns int [n]; DataError that lists the attributes there are when `name` is none of them."""
        if name not in self.attributes:
            known = ", ".join(sorted(self.attributes)) or "none"
            raise DataError("attribute", name, f"an attribute of the dataset ({known})", "Choose another eval.suite.")
        return self.attributes[name]

    def where(self, attribute: str, word: str) -> "Features":
        """Returns the rows whose attribute has the value called `word`, e.g. `where("style", "noto")`."""
        values = self.attribute(attribute)
        names = list(self.attribute_names.get(attribute, ()))
        if word not in names:
            raise DataError(f"attribute {attribute}", word, f"one of {', '.join(names) or 'no names at all'}")
        return self.rows(values == names.index(word))


def extract_features(
    encode: Callable,
    batches: Iterable[Mapping[str, np.ndarray]],
    *,
    background: Callable[[Mapping[str, np.ndarray]], np.ndarray] | None = None,
    with_ids: bool = False,
    attribute_names: Mapping[str, Sequence[str]] | None = None,
    gather: Callable[[Mapping], Mapping] = jax.device_get,
) -> Features:
    """Encodes every batch and returns the rows that are not padding, so counts are exact.

    Args:
      encode: compiled function of uint8 images [b, H, W, C] (and, with `background`, float [b, H, W, 3]) that returns
        (features [b, F], z [b, D] or None). It may be sharded in any way; the next batch is dispatched before the
        result of the last one is fetched.
      batches: dicts with image, id, label, mask (False = padding) and, where there are any, index, caption_embedding
        and "attribute/<name>". A batch without mask has no padding.
      background: called with the batch, gives the background to put under its images.
      with_ids: encode also gets ids=int [b] or [b, 2], those of the images.
      attribute_names: the manifest's words for the attribute values.
      gather: brings {name: rows} to the host. With several processes, each of which iterates over its own rows of the
        batches, it returns the rows of all (mesh.gather_rows), so that every process has the features of the split.
    """
    parts: list[dict[str, np.ndarray]] = []
    waiting = None
    for batch in batches:
        extra = () if background is None else (background(batch),)
        dispatched = (encode(batch["image"], *extra, **({"ids": batch["id"]} if with_ids else {})), batch)
        if waiting is not None:
            parts.append(_fetch(*waiting, gather))
        waiting = dispatched
    if waiting is None:
        raise DataError("batches", 0, "at least one batch to encode", "The split that is evaluated is empty.")
    parts.append(_fetch(*waiting, gather))

    column = lambda name: np.concatenate([part[name] for part in parts])  # noqa: E731
    names = parts[0]
    return Features(
        features=column("features"),
        embedding=column("embedding") if "embedding" in names else None,
        id=ids_of(column("id")),
        label=column("label"),
        attributes={name.removeprefix(_ATTRIBUTE): column(name) for name in names if name.startswith(_ATTRIBUTE)},
        attribute_names=dict(attribute_names or {}),
        caption_embedding=column("caption_embedding") if "caption_embedding" in names else None,
        index=column("index") if "index" in names else None,
    )


def _fetch(encoded: tuple, batch: Mapping[str, np.ndarray], gather: Callable) -> dict[str, np.ndarray]:
    """Brings one encoded batch to the host and drops its padding."""
    features, embedding = encoded
    rows = {"features": features, "id": batch["id"], "label": batch["label"]}
    if embedding is not None:
        rows["embedding"] = embedding
    for name, values in batch.items():
        if name in ("caption_embedding", "index") or name.startswith(_ATTRIBUTE):
            rows[name] = values
    mask = batch.get("mask")
    rows["mask"] = np.ones(len(batch["id"]), bool) if mask is None else mask
    rows = {name: np.asarray(values) for name, values in gather(rows).items()}
    mask = rows.pop("mask").astype(bool)
    floats = ("features", "embedding", "caption_embedding")
    return {name: values[mask].astype(np.float32 if name in floats else values.dtype) for name, values in rows.items()}


def check_finite(rows: np.ndarray, of: str, names: Sequence) -> None:
    """Raises DataError for rows [n, F] that are not finite: one of them has no neighbors, and spoils every mean.

    of: what they are the features of, in words; names: of the rows, for the message.
    """
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if len(bad):
        found = f"{len(bad):,} of {len(rows):,} rows with NaN or infinity, the first is {names[bad[0]]}"
        raise DataError(f"features of {of}", found, "finite numbers", "Take another checkpoint, or mend these records.")


# Rows of a split on the devices: a large set is spread over all of them, a small one stays on one.


SMALL = 2**22  # numbers; below this the devices would wait for each other longer than they compute


def on_devices(rows: np.ndarray, small: int = SMALL, blocks: int = 1) -> jax.Array:
    """Rows [n, ...] on the devices, followed by as many rows of zeros as make each of them hold `blocks` equal parts.

    A large array is split by rows over all devices of all processes, which all call this with the same rows; of a small
    one every process keeps a copy of its own.
    """
    devices = jax.devices() if rows.size > small else jax.local_devices()[:1]
    short = -len(rows) % (len(devices) * blocks)
    padded = np.pad(rows, [(0, short)] + [(0, 0)] * (rows.ndim - 1)) if short else rows
    if rows.size <= small:
        return jax.device_put(padded, SingleDeviceSharding(devices[0]))
    mesh = Mesh(np.array(devices), ("rows",), axis_types=(AxisType.Auto,))
    return jax.make_array_from_callback(
        padded.shape, NamedSharding(mesh, PartitionSpec("rows")), lambda place: padded[place]
    )


def everywhere(rows: jax.Array):
    """The sharding for results of a program over these rows: whole on every device that has some of them."""
    if isinstance(rows.sharding, NamedSharding):
        return NamedSharding(rows.sharding.mesh, PartitionSpec())
    return rows.sharding


def in_blocks(rows: jax.Array, devices: int, blocks: int) -> jax.Array:
    """[n, ...] -> [blocks, devices, n / (blocks * devices), ...]: every device keeps its rows, in as many parts.

    For a scan over the first axis, in which all devices take part in every step. Inside jit; `n` is a multiple of both.
    """
    return jnp.swapaxes(rows.reshape(devices, blocks, -1, *rows.shape[1:]), 0, 1)


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
        found = extract_features(
            partial(self._encode, crop=1.0 if whole else self._crop),
            progress(batches, f"features of {title}{by}", count, enabled=jax.process_index() == 0),
            background=background,
            with_ids=parts.config.eval.views > 0,
            attribute_names=attribute_names,
            gather=partial(gather_rows, mesh=parts.mesh),
        )
        for rows in (found.features, found.embedding):
            if rows is not None:
                check_finite(rows, title, found.id)
        return found

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
