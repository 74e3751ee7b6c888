"""From a config to the parts of a run: objective, model, optimiser, shardings and the compiled-to-be train step."""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Mapping
from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from xsample_jax.captions.imagenet_classes import imagenet_class_embeddings
from xsample_jax.captions.tokenizer import load_tokenizer
from xsample_jax.checkpoint import with_shardings
from xsample_jax.data.altered import altered
from xsample_jax.data.augment import eval_view
from xsample_jax.data.embedding_rows import unit_rows
from xsample_jax.data.pipeline import Examples
from xsample_jax.data.sources import check_memory, open_source, open_training_source, source_folder
from xsample_jax.data.whole_file import load_arrays
from xsample_jax.errors import ConfigError, DataError, Problems
from xsample_jax.kernel_fit import check_kernels
from xsample_jax.mesh import batch_sharding, make_mesh, replicated
from xsample_jax.metrics.progress import progress
from xsample_jax.models.remat import compiler_options
from xsample_jax.models.towers import build_model
from xsample_jax.objectives.build import build_objective, presets_that_read
from xsample_jax.objectives.memory import init_memory
from xsample_jax.objectives.objective import Objective
from xsample_jax.objectives.parameters import init_objective_parameters
from xsample_jax.online_probe import init_online_probe
from xsample_jax.optim import make_optimizer
from xsample_jax.processes import say
from xsample_jax.sharding import state_shardings
from xsample_jax.state import ModelDef, TrainState, define_model, init_state
from xsample_jax.step import make_train_step
from xsample_jax.step_blocks import SIDE_INFORMATION


@dataclasses.dataclass(frozen=True)
class DataFacts:
    """What shapes depend on: records in the split, image channels, width of caption embeddings, size of the vocabulary,
    number of classes, depth of the class tree."""

    count: int
    channels: int
    caption_dim: int | None = None
    vocab_size: int | None = None
    classes: int = 1000
    depth: int = 3


# Shapes for compiling a config whose data is elsewhere: RGB photographs, all-mpnet-base-v2 embeddings.
STAND_IN = DataFacts(count=1_281_167, channels=3, caption_dim=768, vocab_size=32_768)


def open_examples(config, split: str, fields: frozenset[str], source=None) -> Examples:
    """The decoded examples of a split, or of `source`, with the entries in `fields`; DataError when it lacks one."""
    source = open_source(config.data, split) if source is None else source
    check_side_information(fields, source)
    folder = source_folder(config.data)
    tokenizer = load_tokenizer(folder) if "caption_tokens" in fields else None
    return Examples(
        source,
        config.data.image_size,
        config.data.caption,
        fields,
        on_error=config.data.on_error,
        tokenizer=tokenizer,
        length=config.model.text.length,
        hierarchy=tuple(config.data.hierarchy),
    )


def check_side_information(fields: frozenset[str], source) -> None:
    """Raises DataError (or Problems) for entries in `fields` that no data set, or not this one, can deliver.

    What a set has is read off its manifest and its first record.
    """
    first = source[0]
    labels = bool(source.manifest.class_names) or first["label"] >= 0
    has = {
        "label": labels,
        "class_embedding": labels,
        "caption_embedding": source.manifest.text_encoder is not None,
        "caption_tokens": bool(first["captions"]),
        "path": labels and bool(first["attributes"]),
        "index": True,
        "attributes": True,
    }
    presets = presets_that_read([name for name, there in has.items() if there])
    fix = f"Presets that this set has all for: {', '.join(presets)}."
    problems = []
    for name in sorted(fields):
        if name not in has:
            problems.append(DataError(f"batch entry {name}", None, "a graph that does not read it: no set has it", fix))
        elif not has[name]:
            expected = "a data set that has it, as the target graph or the text side of this objective reads it"
            problems.append(DataError(f"batch entry {name}", None, expected, fix))
    if problems:
        raise problems[0] if len(problems) == 1 else Problems(problems, "what the objective reads")


def load_class_embeddings(folder: pathlib.Path, source) -> np.ndarray:
    """Frozen embeddings of the class texts, float16 [classes, E], for the class_text graph.

    They are class_embeddings.npy of the record set; else, where its classes are ImageNet's, those that the package
    ships; else the mean caption embedding of every class in the split (exact where all images of a class share their
    caption, as in the emoji set). It says which unless it is the first.
    """
    path = folder / "class_embeddings.npy"
    if path.exists():
        found, classes = load_arrays(path), len(source.manifest.class_names)
        if len(found) != classes:
            expected = f"{classes}, one for each class that is trained on"
            raise DataError(
                f"rows of {path}", len(found), expected, "Embed the classes again, or mix sets of the same classes."
            )
        return found
    shipped = imagenet_class_embeddings(source.manifest.class_names)
    if shipped is not None:
        say(f"class_text graph: {len(shipped)} ImageNet classes, embeddings of the package")
        return shipped
    if source.manifest.text_encoder is None:
        raise DataError(
            "class embeddings",
            str(path),
            "that file, or caption embeddings in the records, for the class_text graph",
            "Write it with `python -m xsample_jax.tools.embed --what=classes`, or use --config.objective.graph=label.",
        )
    say(f"class_text graph: no {path.name} in the set, taking the mean caption embedding of every class")
    sums = np.zeros((len(source.manifest.class_names), source.manifest.text_encoder["dim"]), np.float32)
    for index in progress(range(len(source)), "class embeddings", len(source), enabled=jax.process_index() == 0):
        record = source[index]
        if record["label"] >= 0 and record["caption_embeddings"] is not None:
            sums[record["label"]] += record["caption_embeddings"][0]
    return unit_rows(sums).astype(np.float16)


def data_facts(examples: Examples) -> DataFacts:
    """Reads the shapes off the first example."""
    first = examples[0]
    width = lambda name: first[name].shape[-1] if name in first else None  # noqa: E731
    vocab_size = examples.tokenizer.get_vocab_size() if examples.tokenizer is not None else None
    return DataFacts(
        len(examples),
        examples.source.channels,
        width("caption_embedding"),
        vocab_size,
        len(examples.source.manifest.class_names),
        len(examples.hierarchy) + 1,
    )


@dataclasses.dataclass(frozen=True)
class Parts:
    """Everything of a run that follows from its config, the shapes of its data and its devices.

    class_embeddings: of the texts of all classes [classes, E], for objectives that read them.
    """

    config: object
    facts: DataFacts
    mesh: Mesh
    class_embeddings: np.ndarray | None = None

    @cached_property
    def objective(self) -> Objective:
        return build_objective(self.config.objective)

    @cached_property
    def steps(self) -> int:
        if self.config.steps is not None:
            return self.config.steps
        return max(1, math.ceil(self.config.epochs * self.facts.count / self.config.batch_size))

    @cached_property
    def model(self) -> ModelDef:
        facts = self.facts
        return define_model(
            lambda rngs: build_model(
                self.config,
                self.objective.text,
                facts.caption_dim,
                facts.vocab_size,
                predictor=self.objective.predictor,
                rngs=rngs,
            )
        )

    @cached_property
    def optimizer(self) -> tuple[optax.GradientTransformation, Callable]:
        """(transformation, learning-rate schedule)."""
        return make_optimizer(self.config, self.steps)

    @cached_property
    def init(self) -> Callable[[], TrainState]:
        objective, width, seed = self.objective, self.config.model.head.dim, self.config.seed
        side = {name: self.abstract_batch[name] for name in SIDE_INFORMATION if name in self.abstract_batch}
        if self.class_embeddings is not None:
            side["class_embedding"] = jax.ShapeDtypeStruct(self.class_embeddings.shape, self.class_embeddings.dtype)
        side.pop("id")  # a queue entry is a key of its own, even when its image comes back
        return partial(
            init_state,
            self.model,
            self.optimizer[0],
            seed,
            partial(init_objective_parameters, objective, width, self.facts.classes, seed),
            lambda params: init_memory(objective, params, width, self.facts.count, side) | self._init_online_probe(),
            self.config.precision.params,
            self.config.optimizer.ema is not None,
        )

    def _init_online_probe(self) -> dict[str, jax.Array]:
        if not self.config.eval.online_probe:
            return {}
        network = nnx.eval_shape(lambda: self.model.build(nnx.Rngs(0)))
        return init_online_probe(network.encoder.features, self.facts.classes)

    @cached_property
    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and shardings of the state."""
        abstract = jax.eval_shape(self.init)
        return with_shardings(abstract, state_shardings(abstract, self.mesh, self.config.mesh.rules))

    def new_state(self, pretrained: Mapping[str, np.ndarray] | None = None) -> TrainState:
        """The state at step 0, made where it belongs; `pretrained` {path: array} takes the place of new values."""
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state)
        # It runs once: on CPU optimising the random number code would take ten times longer than running it.
        on_cpu = self.mesh.devices.flat[0].platform == "cpu"
        options = {"xla_backend_optimization_level": 0} if on_cpu else None
        return jax.jit(self.init, out_shardings=shardings, compiler_options=options)(pretrained=pretrained)

    @cached_property
    def abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes, dtypes and shardings of a training batch."""
        config, facts, batch = self.config, self.facts, self.config.batch_size
        shapes = {
            "image": ((batch, config.data.image_size, config.data.image_size, facts.channels), jnp.uint8),
            "id": ((batch,), jnp.int32),
            "label": ((batch,), jnp.int32),
            "caption_embedding": ((batch, facts.caption_dim), jnp.float16),
            "caption_tokens": ((batch, config.model.text.length), jnp.int32),
            "path": ((batch, facts.depth), jnp.int32),
            "index": ((batch,), jnp.int32),
        }
        names = {"image", "id", "label"} | self.objective.requires
        sharding = batch_sharding(self.mesh)
        return {
            name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
            for name, (shape, dtype) in shapes.items()
            if name in names
        }

    @cached_property
    def train_step(self) -> Callable[[TrainState, dict], tuple[TrainState, dict]]:
        """The jitted update: state donated, shardings fixed, metrics replicated."""
        step = make_train_step(
            self.config, self.model, self.objective, *self.optimizer, self.steps, self.mesh, self.class_embeddings
        )
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state)
        batch = {name: leaf.sharding for name, leaf in self.abstract_batch.items()}
        return jax.jit(
            step,
            in_shardings=(shardings, batch),
            out_shardings=(shardings, replicated(self.mesh)),
            donate_argnums=0,
            compiler_options=compiler_options(self.config.model.remat, self.mesh.devices.flat[0].platform),
        )

    @cached_property
    def encode(self) -> Callable:
        """jitted encode(state, images uint8 [b, H, W, C], background or None) -> (features [b, F], z [b, D]).

        By the moving average of the model where the state has one.
        """

        def encode(state: TrainState, images, background=None):
            state = state.averaged()
            network = self.model.merge(state.params, state.statistics, training=False)
            return network.embed(eval_view(images, self.config.augment, background))

        return jax.jit(encode, out_shardings=batch_sharding(self.mesh))


def assemble(config, mesh: Mesh | None = None) -> tuple[Parts, Examples]:
    """Opens the training split of a config and returns the parts of its run, and the examples."""
    mesh = mesh or make_mesh(config.mesh, config.batch_size)
    objective = build_objective(config.objective)
    check_kernels(config, objective, mesh)
    fields = objective.requires
    source, rates = open_training_source(config.data)
    examples = open_examples(config, config.data.split, fields, source)
    examples.rates = rates
    classes = None
    if "class_embedding" in fields:
        classes = load_class_embeddings(source_folder(config.data), examples.source)
    examples.source = altered(examples.source, config.data, config.seed)
    if config.data.cache == "decoded":
        pictures = len(examples) * config.data.image_size**2 * examples.source.channels
        check_memory("decoded", "of decoded pictures", pictures)
        examples.keep = True
    if config.eval.online_probe and not examples.source.manifest.class_names:
        fix = "Set --config.eval.online_probe=false."
        raise ConfigError("eval.online_probe", True, "False for a set without class names", fix)
    return Parts(config, data_facts(examples), mesh, classes), examples
