"""What an objective learns besides the model: temperature, bias, prototypes, and the gate of SimLAP."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from xsample_jax.objectives.objective import Objective
from xsample_jax.objectives.temperature import initial_log_scale, learned_temperature
from xsample_jax.rows import unit_rows

# They live among the parameters of the model, under names that optimiser masks and checkpoints share.
LOG_SCALE, BIAS, PROTOTYPES = "objective/log_scale", "objective/bias", "objective/prototypes"
GATE_CLASSES, GATE_HIDDEN, GATE_OUT = "objective/gate/classes", "objective/gate/hidden", "objective/gate/out"
GATE_WIDTH = 128


def init_objective_parameters(objective: Objective, width: int, classes: int, seed: int) -> dict[str, jax.Array]:
    """Initial parameters of an objective on embeddings of `width` D; `classes`: number of classes, for the gate."""
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1), 4)
    found = {}
    if objective.learn_temperature:
        found[LOG_SCALE] = initial_log_scale(objective.temperature)
    if objective.bias is not None:
        found[BIAS] = jnp.asarray(objective.bias, jnp.float32)
    if objective.prototypes:
        found[PROTOTYPES] = jax.random.normal(keys[0], (objective.prototypes, width)) / jnp.sqrt(width)
    if objective.gate:
        found[GATE_CLASSES] = jax.random.normal(keys[1], (classes, GATE_WIDTH))
        found[GATE_HIDDEN] = jax.random.normal(keys[2], (GATE_WIDTH, 2 * GATE_WIDTH)) * jnp.sqrt(2 / GATE_WIDTH)
        found[GATE_OUT] = jax.random.normal(keys[3], (2 * GATE_WIDTH, width)) * jnp.sqrt(1 / GATE_WIDTH)
    return found


def temperature_of(objective: Objective, params: Mapping[str, jax.Array]) -> jax.Array | float:
    """The base temperature: learned where there is a parameter for it."""
    return learned_temperature(params[LOG_SCALE]) if LOG_SCALE in params else objective.temperature


def bias_of(params: Mapping[str, jax.Array]) -> jax.Array | float:
    """The bias of the logits."""
    return params.get(BIAS, 0.0)


def prototypes_of(params: Mapping[str, jax.Array]) -> jax.Array:
    """Unit prototypes [P, D]."""
    return unit_rows(params[PROTOTYPES])


def gate_of(params: Mapping[str, jax.Array], first: jax.Array, second: jax.Array) -> jax.Array:
    """What is let through when classes `first` and `second` [A] are compared: 0..1, [A, D], symmetric in the two.

    sigmoid of an MLP on the mean of two class embeddings (SimLAP, arXiv 2410.08799), here without its batch norms:
    the input is a lookup table, which has no scale that would need one.
    """
    both = (params[GATE_CLASSES][first] + params[GATE_CLASSES][second]) / 2
    return jax.nn.sigmoid(jax.nn.relu(jax.nn.relu(both) @ params[GATE_HIDDEN]) @ params[GATE_OUT])
