"""From a config, data facts and devices to the parts of a run: objective, model, optimiser, shardings, train step."""

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

from xsample_jax.checkpoint import with_shardings
from xsample_jax.data.augment import eval_view
from xsample_jax.data_facts import DataFacts
from xsample_jax.mesh import batch_sharding, replicated
from xsample_jax.models.remat import compiler_options
from xsample_jax.models.towers import build_model
from xsample_jax.objectives.build import build_objective
from xsample_jax.objectives.memory import init_memory
from xsample_jax.objectives.objective import Objective
from xsample_jax.objectives.parameters import init_objective_parameters
from xsample_jax.online_probe import init_online_probe
from xsample_jax.optim import make_optimizer
from xsample_jax.sharding import state_shardings
from xsample_jax.state import ModelDef, TrainState, define_model, init_state
from xsample_jax.step import make_train_step
from xsample_jax.step_blocks import SIDE_INFORMATION


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
    def repeats(self) -> bool:
        """Whether a batch may hold a record several times (but for the one batch where two epochs meet)."""
        data = self.config.data
        return bool(data.mix or data.balance) or self.facts.count < self.config.batch_size

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
            self.config,
            self.model,
            self.objective,
            *self.optimizer,
            self.steps,
            self.mesh,
            self.class_embeddings,
            self.repeats,
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
