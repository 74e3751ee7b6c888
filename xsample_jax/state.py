"""What training changes: parameters, running statistics and optimiser state, all as flat dicts {path: array}.

A path reads like "encoder/stages/0/1/conv2/kernel": masks, sharding rules, checkpoints and weight import share it.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from xsample_jax.ema import start_average
from xsample_jax.precision import float32, keep_as


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """step: int32 scalar, updates done. opt_state: optax.

    params: {path: array of type precision.params}. statistics: {path: float32 array}.
    memory: what the objective keeps between steps (objectives/memory.py), {path: array}.
    ema: moving average of params and statistics (ema.py), {path: float32 array}; {} without optimizer.ema.
    """

    step: jax.Array
    params: dict[str, jax.Array]
    statistics: dict[str, jax.Array]
    opt_state: Any
    memory: dict[str, jax.Array]
    ema: dict[str, jax.Array]

    def averaged(self) -> "TrainState":
        """What evaluations look at: the state with the moving average in the place of params and statistics, if any."""
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


def define_model(build: Callable[[nnx.Rngs], nnx.Module]) -> ModelDef:
    """Structure and shapes of the model that `build` makes, without making any array."""
    model = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
    model.train()
    training, params, statistics = nnx.split(model, nnx.Param, ...)
    model.eval()
    evaluation = nnx.split(model, nnx.Param, ...)[0]
    return ModelDef(build, training, evaluation, params, statistics)


def init_state(
    model: ModelDef,
    optimizer: optax.GradientTransformation,
    seed: int,
    objective_params: Callable[[], dict],
    memory: Callable[[dict], dict],
    dtype: str = "float32",
    average: bool = False,
    pretrained: Mapping[str, jax.Array] | None = None,
) -> TrainState:
    """The state at step 0; jit it with `out_shardings` so that no device ever holds more than its part.

    objective_params() gives what the objective learns besides the model; memory(params) what it remembers.
    dtype: type of the parameters of the model; average: keep a moving average for evaluation; pretrained: {path: array}
    of the parameters and statistics that do not start anew.
    """
    _, params, statistics = nnx.split(model.build(nnx.Rngs(seed)), nnx.Param, ...)
    start = lambda state: {name: (pretrained or {}).get(name, value) for name, value in to_flat(state).items()}  # noqa: E731
    params, statistics = keep_as(start(params), dtype), start(statistics)
    remembered = memory(params)
    params |= objective_params()
    ema = start_average(params | statistics) if average else {}
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
