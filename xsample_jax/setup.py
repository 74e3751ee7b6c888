"""From a config to a run that can start: the training split, the model, the optimizer and the train step."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from xsample_jax.augment.ids import NARROW, VECTOR_CHANNELS
from xsample_jax.augment.views import draw_numbers, eval_view, map_random_views
from xsample_jax.checkpoint import with_shardings
from xsample_jax.config.rules_objective import check_kernels
from xsample_jax.data.captions import find_text_misfits
from xsample_jax.data.class_texts import load_class_embeddings
from xsample_jax.data.dataset import Dataset, check_class_names, open_dataset
from xsample_jax.data.perturb import apply_perturbations
from xsample_jax.data.plans import read_plan
from xsample_jax.data.side import count_clusters, read_groups, recorded_rates
from xsample_jax.data.sources import check_memory, identify_images, open_training_source, source_folder
from xsample_jax.data.splits import check_eval_splits
from xsample_jax.data.vectors import image_shape
from xsample_jax.encoder import Encoder, load_encoder
from xsample_jax.errors import CheckpointError, ConfigError, raise_all
from xsample_jax.metrics.profiling import host_memory
from xsample_jax.models.heads import unit_rows
from xsample_jax.models.layers import compiler_options
from xsample_jax.models.param_groups import ParamGroups, check_rules
from xsample_jax.models.thin import define_thin, thin_statistics
from xsample_jax.models.towers import build_model, config_for
from xsample_jax.objectives.adversary import Adversary, make_adversary
from xsample_jax.objectives.bank import check_clusters
from xsample_jax.objectives.from_config import build_objective
from xsample_jax.objectives.frozen import (
    FINGERPRINT,
    define_frozen,
    find_misfits,
    frozen_memory,
    init_class_means,
    parts_of_teacher,
    reads_texts,
    taught,
)
from xsample_jax.objectives.learned_state import init_memory, init_objective_parameters
from xsample_jax.objectives.objective import Objective
from xsample_jax.objectives.side_information import BY_RECORD
from xsample_jax.objectives.step_blocks import SIDE_INFORMATION
from xsample_jax.objectives.style_noise import init_styles
from xsample_jax.objectives.trajectory import init_past
from xsample_jax.optim import SCHEDULE_FREE, make_optimizer
from xsample_jax.sharding import batch_sharding, make_mesh, replicated, state_shardings
from xsample_jax.state import ModelDef, Progress, Start, TrainState, define_model, init_state
from xsample_jax.step import StepExtras, init_online_probe, make_train_step

# What the shapes of a run depend on of its data.


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
    """What shapes depend on: records in the split, image channels, width of caption embeddings, size of the vocabulary,
    number of classes, depth of the class tree, the shape of one record's entries of data.side by name, how many
    clusterings there are and the most clusters of one, whether ids are of two words (augment/ids.py), which images
    they are (identify_images; "": not known), and the names of the classes (() without)."""

    count: int
    channels: int
    caption_dim: int | None = None
    vocab_size: int | None = None
    classes: int = 1000
    depth: int = 3
    side: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    clusters: tuple[int, int] = (1, 1000)
    wide_ids: bool = False
    images: str = ""
    class_names: tuple[str, ...] = ()


# Shapes for compiling a config whose data is elsewhere: RGB photographs, all-mpnet-base-v2 embeddings.
PLACEHOLDER_SPEC = DatasetSpec(count=1_281_167, channels=3, caption_dim=768, vocab_size=32_768)


def dataset_spec(examples: Dataset) -> DatasetSpec:
    """Reads the shapes off the first example."""
    first = examples[0]
    width = lambda name: first[name].shape[-1] if name in first else None  # noqa: E731
    vocab_size = examples.tokenizer.get_vocab_size() if examples.tokenizer is not None else None
    return DatasetSpec(
        len(examples),
        examples.source.channels,
        width("caption_embedding"),
        vocab_size,
        len(examples.source.manifest.class_names),
        len(examples.hierarchy) + 1,
        {name: first[name].shape for name in examples.side},
        wide_ids=first["id"].shape == (2,),
        class_names=tuple(examples.source.manifest.class_names),
    )


# From a config, data facts and devices to the parts of a run: objective, model, optimizer, shardings, train step.


@dataclasses.dataclass(frozen=True)
class RunSetup:
    """Everything of a run that follows from its config, the shapes of its data and its devices.

    class_embeddings: of the texts of all classes [classes, E], for objectives that read them.
    counted_from: (step, data_position) from which `epochs` are counted in steps, see Progress.
    """

    config: object
    facts: DatasetSpec
    mesh: Mesh
    class_embeddings: np.ndarray | None = None
    counted_from: tuple[int, int] = (0, 0)

    @cached_property
    def objective(self) -> Objective:
        objective = build_objective(self.config.objective)
        if objective.bank is not None:  # it has more rows than there are images, as devices must divide them
            bank = dataclasses.replace(objective.bank, images=self.facts.count)
            objective = dataclasses.replace(objective, bank=bank)
        if objective.clusters is None:
            return objective
        epoch = max(1, self.facts.count // self.config.batch_size)
        return dataclasses.replace(objective, clusters=objective.clusters.of_dataset(epoch, self.facts.classes))

    @property
    def clusters(self) -> tuple[int, int]:
        """How many clusterings there are, and the most clusters of one."""
        k = self.objective.clusters.k if self.objective.clusters else ()
        return (len(k), max(k)) if k else self.facts.clusters

    @property
    def view_shape(self) -> tuple[int, ...]:
        """Of one view, with alpha where images have it."""
        size, channels = self.config.augment.size, self.facts.channels
        return (self.config.data.image_size,) if channels == VECTOR_CHANNELS else (size, size, channels)

    @cached_property
    def steps(self) -> int:
        if self.config.steps is not None:
            return self.config.steps
        step, position = self.counted_from
        left = self.config.epochs * self.facts.count - position
        return max(1, step + math.ceil(max(0.0, left) / self.config.batch_size))

    @property
    def _platform(self) -> str:
        return self.mesh.devices.flat[0].platform

    def end_at(self, step: int) -> None:
        """Makes `step` the last one, whatever the config says; the compiled step keeps its schedule."""
        self.__dict__["steps"] = step

    @cached_property
    def model(self) -> ModelDef:
        return define_model(
            lambda rngs: build_model(
                config_for(self.config, self._platform),
                self.objective.text,
                self._text_size,
                predictor=self.objective.predictor,
                heads=self.objective.heads,
                rngs=rngs,
            ),
            ParamGroups.of(self.config.optimizer).frozen,
        )

    @property
    def _text_size(self) -> int | None:
        """What build_model takes for it."""
        if self.objective.text is not None:
            return self.facts.caption_dim if self.objective.text == "linear" else self.facts.vocab_size
        return self.facts.caption_dim if self.class_embeddings is None else self.class_embeddings.shape[1]

    @cached_property
    def thin(self) -> ModelDef | None:
        """The thin network of an objective that has one."""
        if not self.objective.slim:
            return None
        return define_thin(config_for(self.config, self._platform), ParamGroups.of(self.config.optimizer).frozen)

    @cached_property
    def optimizer(self) -> tuple[optax.GradientTransformation, Callable]:
        """(transformation, learning-rate schedule)."""
        return make_optimizer(self.config, self.steps)

    @cached_property
    def init(self) -> Callable[[], TrainState]:
        objective, width, seed = self.objective, self.config.model.head.dim, self.config.seed
        frozen = self.frozen_memory  # read now: within the trace of the state it could not be
        side = {name: self.abstract_batch[name] for name in SIDE_INFORMATION if name in self.abstract_batch}
        if self.class_embeddings is not None:
            side["class_embedding"] = jax.ShapeDtypeStruct(self.class_embeddings.shape, self.class_embeddings.dtype)
        side.pop("id")  # a queue entry is a key of its own, even when its image comes back
        return partial(
            init_state,
            self.model,
            self.optimizer[0],
            Start(
                seed,
                self.config.precision.params,
                self.config.optimizer.ema is not None or self.config.optimizer.name == SCHEDULE_FREE,
                partial(thin_statistics, self.thin) if self.thin is not None else dict,
            ),
            partial(init_objective_parameters, objective, width, self.facts.classes, seed, self.config.batch_size),
            lambda params: {
                **init_memory(objective, params, width, self.facts.count, side, self.clusters),
                **init_past(objective, self.facts.count, self.facts.classes),
                **self._init_along(),
                **self._init_frozen(frozen),
            },
        )

    @cached_property
    def adversary(self) -> Adversary | None:
        """What makes images for the encoder to learn from, where the config asks for it."""
        return make_adversary(
            config_for(self.config, self._platform), self.objective, self.facts.channels, self.facts.caption_dim
        )

    @cached_property
    def frozen(self) -> Encoder | None:
        """The frozen teacher of an objective that has one.

        Raises ConfigError or Problems: there is no run to take it from, or it does not fit this run.
        """
        if not self.objective.frozen:
            return None
        path = self.config.objective.frozen
        if path is None:
            expected = f"the folder of a finished run: objective.preset = {self.config.objective.preset!r} learns from "
            raise ConfigError("objective.frozen", None, expected + "its encoder", "Set --config.objective.frozen=RUN.")
        teacher = load_encoder(path)
        problems = list(find_misfits(teacher.config, self.config, self.objective, teacher.features))
        if reads_texts(self.objective):
            problems += find_text_misfits(self.config, self.objective.text, self._text_size, teacher)
        raise_all(problems, "the teacher")
        return teacher

    @cached_property
    def frozen_memory(self) -> dict[str, np.ndarray]:
        """The weights of the frozen teacher as entries of the memory; {} without one."""
        return frozen_memory(parts_of_teacher(self.objective, self.frozen)) if self.frozen is not None else {}

    def _init_frozen(self, frozen: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """The memory of the frozen teacher: zeros of the shapes of its weights, which new_state puts in their place."""
        if self.frozen is None:
            return {}
        shapes = {name: jnp.zeros(value.shape, value.dtype) for name, value in frozen.items()}
        return shapes | init_class_means(self.objective, self.facts.classes, self.frozen.features)

    def check_frozen(self, state: TrainState) -> None:
        """Raises CheckpointError where a state has learned from another frozen teacher than the one of this run."""
        if self.frozen is None or int(state.memory[FINGERPRINT]) == int(self.frozen_memory[FINGERPRINT]):
            return
        raise CheckpointError(
            "objective.frozen",
            self.config.objective.frozen,
            "the teacher that this run began with; the weights there are of another one",
            "Give the run folder or RUN/checkpoints/STEP of then, or start in another folder.",
        )

    def check_images(self, progress: Progress, allow: bool) -> bool:
        """Whether a checkpoint is of other images than this run, which only with `allow` is no CheckpointError."""
        if progress.images in ("", self.facts.images):
            return False
        per_image = self.objective.memory is not None or self.objective.bank is not None or self.objective.past
        if not allow or per_image:
            expected = f"{self.facts.images}, those of data.path = {self.config.data.path}"
            kept = f"start anew: {self.config.objective.preset} keeps something for every image"
            kept = kept if per_image else "--allow_config_change"
            fix = f"Train on the data, split, share and seed of then, or {kept}."
            raise CheckpointError("images of the checkpoint", progress.images, expected, fix)
        return True

    def _init_along(self) -> dict[str, jax.Array]:
        """The memory of everything else that is trained, beside the objective's."""
        climbing, styles = self.adversary.init() if self.adversary is not None else {}, self.config.model.style_noise
        if not self.config.eval.online_probe and styles.kind is None:
            return climbing
        network = nnx.eval_shape(lambda: self.model.build(nnx.Rngs(0)))
        climbing |= init_styles(styles, network.encoder.widths) if styles.kind is not None else {}
        if not self.config.eval.online_probe:
            return climbing
        return climbing | init_online_probe(network.encoder.features, self.facts.classes)

    @cached_property
    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and shardings of the state."""
        abstract = jax.eval_shape(self.init, pretrained=None)  # as new_state calls it: it is traced once
        check_rules(ParamGroups.of(self.config.optimizer), abstract.params)
        return with_shardings(abstract, state_shardings(abstract, self.mesh, self.config.mesh.rules))

    def new_state(self, pretrained: Mapping[str, np.ndarray] | None = None) -> TrainState:
        """The state at step 0, made where it belongs; `pretrained` {path: array} takes the place of new values."""
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state)
        # It runs once: on CPU optimizing the random number code would take ten times longer than running it.
        if self.frozen is not None:
            pretrained = {**(pretrained or {}), **self.frozen_memory}
        options = {"xla_backend_optimization_level": 0} if self._platform == "cpu" else None
        return jax.jit(self.init, out_shardings=shardings, compiler_options=options)(pretrained=pretrained or None)

    @cached_property
    def abstract_batch(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes, dtypes and shardings of a training batch."""
        config, facts, batch = self.config, self.facts, self.config.batch_size
        shapes = {
            "image": ((batch, *image_shape(config.data.image_size, facts.channels)), jnp.uint8),
            "id": ((batch, 2) if facts.wide_ids else (batch,), jnp.int32),
            "label": ((batch,), jnp.int32),
            "caption_embedding": ((batch, facts.caption_dim), jnp.float16),
            "caption_tokens": ((batch, config.model.text.length), jnp.int32),
            "path": ((batch, facts.depth), jnp.int32),
            "index": ((batch,), jnp.int32),
            "part": ((batch,), jnp.int32),
            "task": ((batch,), jnp.int32),
        }
        for name, kind in BY_RECORD.items():  # without a dataset, one number per record is the placeholder
            shapes[name] = ((batch, *facts.side.get(name, (1,) * kind.wide)), jnp.dtype(kind.dtype))
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
        extras = StepExtras(
            self.mesh,
            self.class_embeddings,
            self.adversary,
            define_frozen(self.objective, self.frozen, self._platform),
            self.thin,
        )
        objective = taught(self.objective, self.config, self.frozen)
        step = make_train_step(self.config, self.model, objective, self.optimizer, self.steps, extras)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state)
        batch = {name: leaf.sharding for name, leaf in self.abstract_batch.items()}
        return jax.jit(
            step,
            in_shardings=(shardings, batch),
            out_shardings=(shardings, replicated(self.mesh)),
            donate_argnums=0,
            compiler_options=compiler_options(self.config.model.remat, self._platform),
        )

    @cached_property
    def encode(self) -> Callable:
        """jitted encode(state, images uint8 [b, H, W, C], background or None, ids) -> (features [b, F], z [b, D]).

        By the moving average of the model where the state has one. ids: int [b] or [b, 2] of the images; with them
        the features are the mean over eval.views random views, and so is z, unit rows again; without them those of the
        plain view.
        """
        config = self.config

        def encode(state: TrainState, images, background=None, ids=None):
            state = state.averaged()

            def embed(view):
                return self.model.merge(state.params, state.statistics, training=False).embed(view)

            if ids is None:
                return embed(eval_view(images, config.augment, background))
            numbers = draw_numbers(config.seed, 0, ids, config.eval.views)
            features, z = map_random_views(embed, images, numbers, config.augment, background)
            return features.mean(axis=0), unit_rows(z.mean(axis=0))

        return jax.jit(encode, out_shardings=batch_sharding(self.mesh))


def build_run(config, mesh: Mesh | None = None) -> tuple[RunSetup, Dataset]:
    """Opens the training split of a config and returns the parts of its run, and the examples."""
    mesh = mesh or make_mesh(config.mesh, config.batch_size)
    objective = build_objective(config.objective)
    check_kernels(config, objective, mesh)
    fields = objective.requires
    source, rates = open_training_source(config.data)
    check_class_names(objective, source)
    if "index" in fields and len(source) > NARROW:
        expected = f"one that keeps no number for each image: there are {len(source):,}, more than {NARROW:,}"
        raise ConfigError("objective.preset", config.objective.preset, expected, "Take simclr, for example.")
    examples = open_dataset(config, config.data.split, fields, source)
    examples.rates = recorded_rates(config.data, source) if rates is None else rates
    examples.groups = read_groups(config.data, source, config.batch_size)
    classes = None
    if "class_embedding" in fields:
        classes = load_class_embeddings(source_folder(config.data), examples.source)
    check_eval_splits(config)
    examples.plan = read_plan(config, examples.source)
    examples.source = apply_perturbations(examples.source, config.data, config.seed)
    if config.data.cache == "decoded":
        images = len(examples) * math.prod(examples.image_shape)
        check_memory("decoded", "of decoded images", images)
        examples.keep = True
    if config.eval.online_probe and not examples.source.manifest.class_names:
        fix = "Set --config.eval.online_probe=false."
        raise ConfigError("eval.online_probe", True, "False for a set without class names", fix)
    facts = dataset_spec(examples)
    if objective.clusters:
        check_clusters(objective.clusters, len(examples), len(source.manifest.class_names))
    elif objective.centers:
        facts = dataclasses.replace(facts, clusters=count_clusters(config.data, source))
    prints = [one.manifest.fingerprint for one in getattr(source, "sources", [source])]
    facts = dataclasses.replace(facts, images=identify_images(config, prints))
    setup = RunSetup(config, facts, mesh, classes)
    if objective.clusters and setup.objective.clusters.start >= setup.steps:
        expected = f"a step below {setup.steps:,}, the steps of the run: it would never cluster"
        fix = "Set --config.objective.clusters.start=1, or train for longer."
        raise ConfigError("objective.clusters.start", setup.objective.clusters.start, expected, fix)
    return setup, examples


def check_device_memory(parts: RunSetup) -> None:
    """Raises ConfigError where the arrays of a step are more than the devices of this process can hold.

    Counted are the state, the gradients, the images of a batch and their views, by their shapes: a lower bound, as
    activations come on top of it. `--dry_run` compiles the step and counts those too.
    """
    config, mesh = parts.config, parts.mesh
    views = (config.batch_size * config.views, *parts.view_shape)
    images = jax.ShapeDtypeStruct(views, jnp.float32, sharding=batch_sharding(mesh))
    arrays = (parts.abstract_state, parts.abstract_state.params, parts.abstract_batch, images)
    each = sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(arrays)
    )
    devices = mesh.local_devices
    if devices[0].platform == "cpu":  # they share the memory of the host
        each, room = each * len(devices), host_memory()
    else:
        room = (devices[0].memory_stats() or {}).get("bytes_limit", each)
    if each > room:
        found = f"{each / 2**30:,.1f} GiB for state, gradients and images"
        fix = "Lower batch_size, views, image sizes, model.width or objective.queue, or take more devices."
        if parts.objective.bank is not None:
            fix += " Or set objective.bank.dtype=bfloat16."
        if parts.objective.past:
            fix += " Or lower objective.past: it keeps that many rows of every image, and one."
        raise ConfigError("device memory", found, f"at most {room / 2**30:,.1f} GiB", fix)
