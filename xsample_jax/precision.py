"""Which numbers have which type, and how parameters are updated when they are kept in bfloat16.

    precision.params    parameters of the model, as they are kept between steps
    precision.compute   activations and products of the model (parameters are cast where they are used)
    precision.moments   momentum or first moments of the optimiser
    always float32      logits, softmaxes and losses, running statistics, what an objective learns itself (temperature,
                        prototypes), second moments, averages over steps (ema.py)

A bfloat16 has 8 significant bits: an update of less than 1/512 of a parameter is lost when the sum is rounded to
nearest, and late in training nearly all are. So the sum is taken in float32 and rounded up or down at random, with an
expectation equal to the sum (stochastic rounding; Zamirai et al. 2020, arXiv 2010.06192).
"""

import zlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp


def keep_as(params: Mapping[str, jax.Array], dtype: str) -> dict[str, jax.Array]:
    """The parameters in the type they are kept in."""
    return {name: value.astype(dtype) for name, value in params.items()}


def float32(tree):
    """The floating-point leaves in float32: what the optimiser computes with."""
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
