"""The encoder of a run, the one path from a checkpoint to features."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from PIL import Image, ImageOps

from xsample_jax.augment.ids import VECTOR_CHANNELS
from xsample_jax.augment.views import eval_view
from xsample_jax.checkpoint import trained_config
from xsample_jax.config import config_from_json, config_to_json, resolve
from xsample_jax.data.decode import ALL_FORMATS, open_image, square
from xsample_jax.data.vectors import decode_vector, encode_vector
from xsample_jax.distributed import log_info
from xsample_jax.errors import CheckpointError, ConfigError, DataError, raise_all
from xsample_jax.io.checkpoint_files import MODEL, find_checkpoint, read_arrays, saved_arrays
from xsample_jax.io.files import load_arrays, read_regular, write_arrays
from xsample_jax.io.paths import as_path
from xsample_jax.models.thin import SLIM, corners, thin_config
from xsample_jax.models.towers import ENCODERS
from xsample_jax.models.vit import merge_lora
from xsample_jax.state import to_flat
from xsample_jax.weights.families import ENCODER, abstract_encoder, encoder_shapes, read_pretrained, without_lora
from xsample_jax.weights.hub import is_published

SAVED, ABOUT = ".npz", "about.json"  # an encoder as one file, and its entry with step and config
DEMO, DEMO_FILE = "demo", Path(__file__).parent / "models" / "demo.npz"


@dataclasses.dataclass(frozen=True)
class Encoder:
    """The encoder of a run.

    Attributes:
      config: of the run.
      step: of the checkpoint.
      arrays: {path: array} of its parameters and running statistics.
    """

    config: object
    step: int
    arrays: Mapping[str, np.ndarray]

    @cached_property
    def features(self) -> int:
        """Width of a row of `encode`."""
        return self.module.features

    @cached_property
    def channels(self) -> int:
        """Of the images that `forward` takes: 4 for a run on images with alpha, 2 for one on vectors (their bytes)."""
        source = self.config.data.source
        return VECTOR_CHANNELS if source == "vectors" else 4 if source.startswith("emoji") else 3

    @cached_property
    def module(self) -> nnx.Module:
        """The network in evaluation mode, normalized images [n, s, s, 3] -> float32 [n, features]."""
        network = nnx.eval_shape(lambda: ENCODERS[self.config.model.encoder](self.config, nnx.Rngs(0)))
        network.eval()
        graph, state = nnx.split(network)
        leaves, structure = jax.tree.flatten(state)
        arrays = [np.asarray(self.arrays[path], leaf.dtype) for path, leaf in zip(to_flat(state), leaves, strict=True)]
        return nnx.merge(graph, jax.tree.unflatten(structure, arrays))

    @cached_property
    def forward(self) -> Callable[[jax.Array], jax.Array]:
        """uint8 [n, data.image_size, data.image_size, channels] -> float32 [n, features], jitted."""
        graph, state = nnx.split(self.module)

        def forward(state, images):
            return nnx.merge(graph, state)(eval_view(images, self.config.augment))

        return partial(jax.jit(forward), jax.device_put(state))

    def maps(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Local features of some images, by depth from shallow to deep, each float32 [n, h, w, channels].

        Maps after the stages of a ResNet, tokens of the patches after blocks of a ViT. Arguments as of `forward`.
        """
        graph, state = nnx.split(self.module)
        config = self.config.augment
        run = jax.jit(lambda state, images: nnx.merge(graph, state).maps(eval_view(images, config)))
        return {name: np.asarray(map_, np.float32) for name, map_ in jax.device_get(run(state, images)).items()}

    def encode(self, images, batch_size: int = 64) -> np.ndarray:
        """Features of images as the evaluation of the run sees them: square (`data.fit`), resized, normalized.

        An encoder of vectors takes numbers [n, E], or [E] for one, instead of images.

        Args:
          images: a sequence of images of any sizes, or one image. An image is an array uint8 [h, w], [h, w, 3] or,
            with alpha, [h, w, 4]; a PIL image; the bytes of an image file; or the path of one.
          batch_size: images that go through the network at once.

        Returns:
          float32 [n, features]; [features] for one image.

        Raises:
          DataError: an image of another type or shape, or a file that cannot be read or decoded.
        """
        if _is_one(images, self.channels):
            return self.encode([images], 1)[0]

        count = min(batch_size, len(images))
        rows = [np.zeros((0, self.features), np.float32)]
        with ThreadPoolExecutor() as threads:
            for start in range(0, len(images), count or 1):
                here = images[start : start + count]
                squares = np.stack(list(threads.map(self.prepare, here, range(start, start + len(here)))))
                padded = np.concatenate([squares, squares[:1].repeat(count - len(squares), axis=0)])
                rows.append(np.asarray(self.forward(padded))[: len(squares)])
        return np.concatenate(rows)

    def prepare(self, image, place: int = 0) -> np.ndarray:
        """An image that `encode` takes as `forward` takes it, uint8 [size, size, channels]; place: named in errors."""
        size, channels = self.config.data.image_size, self.channels
        if channels == VECTOR_CHANNELS:
            return decode_vector(
                image if isinstance(image, bytes) else encode_vector(image, str(place)), size, str(place)
            )
        return square(_pixels(image, place, size), size, channels, fit=self.config.data.fit)

    def save(self, path: str | Path) -> None:
        """Writes one `.npz` file that `load_encoder` reads: weights, statistics and config, without a run folder."""
        path = as_path(path)
        if path.suffix != SAVED:
            raise DataError("path", str(path), f"a name that ends with {SAVED}")
        about = json.dumps({"step": self.step, "config": json.loads(config_to_json(self.config))})
        arrays = {name: np.asarray(array) for name, array in self.arrays.items()}
        write_arrays(path, arrays | {ABOUT: np.frombuffer(about.encode(), np.uint8)})

    def with_model(self, **changes) -> "Encoder":
        """The same weights with other values in the config's section `model`, as conv_impl="conv"."""
        config = self.config.copy_and_resolve_references().unlock()
        config.model.update(changes)
        return dataclasses.replace(self, config=resolve(config))


def load_encoder(path: str | Path, step: int | None = None, slim: bool = False) -> Encoder:
    """The encoder of the run in folder `path`: of its newest checkpoint, or of the one after `step` steps.

    It is the moving average where the run kept one (optimizer.ema), with low-rank factors (model.lora) merged into the
    maps that they add to. Neither a dataset nor the state of the optimizer
    is read, and any number of devices will do. A path that ends with `.npz` is a file of `Encoder.save`; "demo" is a
    small encoder that comes with the package (docs/weights.md).

    slim: the thin network of a run that trained one beside the wide one (sacl_xd), as a ResNet of its own.

    Raises CheckpointError: no such checkpoint, a damaged one, or one without the thin network that is asked for;
    DataError: a file that `Encoder.save` did not write.
    """
    if path == DEMO or str(path).endswith(SAVED):
        if slim:
            raise _not_thin(path)
        return _read_saved(DEMO_FILE if path == DEMO else as_path(path))
    run, step = find_checkpoint(path, step)
    wanted = {
        part: {name: leaf for name, leaf in leaves.items() if name.startswith((ENCODER, SLIM) if slim else ENCODER)}
        for part, leaves in saved_arrays(run, step).items()
    }
    found = read_arrays(run, step, wanted, sharding=None)
    found = {path.removeprefix(ENCODER): array for part in MODEL for path, array in found[part].items()}
    config = trained_config(run, step)
    if slim:
        return thin_of(config, step, found, path)
    return Encoder(without_lora(config), step, merge_lora(found) if config.model.lora else found)


def thin_of(config, step: int, found: Mapping[str, np.ndarray], path: str | Path) -> Encoder:
    """The thin encoder out of the arrays of the wide one and its own statistics, which are under slim/."""
    own = {name.removeprefix(SLIM): array for name, array in found.items() if name.startswith(SLIM)}
    if not own:
        raise _not_thin(path)
    config = thin_config(config)
    shapes = encoder_shapes(abstract_encoder(config))
    return Encoder(resolve(config), step, corners(dict(found) | own, shapes))


def _not_thin(path: str | Path) -> CheckpointError:
    expected = "a run that trains a thin network beside the wide one"
    return CheckpointError("thin network of", str(path), expected, "Train one with --config.objective.preset=sacl_xd.")


def _read_saved(path: Path) -> Encoder:
    try:
        arrays = load_arrays(path)
    except OSError as error:
        raise DataError("encoder", str(path), f"a file of Encoder.save ({error.strerror})") from error
    try:
        about = json.loads(bytes(arrays.pop(ABOUT)))
        config = config_from_json(json.dumps(about["config"]))
        encoder = Encoder(config, int(about["step"]), arrays)
        shapes = encoder_shapes(abstract_encoder(config))
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        found = f"{type(error).__name__}: {error}"[:100]
        raise DataError("encoder", str(path), f"a file of Encoder.save ({found})", "Save it again.") from error
    if {name: array.shape for name, array in arrays.items()} != shapes:
        raise DataError("encoder", str(path), "the arrays of its own config", "Save it again.")
    return encoder


def read_initial(config, wanted: Mapping | None = None) -> dict[str, np.ndarray]:
    """{path: array} of what a run starts from: published weights, a file, the encoder of another run, or {}.

    wanted: {path: shape and dtype} of all parameters and statistics of the run, for model.init_whole.

    Raises CheckpointError or DataError, or Problems with every array of the other run that does not fit.
    """
    path = config.model.init_from
    if config.model.init_whole:
        return _read_whole(config, wanted)
    if path is None or config.model.init_family is not None or is_published(path):
        return read_pretrained(config)
    source, shapes = load_encoder(path), encoder_shapes(abstract_encoder(without_lora(config)))
    fix = f"That run has model.encoder = {source.config.model.encoder}; set model and augment.size as it has them."
    _check_fit({name: array.shape for name, array in source.arrays.items()}, shapes, ENCODER, path, fix)
    log_info(f"{config.name}: the encoder starts from step {source.step} of {path}, with a new head")
    return {ENCODER + name: value for name, value in source.arrays.items()}


def _check_fit(found: Mapping, wanted: Mapping, prefix: str, path: str, fix: str) -> None:
    """Raises Problems with every array of the run in `path`, {name: shape}, that is not as it is wanted."""
    problems = []
    for name in sorted(wanted.keys() | found.keys()):
        there, asked = (list(shapes[name]) if name in shapes else "missing" for shapes in (found, wanted))
        if there != asked:
            problems.append(ConfigError(f"{prefix}{name} of {path}", there, f"{asked}", fix))
    raise_all(problems, f"model.init_from = {path}")


def _read_whole(config, wanted: Mapping) -> dict[str, np.ndarray]:
    """Every parameter and statistic that the run has, out of another run that may have more."""
    run, step = find_checkpoint(config.model.init_from)
    saved = {
        part: {name: leaf for name, leaf in leaves.items() if name in wanted}
        for part, leaves in saved_arrays(run, step).items()
    }
    found = {name: leaf.shape for leaves in saved.values() for name, leaf in leaves.items()}
    fix = f"Set model, data.label and objective as {config.model.init_from} has them, or model.init_whole=false."
    _check_fit(found, {name: leaf.shape for name, leaf in wanted.items()}, "", config.model.init_from, fix)
    arrays = read_arrays(run, step, saved, sharding=None)
    log_info(f"{config.name}: it starts as step {step} of {config.model.init_from}")
    return {name: array for part in MODEL for name, array in arrays[part].items()}


def _is_one(images, channels: int) -> bool:
    """Whether it is one image (or, with the channels of vectors, one of those), not a sequence of them."""
    if isinstance(images, np.ndarray) and channels == VECTOR_CHANNELS:
        return images.ndim == 1
    if isinstance(images, np.ndarray):
        return images.ndim == 2 or (images.ndim == 3 and images.shape[2] in (3, 4))
    return isinstance(images, str | Path | bytes | Image.Image)


def _pixels(image, place: int, size: int) -> np.ndarray:
    """uint8 [h, w, 3 or 4] of whatever `Encoder.encode` takes for an image."""
    if isinstance(image, str | Path):
        try:
            image, place = read_regular(as_path(image)), image
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise DataError(f"image {image}", reason, "a file that can be read") from error
    if isinstance(image, bytes):
        try:
            return open_image(image, size, str(place), ALL_FORMATS)
        except DataError as error:
            raise DataError(error.field, error.value, error.expected, "Replace it, or leave it out.") from error
    if isinstance(image, Image.Image):
        image = ImageOps.exif_transpose(image).convert("RGBA" if image.has_transparency_data else "RGB")
    pixels = np.asarray(image)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (3, 4) or not pixels.size:
        found = f"{pixels.dtype} {list(pixels.shape)}"
        expected = "uint8 [height, width, 3], or 4 with alpha; a PIL image, bytes of a file or its path"
        raise DataError(f"image {place}", found, expected)
    return pixels
