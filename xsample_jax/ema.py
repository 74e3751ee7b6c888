"""Exponential moving averages over steps: of the whole model for evaluation, and of the teacher of an objective.

The average for evaluation (`optimizer.ema`) holds every parameter and every running statistic of batch norms. The
statistics are averaged too: those of the last step belong to the last parameters, not to averaged ones.
It is another thing than the EMA encoder of MoCo or BYOL, which the loss reads (`objective.teacher`,
objectives/memory.py); both may be on.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp


def moved(
    average: Mapping[str, jax.Array], values: Mapping[str, jax.Array], decay: jax.Array | float
) -> dict[str, jax.Array]:
    """decay * average + (1 - decay) * values, for every entry of `average`; `values` may have more."""
    return {name: decay * old + (1 - decay) * values[name] for name, old in average.items()}


def start_average(values: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """A float32 copy of the values: an average in bfloat16 would stand still, as its steps are below its rounding."""
    return {name: jnp.array(value, jnp.float32) for name, value in values.items()}


def warmed_up(decay: float, step: jax.Array) -> jax.Array:
    """min(decay, (1 + t) / (10 + t)) after t updates, float32.

    So the average forgets the random start in any run, also in one shorter than 1 / (1 - decay) updates (the rule of
    TensorFlow's ExponentialMovingAverage with num_updates).
    """
    done = jnp.asarray(step, jnp.float32)
    return jnp.minimum(jnp.float32(decay), (1 + done) / (10 + done))
