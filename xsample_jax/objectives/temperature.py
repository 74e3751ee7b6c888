"""The temperature tau of the student logits: constant, or learned as log(1/tau) as in CLIP and clamped."""

import jax
import jax.numpy as jnp

LOWEST, HIGHEST = 0.01, 1.0  # CLIP clamps its logit scale at 100 = 1 / 0.01


def initial_log_scale(temperature: float) -> jax.Array:
    """The learnable parameter log(1/tau), a float32 scalar."""
    return jnp.asarray(-jnp.log(temperature), jnp.float32)


def learned_temperature(log_scale: jax.Array) -> jax.Array:
    """tau from the parameter, clamped to [0.01, 1]. The gradient stops at the bounds, as clamping does."""
    return jnp.exp(-jnp.clip(log_scale, -jnp.log(HIGHEST), -jnp.log(LOWEST)))
