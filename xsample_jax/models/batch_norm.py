"""Batch norm in float32, whatever the type of the activations."""

import jax
import jax.numpy as jnp
from flax import nnx


class BatchNorm(nnx.BatchNorm):
    """Batch norm with torchvision's constants (eps 1e-5, running averages of 0.9 old + 0.1 new): x [..., features].

    Statistics, scale, bias and all arithmetic are float32; the result is rounded once, to the type of `x`. Flax's own,
    told to compute in bfloat16, rounds scale, bias and running averages to it first, and sums the gradient of the bias
    apart from the other sums over the same activations, in one more pass over the memory of a TPU.

    Args:
      features: channels.
      zero: the scale starts at 0, not 1.
      rngs: source of the initial parameters.
    """

    def __init__(self, features: int, *, zero: bool = False, rngs: nnx.Rngs):
        scale = nnx.initializers.zeros_init() if zero else nnx.initializers.ones_init()
        super().__init__(features, momentum=0.9, epsilon=1e-5, dtype=jnp.float32, scale_init=scale, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return super().__call__(x).astype(x.dtype)
