"""A few synthetic images for every class, on which a network learns about what it learns on the whole dataset.

Their pixels are trained, so that the gradient of a classifier's cross-entropy on them is like that on real images, for
many newly initialized networks: dataset condensation by matching of gradients, class by class (DC,
arXiv 2006.05929) or of all classes together (DCC, arXiv 2202.02916). Class by class, what the classes share counts as
much as what tells them apart; in the gradient of all classes it cancels. Constants are those of DCC's public code, the
equations those of both papers. The images are trained without augmentation of any kind (DSA is not built).
"""

import dataclasses
import hashlib
import io
import json
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from PIL import Image

from xsample_jax.augment.views import VECTOR_CHANNELS, eval_view
from xsample_jax.config import config_to_json
from xsample_jax.data.decode import decode_record
from xsample_jax.data.perturb import apply_perturbations
from xsample_jax.data.records import MANIFEST, DataSource, Manifest
from xsample_jax.data.sources import open_training_source, read_labels
from xsample_jax.data.writer import write_records
from xsample_jax.errors import ConfigError, DataError, raise_all
from xsample_jax.io.files import load_arrays, write_arrays
from xsample_jax.io.locks import locked
from xsample_jax.io.paths import as_path, in_bucket
from xsample_jax.metrics.profiling import host_memory
from xsample_jax.metrics.progress_bar import progress
from xsample_jax.models.towers import ENCODERS, config_for
from xsample_jax.state import ModelDef, define_model, to_flat

STATE = ".condense.npz"  # in the folder of the result until it is complete
SAVE_EVERY = 30.0  # seconds
BATCH = 256  # synthetic images of a step of the network
FORMS = ("contrastive", "class")
WARM_OUTER, WARM_INNER = 250, 10  # DCC matches class by class before both of them
PLANS = {1: (10, 5), 10: (10, 50), 50: (50, 10)}  # images of a class: matches of a network, its passes after each


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How images are condensed.

    Attributes:
      per_class: images of each class. match: "contrastive" (DCC) or "class" (DC).
      networks: drawn one after the other. matches: of each of them; passes: of training on the synthetic images after
        each match; None: those of the papers for about as many images.
      real: images of a class whose gradient is matched, all different where there are as many.
      rate, momentum: of SGD on pixels (standardized as the encoder sees them). network_rate: of SGD on the network.
      warmup: networks that are matched class by class first, for their first 10 matches; None: 250, a quarter at most.
      start: "real" (images of the class) or "noise". seed: of all that is drawn.
    """

    per_class: int
    match: str = "contrastive"
    networks: int = 1000
    matches: int | None = None
    passes: int | None = None
    real: int = 256
    rate: float = 0.1
    momentum: float = 0.5
    network_rate: float = 0.01
    warmup: int | None = None
    start: str = "real"
    seed: int = 0

    def complete(self) -> "Recipe":
        """The same with numbers in place of None."""
        matches, passes = PLANS[max([1, *(size for size in PLANS if size <= self.per_class)])]
        given = {"matches": matches, "passes": passes, "warmup": min(WARM_OUTER, self.networks // 4)}
        return dataclasses.replace(
            self, **{name: value for name, value in given.items() if getattr(self, name) is None}
        )

    def together(self, network: int, match: int) -> bool:
        """Whether the gradient of all classes together is matched."""
        return self.match == "contrastive" and (network >= self.warmup or match >= WARM_INNER)


LIMITS = {
    "per_class": (1, 10_000),
    "networks": (1, 10**6),
    "matches": (1, 10**4),
    "passes": (0, 10**5),
    "real": (1, 2**16),
    "rate": (1e-6, 1e3),
    "momentum": (0.0, 0.999),
    "network_rate": (0.0, 1e3),
    "warmup": (0, 10**6),
    "seed": (0, 2**32 - 1),
}


def check_recipe(recipe: Recipe) -> None:
    """Raises Problems with every number that is out of its bounds, by the name of its flag."""
    problems = []
    for name, (low, high) in LIMITS.items():
        value = getattr(recipe, name)
        if value is not None and not low <= value <= high:  # nan is not
            problems.append(ConfigError(f"--{name}", value, f"a number from {low:g} to {high:g}"))
    for name, words in (("match", FORMS), ("start", ("real", "noise"))):
        if getattr(recipe, name) not in words:
            problems.append(ConfigError(f"--{name}", getattr(recipe, name), " or ".join(words)))
    raise_all(problems, "tools.condense")
    done = recipe.complete()
    if recipe.match == "contrastive" and done.warmup >= done.networks and done.matches <= WARM_INNER:
        expected = f"fewer than the {done.networks} networks: the classes would never be matched together"
        raise ConfigError("--warmup", done.warmup, expected, "Lower it, or take --match=class.")


# Matching of gradients.


def distance(goal: Mapping[str, jax.Array], found: Mapping[str, jax.Array]) -> jax.Array:
    """Sum over the outputs (the last axis) of every weight matrix of 1 - cos of their gradients.

    Biases and norms, which have one axis, are left out.
    """
    total = 0.0
    for name, wanted in goal.items():
        if wanted.ndim > 1:
            x, y = (of.reshape(-1, of.shape[-1]) for of in (wanted, found[name]))
            lengths = _norms(x) * _norms(y)
            total += jnp.sum(1 - jnp.sum(x * y, axis=0) / (lengths + 1e-6))
    return total


def _norms(x: jax.Array) -> jax.Array:
    """Lengths of columns, with a gradient of 0 for columns of zeros."""
    square = jnp.sum(x * x, axis=0)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)


RowLosses = Callable[[Mapping[str, jax.Array], jax.Array, jax.Array], jax.Array]


def matching(
    losses: RowLosses,
    params: Mapping[str, jax.Array],
    real: tuple[jax.Array, jax.Array],
    synthetic: tuple[jax.Array, jax.Array],
    together: bool,
) -> tuple[jax.Array, jax.Array]:
    """(distance of the gradients on real and synthetic images, its gradient in the synthetic ones [C, m, ...]).

    Args:
      losses: (params, images [n, ...], labels [n]) -> the loss of each, [n].
      real, synthetic: (images [C, n, ...] or [C, m, ...] of the classes 0 to C, which of them there are bool [C, .]).
      together: the gradient on all synthetic images is matched to the mean over classes of those on real ones (DCC);
        else that of every class to its own, and the distances are summed (DC).
    """

    def slope(images, there, labels):
        def mean(params):
            return jnp.sum(jnp.where(there, losses(params, images, labels), 0.0)) / jnp.maximum(there.sum(), 1)

        return jax.grad(mean)(params)

    def of_class(label, images, there):
        return slope(images, there, jnp.full(len(images), label))

    classes = jnp.arange(len(real[0]))
    if not together:

        def match(entry):
            label, images, there, made, made_there = entry
            goal = of_class(label, images, there)
            return jax.value_and_grad(lambda made: distance(goal, of_class(label, made, made_there)))(made)

        values, slopes = jax.lax.map(match, (classes, *real, *synthetic))
        return values.sum(), slopes

    def add(total, entry):
        return jax.tree.map(jnp.add, total, of_class(*entry)), None

    total, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, dict(params)), (classes, *real))
    goal = jax.tree.map(lambda x: x / len(classes), total)
    made, there = synthetic
    labels = jnp.repeat(classes, made.shape[1])

    def apart(made):
        return distance(goal, slope(made.reshape(-1, *made.shape[2:]), there.reshape(-1), labels))

    return jax.value_and_grad(apart)(made)


# The network: the encoder of a config with a linear classifier.


class Classifier(nnx.Module):
    """Images [n, s, s, 3] -> logits [n, classes] float32."""

    def __init__(self, config, classes: int, *, rngs: nnx.Rngs):
        self.encoder = ENCODERS[config.model.encoder](config, rngs)
        self.out = nnx.Linear(self.encoder.features, classes, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        return self.out(self.encoder(images)).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class Programs:
    """What is compiled once: init(seed) -> (params, statistics); match (see `one_match`); train (see `train_passes`);
    views: uint8 [C, n, h, w, 3] -> float32 [C, n, s, s, 3] as the encoder sees them."""

    init: Callable
    match: Callable
    train: Callable
    views: Callable


def compile_programs(config, recipe: Recipe, classes: int) -> Programs:
    """The programs of a recipe, for the encoder of a config."""
    config = config_for(config, jax.default_backend())
    model = define_model(lambda rngs: Classifier(config, classes, rngs=rngs))

    def init(seed):
        _, params, statistics = nnx.split(model.build(nnx.Rngs(jax.random.key(seed))), nnx.Param, ...)
        return to_flat(params), to_flat(statistics)

    def views(images):
        seen = eval_view(images.reshape(-1, *images.shape[2:]), config.augment)
        return seen.reshape(*images.shape[:2], *seen.shape[1:])

    return Programs(
        jax.jit(init),
        jax.jit(partial(one_match, model, recipe), static_argnames="together"),
        jax.jit(partial(train_passes, model, recipe)),
        jax.jit(views),
    )


def one_match(model: ModelDef, recipe: Recipe, network, real: jax.Array, pixels, *, together: bool):
    """(pixels (images [C, m, s, s, 3], their velocity) after one step of SGD, the distance before it).

    network: (params, statistics); real: [C, n, s, s, 3]. Batch norms use the statistics of the images at hand.
    """
    params, statistics = network
    images, velocity = pixels

    def losses(params, images, labels):
        logits = model.merge(params, statistics, training=True)(images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)

    given = [(of, jnp.ones(of.shape[:2], bool)) for of in (real, images)]
    value, slope = matching(losses, params, *given, together)
    velocity = recipe.momentum * velocity + slope
    return (images - recipe.rate * velocity, velocity), value


def train_passes(model: ModelDef, recipe: Recipe, network, images: jax.Array, key: jax.Array):
    """The network (params, statistics) after `recipe.passes` passes of SGD over the synthetic images [C, m, ...]."""
    labels = jnp.repeat(jnp.arange(len(images)), images.shape[1])
    images = images.reshape(-1, *images.shape[2:])
    size = min(BATCH, len(images))
    each = -(-len(images) // size)

    def step(number, network):
        params, statistics = network
        order = jax.random.permutation(jax.random.fold_in(key, number // each), len(images))
        rows = order[(number % each * size + jnp.arange(size)) % len(images)]

        def loss(params):
            module = model.merge(params, statistics, training=True)
            values = optax.softmax_cross_entropy_with_integer_labels(module(images[rows]), labels[rows])
            return values.mean(), to_flat(nnx.split(module, nnx.Param, ...)[2])

        slope, statistics = jax.grad(loss, has_aux=True)(params)
        return jax.tree.map(lambda p, s: p - recipe.network_rate * s, params, slope), statistics

    return jax.lax.fori_loop(0, recipe.passes * each, step, network)


# Real images.


class RealImages:
    """The decoded images of every class that has some: `classes` int [C], their labels; draw(rng, n) -> uint8 [C, n,
    h, w, 3], of a class with fewer than n images some of them twice.

    Raises DataError for a split with fewer than two classes, ConfigError where its images do not fit in memory.
    """

    def __init__(self, config, source: DataSource):
        labels, size = read_labels(source), config.data.image_size
        self.classes = np.unique(labels[labels >= 0])
        if len(self.classes) < 2:
            fix = "Name an attribute that is the class: --config.data.label=NAME."
            raise DataError(f"classes of split {config.data.split}", len(self.classes), "at least two", fix)
        kept = np.flatnonzero(labels >= 0)
        fix = "Set a smaller --config.data.image_size, or prepare a part of the set."
        check_fits("--data", len(kept) * size * size * 3, "of decoded images", fix)
        self._images = np.empty((len(kept), size, size, 3), np.uint8)
        for row, place in enumerate(progress(kept, "images", len(kept))):
            self._images[row] = decode_record(source[int(place)], size, 3, config.data.fit)
        self._members = [np.flatnonzero(labels[kept] == label) for label in self.classes]

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Images of every class, drawn by the generator alone."""
        places = [rng.choice(rows, count, replace=len(rows) < count) for rows in self._members]
        return self._images[np.stack(places)]

    @property
    def largest(self) -> int:
        """Images of the largest class."""
        return max(map(len, self._members))


# The whole of it: stopped and started again, it continues.


@dataclasses.dataclass
class Condensed:
    """Where a condensation is: images and their velocity [C, m, s, s, 3] float32; networks that are done; distances,
    the mean over the matches of each of them."""

    images: np.ndarray
    velocity: np.ndarray
    done: int = 0
    distances: tuple[float, ...] = ()


def check_fits(flag: str, needed: int, of: str, fix: str) -> None:
    """Raises ConfigError for more bytes than half of what this host has."""
    if needed > host_memory() / 2:
        expected = f"at most half of the {host_memory() / 2**30:,.1f} GiB of this host"
        raise ConfigError(flag, f"{needed / 2**30:,.1f} GiB {of}", expected, fix)


def condense(config, recipe: Recipe, out: str | Path) -> tuple[Manifest, tuple[float, ...]]:
    """Condenses the training split of a config into a dataset in the folder `out`: its manifest, and the distances.

    The same config and recipe give the same images, also where it was stopped in between: `out` keeps the state until
    the dataset is complete.

    Raises ConfigError for numbers out of bounds and for configs without images, DataError for a folder that has a
    dataset or the state of other work, and for a set with fewer than two classes.
    """
    check_recipe(recipe)
    recipe, folder = recipe.complete(), as_path(out)
    if in_bucket(folder):
        raise DataError("--out", str(folder), "a local folder", "Write it here and copy it.")
    if (folder / MANIFEST).exists():
        raise DataError("--out", str(folder), "a folder without a finished set", "Choose another folder.")
    if config.data.source == "vectors" or config.augment.bits:
        name, value = ("augment.bits", config.augment.bits) if config.augment.bits else ("data.source", "vectors")
        raise ConfigError(name, value, "a config of images alone: pixels are what is trained")
    source = apply_perturbations(open_training_source(config.data)[0], config.data, config.seed)
    if source.channels == VECTOR_CHANNELS:
        raise ConfigError("data.source", config.data.source, "images: pixels are what is trained")
    with locked(folder, "--out", DataError):
        real = RealImages(config, source)
        recipe = dataclasses.replace(recipe, real=min(recipe.real, real.largest))
        bytes_of_match = len(real.classes) * recipe.real * config.augment.size**2 * 3 * 4
        check_fits("--real", bytes_of_match, "of pixels of a match", "Set a smaller --real.")
        about = _about(config, recipe, source.manifest)
        state = _train(config, recipe, real, folder / STATE, about)
        manifest = write_records(
            folder,
            f"{source.manifest.name}_condensed",
            {config.data.split: _records(state.images, real.classes, config.augment)},
            class_names=source.manifest.class_names,
        )
        (folder / STATE).unlink(missing_ok=True)
    return manifest, state.distances


def _train(config, recipe: Recipe, real: RealImages, path: Path, about: str) -> Condensed:
    programs = compile_programs(config, recipe, len(real.classes))
    state = _restored(path, about) or _at_start(programs, recipe, real)
    pixels, saved = jax.device_put((state.images, state.velocity)), time.monotonic()
    left = range(state.done, recipe.networks)
    for number in progress(left, "networks", len(left)):
        network = programs.init(np.uint32((recipe.seed + number) % 2**32))
        values = []
        for match in range(recipe.matches):
            rng = np.random.default_rng((recipe.seed, number, match))
            together = recipe.together(number, match)
            seen = programs.views(real.draw(rng, recipe.real))
            pixels, value = programs.match(network, seen, pixels, together=together)
            values.append(value)
            if match + 1 < recipe.matches:
                key = jax.random.fold_in(jax.random.fold_in(jax.random.key(recipe.seed), number), match)
                network = programs.train(network, pixels[0], key)
        mean = float(np.mean(jax.device_get(values)))
        if not np.isfinite(mean):
            fix = "Lower --rate or --network_rate."
            raise DataError("distance of the gradients", mean, f"a finite number (network {number})", fix)
        state = Condensed(*jax.device_get(pixels), number + 1, (*state.distances, mean))
        if time.monotonic() - saved >= SAVE_EVERY:
            _save(path, state, about)
            saved = time.monotonic()
    _save(path, state, about)
    return state


def _at_start(programs: Programs, recipe: Recipe, real: RealImages) -> Condensed:
    rng = np.random.default_rng((recipe.seed, 2**32))
    images = np.asarray(programs.views(real.draw(rng, recipe.per_class)))
    if recipe.start == "noise":
        images = rng.normal(size=images.shape).astype(np.float32)
    return Condensed(images, np.zeros_like(images))


def _about(config, recipe: Recipe, manifest: Manifest) -> str:
    """What a state belongs to, as text: equal work has equal text."""
    encoder = json.loads(config_to_json(config))
    read = {name: encoder[name] for name in ("data", "augment", "model", "precision")}
    digest = hashlib.sha256(json.dumps(read, sort_keys=True, default=str).encode()).hexdigest()
    return json.dumps({"recipe": dataclasses.asdict(recipe), "set": manifest.fingerprint, "config": digest})


def _save(path: Path, state: Condensed, about: str) -> None:
    numbers = {"done": np.asarray(state.done), "distances": np.asarray(state.distances)}
    about = {"about": np.frombuffer(about.encode(), np.uint8)}
    write_arrays(path, {"images": state.images, "velocity": state.velocity} | numbers | about)


def _restored(path: Path, about: str) -> Condensed | None:
    """The state that was saved in `path`; None where there is none. DataError for that of other work."""
    if not path.exists():
        return None
    found = load_arrays(path)
    if not isinstance(found, dict) or bytes(found.get("about", b"")) != about.encode():
        fix = f"Give the command of then, choose another folder, or remove {path}."
        raise DataError("--out", str(path.parent), "the state of this very command, data and config", fix)
    distances = tuple(map(float, found["distances"].reshape(-1)))
    return Condensed(found["images"], found["velocity"], int(found["done"]), distances)


def _records(images: np.ndarray, classes: np.ndarray, augment) -> Iterator[dict]:
    """Records of standardized images [C, m, s, s, 3], class by class, as PNG."""
    mean, std = (np.asarray(values, np.float32) for values in (augment.mean, augment.std))
    pixels = np.rint(np.clip(images * std + mean, 0.0, 1.0) * 255).astype(np.uint8)
    for number, of_class in enumerate(pixels):
        for place, image in enumerate(of_class):
            file = io.BytesIO()
            Image.fromarray(image).save(file, "PNG")
            id = number * len(of_class) + place
            yield {"id": id, "image": file.getvalue(), "label": int(classes[number])}
