"""From features to what the loss sees: the projection MLP of SimCLR (Chen et al., arXiv 2002.05709) and unit rows."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx


class ProjectionHead(nnx.Module):
    """(linear, batch norm, ReLU) per hidden width, then linear without bias: [n, features] -> [n, out] float32.

    The last layer has no bias: it would add one common vector to all rows, which only pulls their cosines together.

    Args:
      features: width of the input.
      hidden: widths of the hidden layers; () makes the head one linear map.
      out: width of the result.
      batch_norm: normalise the hidden layers over the batch (global, in float32); without it they have biases.
      dtype: type of the hidden layers and of the operands of the last product, which accumulates into float32.
      rngs: source of the initial parameters.
    """

    def __init__(
        self,
        features: int,
        hidden: Sequence[int],
        out: int,
        batch_norm: bool = True,
        dtype=jnp.float32,
        *,
        rngs: nnx.Rngs,
    ):
        layers, norms, width = [], [], features
        for units in hidden:
            he = nnx.initializers.he_normal()
            layers.append(nnx.Linear(width, units, use_bias=not batch_norm, dtype=dtype, kernel_init=he, rngs=rngs))
            if batch_norm:
                norms.append(nnx.BatchNorm(units, momentum=0.9, epsilon=1e-5, dtype=dtype, rngs=rngs))
            width = units
        self.layers = nnx.List(layers)
        self.norms = nnx.List(norms)
        self.out = nnx.Linear(width, out, use_bias=False, dtype=dtype, preferred_element_type=jnp.float32, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        for number, layer in enumerate(self.layers):
            x = layer(x)
            if self.norms:
                x = self.norms[number](x)
            x = jax.nn.relu(x)
        return self.out(x).astype(jnp.float32)


def unit_rows(x: jax.Array, floor: float = 1e-6) -> jax.Array:
    """Divides each row of `x` [..., d] by its Euclidean norm, in float32.

    A row shorter than `floor` has no direction to speak of: it becomes the zero vector and passes no gradient, where
    the plain formula gives 0/0 and a NaN gradient, or a gradient of size 1/norm that would ruin the step.
    """
    x = x.astype(jnp.float32)
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    known = square > floor**2
    # The inner `where` keeps rsqrt away from 0: the outer one alone would multiply its infinite derivative by zero.
    return jnp.where(known, x * jax.lax.rsqrt(jnp.where(known, square, 1.0)), 0.0)
