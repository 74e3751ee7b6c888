"""From features to what the loss sees: the projection MLP of SimCLR (Chen et al., arXiv 2002.05709)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from xsample_jax.models.batch_norm import BatchNorm


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
                norms.append(BatchNorm(units, rngs=rngs))
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
