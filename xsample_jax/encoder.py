"""The encoder of a run, the one path from a checkpoint to features; with its projection head and its text side."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from xsample_jax.augment.ids import VECTOR_CHANNELS
from xsample_jax.augment.views import eval_view
from xsample_jax.checkpoint import trained_config
from xsample_jax.config import config_from_json, config_to_json, resolve
from xsample_jax.data.captions import TOKENIZER, load_tokenizer, parse_tokenizer, tokenize
from xsample_jax.data.decode import square
from xsample_jax.data.given import in_order, listed_images, padded_batches, read_pixels
from xsample_jax.data.sources import open_source, source_folder
from xsample_jax.data.vectors import decode_vector, encode_vector
from xsample_jax.distributed import log_info
from xsample_jax.errors import CheckpointError, ConfigError, DataError, UserError, raise_all
from xsample_jax.io.checkpoint_files import MODEL, find_checkpoint, has_checkpoints, read_arrays, saved_arrays
from xsample_jax.io.files import load_arrays, write_arrays
from xsample_jax.io.paths import as_path, in_bucket
from xsample_jax.models.heads import projection_of, unit_rows
from xsample_jax.models.thin import SLIM, corners, thin_config
from xsample_jax.models.towers import ENCODERS, TEXT_TOWERS
from xsample_jax.models.vit import merge_lora
from xsample_jax.state import to_flat
from xsample_jax.weights.families import (
    ENCODER,
    FAMILIES,
    abstract_encoder,
    encoder_shapes,
    import_encoder,
    read_pretrained,
    without_lora,
)
from xsample_jax.weights.files import read_weights
from xsample_jax.weights.hub import KEPT, find_published, is_published

SAVED, ABOUT = ".npz", "about.json"  # an encoder as one file, and its entry with step and config
HEAD, TEXT, LOG_SCALE, BIAS = "head/", "text/", "objective/log_scale", "objective/bias"
# Prefixes of the arrays that are kept beside the encoder of a run.
SIDES = (HEAD, TEXT, LOG_SCALE, BIAS)
IN_FILE = "sides/"  # before these paths in a file of Encoder.save
DEMO, DEMO_FILE = "demo", Path(__file__).parent / "models" / "demo.npz"


@dataclasses.dataclass(frozen=True)
class Encoder:
    """The encoder of a run.

    Attributes:
      config: of the run.
      step: of the checkpoint.
      arrays: {path: array} of its parameters and running statistics.
      sides: {path: array} of the projection head, the text side, the learned temperature and bias, where they are kept.
      text_source: how texts become what the text side reads: {"tokenizer": content of the file} or {"text_encoder":
        as in a manifest}; {}: the dataset of the run says it.
    """

    config: object
    step: int
    arrays: Mapping[str, np.ndarray]
    sides: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    text_source: Mapping[str, object] = dataclasses.field(default_factory=dict)

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
        return _filled(lambda: ENCODERS[self.config.model.encoder](self.config, nnx.Rngs(0)), self.arrays, "")

    @cached_property
    def head(self) -> nnx.Module:
        """The projection head, features [n, F] -> [n, D] float32 of any length.

        Raises ConfigError for a run with a decoder of captions, DataError where the head was not kept.
        """
        if self.config.model.text.multimodal:
            expected = "an objective whose head reads the features: here a learned query reads the last map"
            fix = "Leave out project=True, or evaluate the run with --evals=zero_shot,retrieval."
            raise ConfigError("projection of the run", self.config.objective.preset, expected, fix)
        return _filled(lambda: projection_of(self.config, self.features, nnx.Rngs(0)), self.sides, HEAD)

    @property
    def text_kind(self) -> tuple[str, int] | None:
        """(name in TEXT_TOWERS, input size) of the text side, as `build_model` takes them; None without a text side."""
        tokens, linear = (self.sides.get(TEXT + name) for name in ("tokens/embedding", "out/kernel"))
        if tokens is None:
            return None if linear is None else ("linear", len(linear))
        return "causal" if self.config.model.text.multimodal else "transformer", len(tokens)

    @cached_property
    def text(self) -> nnx.Module:
        """The text side: what it reads (`text.reads`, a row for each text) -> [n, D] float32 of any length.

        Raises ConfigError for a run whose objective has none, DataError where it was not kept.
        """
        if self.text_kind is None:
            wanted = "an objective of images and texts", "Train with --config.objective.preset=clip, for example."
            raise ConfigError("text side of the run", self.config.objective.preset, *wanted)
        kind, size = self.text_kind
        return _filled(lambda: TEXT_TOWERS[kind](self.config, size, nnx.Rngs(0)), self.sides, TEXT)

    @cached_property
    def forward(self) -> Callable[[jax.Array], jax.Array]:
        """uint8 [n, data.image_size, data.image_size, channels] -> float32 [n, features], jitted."""
        graph, state = nnx.split(self.module)

        def forward(state, images):
            return nnx.merge(graph, state)(eval_view(images, self.config.augment))

        return partial(jax.jit(forward), jax.device_put(state))

    @cached_property
    def project(self) -> Callable[[jax.Array], jax.Array]:
        """float32 [n, features] -> unit rows [n, D], what the loss compared; jitted."""
        return _unit_output(self.head)

    def maps(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Local features of some images, by depth from shallow to deep, each float32 [n, h, w, channels].

        Maps after the stages of a ResNet, tokens of the patches after blocks of a ViT. Arguments as of `forward`.
        """
        graph, state = nnx.split(self.module)
        config = self.config.augment
        run = jax.jit(lambda state, images: nnx.merge(graph, state).maps(eval_view(images, config)))
        return {name: np.asarray(map_, np.float32) for name, map_ in jax.device_get(run(state, images)).items()}

    def encode(self, images, batch_size: int = 64, project: bool = False) -> np.ndarray:
        """Features of images as the evaluation of the run sees them: square (`data.fit`), resized, normalized.

        An encoder of vectors takes numbers [n, E], or [E] for one, instead of images.

        Args:
          images: images of any sizes, or one image. An image is an array uint8 [h, w], [h, w, 1], [h, w, 3] or, with
            alpha, [h, w, 4]; a PIL image; the bytes of an image file; an open one; or the path of one.
          batch_size: images that go through the network at once, at least 1.
          project: give the unit embeddings that the loss compared, of width D, in place of the features: those that
            `encode_text` gives of texts are in the same space.

        Returns:
          float32 [n, features]; [features] for one image.

        Raises:
          DataError: an image of another type or shape, a file that cannot be read or decoded, or batch_size below 1.
        """
        images, one = listed_images(images, self.channels)
        forward = (lambda images: self.project(self.forward(images))) if project else self.forward
        rows = [np.zeros((0, self.config.model.head.dim if project else self.features), np.float32)]
        with ThreadPoolExecutor() as threads:

            def squares(part, start: int) -> np.ndarray:
                return np.stack(list(threads.map(self.prepare, part, range(start, start + len(part)))))

            for batch, meant in padded_batches(images, batch_size, squares):
                rows.append(np.asarray(forward(batch))[:meant])
        return np.concatenate(rows)[0 if one else slice(None)]

    def prepare(self, image, place: int = 0) -> np.ndarray:
        """An image that `encode` takes as `forward` takes it, uint8 [size, size, channels]; place: named in errors."""
        size, channels = self.config.data.image_size, self.channels
        if channels == VECTOR_CHANNELS:
            return decode_vector(
                image if isinstance(image, bytes) else encode_vector(image, str(place)), size, str(place)
            )
        return square(read_pixels(image, place, size), size, channels, fit=self.config.data.fit)

    def encode_text(self, texts, batch_size: int = 64, source: str | Path | None = None) -> np.ndarray:
        """Unit embeddings of texts, by the text side of the run, to be compared with `encode(images, project=True)`.

        Args:
          texts: a sequence of texts, or one; or an array that the text side reads: tokens int [n, L] for a
            transformer, frozen caption embeddings [n, E] of any float type for a linear map of those.
          batch_size: texts that go through the text side at once.
          source: folder with the tokenizer.json of the transformer, or name or folder of the sentence encoder of the
            frozen embeddings; None: that of the dataset which the run was trained on.

        Returns:
          float32 [n, D]; [D] for one text.

        Raises:
          ConfigError: the run has no text side. DataError: texts of another kind or width, or no tokenizer or sentence
            encoder for them.
        """
        one, expected = isinstance(texts, str), "a list of texts, or one, or an array of numbers"
        texts = [texts] if one else in_order(texts, "texts", expected)
        given = isinstance(texts, np.ndarray) and texts.dtype.kind in "fiu"
        rows = self._checked_rows(texts) if given else self._rows_of(list(texts), source)
        found = [np.zeros((0, self.config.model.head.dim), np.float32)]
        for batch, meant in padded_batches(rows, batch_size, lambda part, start: part):
            found.append(np.asarray(self._embed_text(batch))[:meant])
        return np.concatenate(found)[0 if one else slice(None)]

    @cached_property
    def _embed_text(self) -> Callable[[jax.Array], jax.Array]:
        return _unit_output(self.text)

    def _checked_rows(self, rows: np.ndarray) -> np.ndarray:
        if self.text.reads == "caption_tokens":
            length, vocab = self.config.model.text.length, len(self.sides[TEXT + "tokens/embedding"])
            fits = rows.ndim == 2 and rows.dtype.kind in "iu" and rows.shape[1] <= length
            fits = fits and (not rows.size or (rows.min() >= 0 and rows.max() < vocab))
            expected = f"tokens int [n, up to {length}] below {vocab}"
        else:
            fits = rows.ndim == 2 and rows.dtype.kind == "f" and rows.shape[1] == self.text.width
            expected = f"frozen caption embeddings [n, {self.text.width}], floating"
        if not fits:
            raise DataError("texts", f"{rows.dtype} {list(rows.shape)}", f"{expected}, or texts")
        return rows

    def _rows_of(self, texts: Sequence[str], source: str | Path | None) -> np.ndarray:
        """What the text side reads of texts."""
        wrong = next((text for text in texts if not isinstance(text, str)), None)
        if wrong is not None:
            raise DataError("texts", type(wrong).__name__, "texts, or an array of numbers that the text side reads")
        if self.text.reads == "caption_tokens":
            return tokenize(self.tokenizer(source), texts, self.config.model.text.length)
        from xsample_jax.captions.encoders import encode_unique, fill_template, open_encoder

        fix = f"Give encode_text an array of its embeddings [n, {self.text.width}], or source=FOLDER of that encoder."
        about = self.with_texts().text_source.get("text_encoder", {})
        name = about.get("name") if source is None else str(source)
        try:
            opened = open_encoder(name) if name else None
        except (UserError, ImportError, OSError) as error:
            raise DataError("encoder of the captions", name, f"one that can be opened ({error})", fix) from error
        if opened is None or opened.info["dim"] != self.text.width:
            found = name and f"{name}, {opened.info['dim']} wide"
            raise DataError("encoder of the captions", found, f"the one of the run, {self.text.width} wide", fix)
        filled = fill_template(about.get("template", "{caption}"), texts)
        return encode_unique(opened, filled) if texts else np.zeros((0, self.text.width), np.float32)

    def tokenizer(self, source: str | Path | None = None):
        """The tokenizer of the transformer: of a folder, of a file of `save`, else of the dataset of the run."""
        if source is None and "tokenizer" in self.text_source:
            return parse_tokenizer(self.text_source["tokenizer"], "the encoder's file")
        try:
            return load_tokenizer(source_folder(self.config.data) if source is None else source)
        except UserError as error:
            fix = f"Give encode_text source=FOLDER with the {TOKENIZER} of the training set, or tokens int [n, L]."
            raise DataError(error.field, error.value, error.expected, fix) from error

    def save(self, path: str | Path) -> None:
        """Writes one `.npz` file that `load_encoder` reads: weights, statistics and config, without a run folder."""
        path = as_path(path)
        if path.suffix != SAVED:
            raise DataError("path", str(path), f"a name that ends with {SAVED}")
        if not in_bucket(path) and not path.parent.is_dir():
            raise DataError("path", str(path), "a file in a folder that exists", f"Make it: mkdir -p {path.parent}")
        about = {
            "step": self.step,
            "config": json.loads(config_to_json(self.config)),
            "text": self.with_texts().text_source,
        }
        arrays = {name: np.asarray(array) for name, array in self.arrays.items()}
        arrays |= {IN_FILE + name: np.asarray(array) for name, array in self.sides.items()}
        write_arrays(path, arrays | {ABOUT: np.frombuffer(json.dumps(about).encode(), np.uint8)})

    def with_texts(self) -> "Encoder":
        """The same with its text_source, which the dataset of the run gives; without one where that is gone."""
        if self.text_source or not any(name.startswith(TEXT) for name in self.sides):
            return self
        try:
            return dataclasses.replace(self, text_source=_text_source(self.config))
        except (UserError, OSError) as error:
            log_info(f"{self.config.name}: texts will need a source, the dataset of the run cannot be read: {error}")
            return self

    def with_model(self, **changes) -> "Encoder":
        """The same weights with other values in the config's section `model`, as conv_impl="conv"."""
        config = self.config.copy_and_resolve_references().unlock()
        config.model.update(changes)
        return dataclasses.replace(self, config=resolve(config))


def _filled(build: Callable[[], nnx.Module], arrays: Mapping[str, np.ndarray], prefix: str) -> nnx.Module:
    """The module that `build` makes, in evaluation mode, with {prefix + path: array}. DataError for one that lacks."""
    module = nnx.eval_shape(build)
    module.eval()
    graph, state = nnx.split(module)
    leaves, structure = jax.tree.flatten(state)
    names = [prefix + path for path in to_flat(state)]
    for name, leaf in zip(names, leaves, strict=True):
        if name not in arrays or arrays[name].shape != leaf.shape:
            found = list(arrays[name].shape) if name in arrays else "missing"
            fix = "Take the encoder from its run folder, or save it again."
            raise DataError(f"{name} of the encoder", found, f"an array {list(leaf.shape)}", fix)
    filled = [np.asarray(arrays[name], leaf.dtype) for name, leaf in zip(names, leaves, strict=True)]
    return nnx.merge(graph, jax.tree.unflatten(structure, filled))


def _unit_output(module: nnx.Module) -> Callable[[jax.Array], jax.Array]:
    """The module with its output scaled to unit rows, jitted."""
    graph, state = nnx.split(module)
    return partial(jax.jit(lambda state, rows: unit_rows(nnx.merge(graph, state)(rows))), jax.device_put(state))


def _text_source(config) -> dict[str, object]:
    """`Encoder.text_source`, out of the dataset of a run; UserError or OSError where that is not there."""
    if config.model.text.layers:
        return {"tokenizer": load_tokenizer(source_folder(config.data)).to_str()}
    about = open_source(config.data, config.data.split).manifest.text_encoder
    return {"text_encoder": dict(about)} if about else {}


def load_encoder(path: str | Path, step: int | None = None, slim: bool = False) -> Encoder:
    """The encoder of the run in folder `path`: of its newest checkpoint, or of the one after `step` steps.

    It is the moving average where the run kept one (optimizer.ema), with low-rank factors (model.lora) merged into the
    maps that they add to. Neither a dataset nor the state of the optimizer
    is read, and any number of devices will do. A path that ends with `.npz` is a file of `Encoder.save`;
    "hf:ORGANIZATION/NAME", or a folder of the same layout, is what `push_to_hub` wrote; "demo" is a small encoder that
    comes with the package (docs/weights.md). A folder with checkpoints is a run, whatever its name.

    slim: the thin network of a run that trained one beside the wide one (sacl_xd), as a ResNet of its own.

    Raises CheckpointError: no such checkpoint, a damaged one, one without the thin network that is asked for, or a
    step for something that is not a run; DataError: a file that `Encoder.save` did not write.
    """
    demo = path == DEMO and not has_checkpoints(path)
    saved = demo or (str(path).endswith(SAVED) and not has_checkpoints(path))
    if saved or is_published(str(path)):
        if slim:
            raise _not_thin(path)
        if step is not None:
            raise CheckpointError("step", step, f"no step: {path} holds one encoder", "Leave it out, or give a run.")
        return _read_saved(DEMO_FILE if demo else as_path(path)) if saved else _read_published(str(path))
    run, step = find_checkpoint(path, step)
    wanted = {
        part: {name: leaf for name, leaf in leaves.items() if name.startswith((ENCODER, *((SLIM,) if slim else SIDES)))}
        for part, leaves in saved_arrays(run, step).items()
    }
    read = read_arrays(run, step, wanted, sharding=None)
    read = {path: array for part in MODEL for path, array in read[part].items()}
    sides = {path: array for path, array in read.items() if not path.startswith(ENCODER)}
    found = {path.removeprefix(ENCODER): array for path, array in read.items() if path.startswith(ENCODER)}
    config = trained_config(run, step)
    if slim:
        return thin_of(config, step, found | sides, path)
    return Encoder(without_lora(config), step, merge_lora(found) if config.model.lora else found, sides)


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


def _read_published(path: str) -> Encoder:
    """The encoder out of a folder, or repository of the hub, that `push_to_hub` or `export_open_clip` wrote."""
    published = find_published(path)
    kept = published.file.parent / KEPT
    if not kept.is_file():
        fix = f"To start a run from these weights: --config.model.init_from={path}."
        raise DataError(f"{KEPT} in {path}", None, "weights that this package published, for load_encoder", fix)
    theirs = read_weights(published.file)
    return _read_saved(kept, lambda config: import_encoder(config, FAMILIES[published.family], theirs, path))


def _read_saved(path: Path, encoder_of: Callable | None = None) -> Encoder:
    """What `Encoder.save` wrote; encoder_of(config) gives the arrays of the encoder where the file has none."""
    try:
        arrays = load_arrays(path)
    except OSError as error:
        raise DataError("encoder", str(path), f"a file of Encoder.save ({error.strerror})") from error
    try:
        about = json.loads(bytes(arrays.pop(ABOUT)))
        config = config_from_json(json.dumps(about["config"]))
        sides = {name.removeprefix(IN_FILE): arrays.pop(name) for name in list(arrays) if name.startswith(IN_FILE)}
        arrays = encoder_of(config) if encoder_of else arrays
        encoder = Encoder(config, int(about["step"]), arrays, sides, about.get("text", {}))
        shapes = encoder_shapes(abstract_encoder(config))
    except UserError:
        raise
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
