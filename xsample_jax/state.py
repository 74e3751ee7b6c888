"""The train state: parameters, running statistics and optimizer state, all as flat dicts {path: array}.

A path reads like "encoder/stages/0/1/conv2/kernel": masks, sharding rules, checkpoints and weight import share it.
"""

import dataclasses
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from xsample_jax.errors import ConfigError

# Exponential moving averages over steps: of the whole model for evaluation, and of the teacher of an objective.
#
# The average for evaluation (`optimizer.ema`) holds every parameter and every running statistic of batch norms. The
# statistics are averaged too: those of the last step belong to the last parameters, not to averaged ones.
# It is another thing than the EMA encoder of MoCo or BYOL, which the loss reads (`objective.teacher`,
# objectives/learned_state.py); both may be on.


def moved(
    average: Mapping[str, jax.Array], values: Mapping[str, jax.Array], decay: jax.Array | float
) -> dict[str, jax.Array]:
    """decay * average + (1 - decay) * values, for every entry of `average`; `values` may have more."""
    return {name: decay * old + (1 - decay) * values[name] for name, old in average.items()}


def start_average(values: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """A float32 copy of the values: an average in bfloat16 would stand still, as its steps are below its rounding."""
    return {name: jnp.array(value, jnp.float32) for name, value in values.items()}


def warm_up(decay: float, step: jax.Array) -> jax.Array:
    """min(decay, (1 + t) / (10 + t)) after t updates, float32.

    So the average forgets the random start in any run, also in one shorter than 1 / (1 - decay) updates (the rule of
    TensorFlow's ExponentialMovingAverage with num_updates).
    """
    done = jnp.asarray(step, jnp.float32)
    return jnp.minimum(jnp.float32(decay), (1 + done) / (10 + done))


# Which numbers have which type, and how parameters are updated when they are kept in bfloat16.
#
#     precision.params    parameters of the model, as they are kept between steps
#     precision.compute   activations and products of the model (parameters are cast where they are used)
#     precision.moments   momentum or first moments of the optimizer
#     always float32      logits, softmaxes and losses, running statistics, what an objective learns itself
# (temperature,
#                         prototypes), second moments, averages over steps (ema.py)
#
# A bfloat16 has 8 significant bits: an update of less than 1/512 of a parameter is lost when the sum is rounded to
# nearest, and late in training nearly all are. So the sum is taken in float32 and rounded up or down at random, with an
# expectation equal to the sum (stochastic rounding; Zamirai et al. 2020, arXiv 2010.06192).


def keep_as(params: Mapping[str, jax.Array], dtype: str) -> dict[str, jax.Array]:
    """The parameters in the type they are kept in."""
    return {name: value.astype(dtype) for name, value in params.items()}


def float32(tree):
    """The floating-point leaves in float32: what the optimizer computes with."""
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree)


def updated(params: Mapping[str, jax.Array], updates: Mapping[str, jax.Array], key: jax.Array) -> dict[str, jax.Array]:
    """params + updates, each of the type of its parameter; `key` is read for those that are bfloat16 only."""
    new = {}
    for name, value in params.items():
        total = value.astype(jnp.float32) + updates[name]
        if value.dtype == jnp.bfloat16:
            total = stochastic_round(total, jax.random.fold_in(key, zlib.crc32(name.encode())))
        new[name] = total.astype(value.dtype)
    return new


def stochastic_round(values: jax.Array, key: jax.Array) -> jax.Array:
    """float32 -> bfloat16, up with a probability equal to the share of the gap: its expectation is the value itself.

    A bfloat16 is the upper half of a float32, so a random number below one unit of it is added before the lower half is
    cut off. What is not finite stays as it is.
    """
    bits = jax.lax.bitcast_convert_type(values, jnp.uint32)
    noise = jax.random.bits(key, values.shape, jnp.uint16).astype(jnp.uint32)
    cut = jax.lax.bitcast_convert_type((bits + noise) & jnp.uint32(0xFFFF0000), jnp.float32)
    return jnp.where(jnp.isfinite(values), cut, values).astype(jnp.bfloat16)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """step: int32 scalar, updates done. opt_state: optax.

    params: {path: array of type precision.params}. statistics: {path: float32 array}.
    memory: what the objective keeps between steps (objectives/learned_state.py), {path: array}.
    ema: {path: float32 array}, the moving average of params and statistics, or the mean of schedule-free training with
    its statistics; {} without optimizer.ema and such an optimizer.
    """

    step: jax.Array
    params: dict[str, jax.Array]
    statistics: dict[str, jax.Array]
    opt_state: Any
    memory: dict[str, jax.Array]
    ema: dict[str, jax.Array]

    def averaged(self) -> "TrainState":
        """The state for evaluation: its moving average, if any, replaces params and statistics."""
        pick = lambda latest: {name: self.ema.get(name, value) for name, value in latest.items()}  # noqa: E731
        return dataclasses.replace(self, params=pick(self.params), statistics=pick(self.statistics))


@dataclasses.dataclass(frozen=True)
class ModelDef:
    """The static half of a model: its structure in training and in evaluation, and how its state is laid out."""

    build: Callable[[nnx.Rngs], nnx.Module]
    training: nnx.GraphDef
    evaluation: nnx.GraphDef
    params: nnx.State
    statistics: nnx.State

    def merge(self, params: dict, statistics: dict, training: bool) -> nnx.Module:
        """The module with its arrays out of `params`; batch norms use batch statistics when `training`."""
        states = (_from_flat(self.params, params), _from_flat(self.statistics, statistics))
        return nnx.merge(self.training if training else self.evaluation, *states, copy=True)


def define_model(
    build: Callable[[nnx.Rngs], nnx.Module], frozen: Callable[[str], bool] = lambda path: False
) -> ModelDef:
    """Structure and shapes of the model that `build` makes, without making any array.

    frozen(path of a parameter): modules of which all parameters are frozen are in evaluation mode in training too, so
    their batch norms use the running statistics and leave them as they are.

    Raises ConfigError for a model with random state: a step has no key for it, and averages and statistics take it for
    numbers.
    """
    model = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
    if drawn := list(to_flat(nnx.state(model, nnx.RngState))):
        expected = "modules without random state, as nnx.Dropout has"
        raise ConfigError("model.encoder", drawn[0], expected, "Take it out: views differ by config.augment.")
    model.train()
    paths = list(to_flat(nnx.state(model, nnx.Param)))
    for place, module in nnx.iter_modules(model):
        own = [path for path in paths if path.startswith("".join(f"{part}/" for part in place))]
        if own and all(map(frozen, own)):
            module.eval()
    training, params, statistics = nnx.split(model, nnx.Param, ...)
    model.eval()
    evaluation = nnx.split(model, nnx.Param, ...)[0]
    return ModelDef(build, training, evaluation, params, statistics)


@dataclasses.dataclass(frozen=True)
class Start:
    """How a state begins.

    seed: of the parameters; dtype: type in which those of the model are kept; average: keep a moving average for
    evaluation; beside(): running statistics beside those of the model, of a thin network of it.
    """

    seed: int
    dtype: str = "float32"
    average: bool = False
    beside: Callable[[], dict] = dict


def init_state(
    model: ModelDef,
    optimizer: optax.GradientTransformation,
    start: Start,
    objective_params: Callable[[], dict],
    memory: Callable[[dict], dict],
    pretrained: Mapping[str, jax.Array] | None = None,
) -> TrainState:
    """The state at step 0; jit it with `out_shardings` so that no device ever holds more than its part.

    objective_params() gives what the objective learns besides the model; memory(params) what it remembers.
    pretrained: {path: array} of the parameters, the statistics and the memory that are loaded.
    """
    loaded = lambda values: {name: (pretrained or {}).get(name, value) for name, value in values.items()}  # noqa: E731
    _, params, statistics = nnx.split(model.build(nnx.Rngs(start.seed)), nnx.Param, ...)
    params, statistics = keep_as(loaded(to_flat(params)), start.dtype), loaded(to_flat(statistics) | start.beside())
    remembered = loaded(memory(params))
    params |= loaded(objective_params())
    ema = start_average(params | statistics) if start.average else {}
    return TrainState(jnp.zeros((), jnp.int32), params, statistics, optimizer.init(float32(params)), remembered, ema)


def to_flat(state: nnx.State) -> dict[str, jax.Array]:
    """An nnx state as {path: array}."""
    leaves, _ = jax.tree.flatten_with_path(state)
    return {_path(keys): leaf for keys, leaf in leaves}


def _from_flat(template: nnx.State, flat: dict[str, jax.Array]) -> nnx.State:
    leaves, structure = jax.tree.flatten_with_path(template)
    return jax.tree.unflatten(structure, [flat[_path(keys)] for keys, _ in leaves])


def _path(keys) -> str:
    return jax.tree_util.keystr(keys, simple=True, separator="/").removesuffix("/value")


# What a checkpoint says besides arrays: how far a run is, as plain numbers that mean the same on any hardware.


@dataclasses.dataclass
class Progress:
    """How far a run is.

    Attributes:
      step: updates done (skipped ones count).
      logged: the last of them that has a line in metrics.jsonl; 0 in older checkpoints.
      data_position: examples drawn so far; the next batch starts there. It is step * batch_size until a roll-back.
      evaluated: False when the evaluation that was due at this step was cut off, so that a resumed run makes up for it.
      skipped: updates not applied because they were not finite, and how many of the last steps in a row.
      rollbacks: times the run went back to an earlier checkpoint.
      stopped: a rule of eval.stop has ended the run at this step.
      best: highest value so far of each metric that `forgetting` compares with (evals/classifier.py).
      counted_from: (step, data_position) from which `epochs` are counted in steps: where batch_size last changed.
      images: which images it is trained on (identify_images in data/sources.py); "" in checkpoints that are older.
      classes: the names of its classes, in the order of their numbers; () without names, and in older checkpoints.
    """

    step: int = 0
    data_position: int = 0
    evaluated: bool = True
    skipped: int = 0
    skipped_in_a_row: int = 0
    rollbacks: int = 0
    stopped: bool = False
    best: dict[str, float] = dataclasses.field(default_factory=dict)
    counted_from: tuple[int, int] = (0, 0)
    images: str = ""
    classes: tuple[str, ...] = ()
    logged: int = 0

    def __post_init__(self):
        self.counted_from, self.classes = tuple(self.counted_from), tuple(self.classes)  # JSON has lists
