"""Transformer layers (Vaswani et al., arXiv 1706.03762), norm first as in arXiv 2002.04745, for images and text."""

import jax
import jax.numpy as jnp
from flax import nnx

from xsample_jax.errors import ConfigError
from xsample_jax.models.attention import attention

_weights = nnx.initializers.xavier_uniform()

# gelu_tanh is the default of flax, and so what its published weights were trained with; quick_gelu is OpenAI's CLIP.
ACTIVATIONS = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
}


def layer_norm(width: int, epsilon: float = 1e-6, *, dtype, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Layer norm; statistics and arithmetic in float32 (flax promotes), result of type `dtype`."""
    return nnx.LayerNorm(width, epsilon=epsilon, dtype=dtype, rngs=rngs)


class SelfAttention(nnx.Module):
    """Multi-head self-attention: [n, t, width] and keep [n, t] bool or None -> [n, t, width]."""

    def __init__(self, width: int, heads: int, *, dtype, rngs: nnx.Rngs):
        if width % heads:
            raise ConfigError("heads", heads, f"a divisor of the width {width}")
        self.heads = heads
        # Three maps in one matrix, query, key and value of a head side by side, so that a tensor axis of devices can
        # share out the heads. Each starts as xavier starts a [width, width] map: variance 1 / width (MoCo v3).
        # fan_avg of the whole is 2 * width, hence the 2.
        query_key_value = nnx.initializers.variance_scaling(2.0, "fan_avg", "uniform")
        self.qkv = nnx.Linear(width, 3 * width, dtype=dtype, kernel_init=query_key_value, rngs=rngs)
        self.out = nnx.Linear(width, width, dtype=dtype, kernel_init=_weights, rngs=rngs)

    def __call__(self, x: jax.Array, keep: jax.Array | None = None) -> jax.Array:
        n, t, width = x.shape
        query, key, value = jnp.moveaxis(self.qkv(x).reshape(n, t, self.heads, 3, width // self.heads), 3, 0)
        mask = None if keep is None else keep[:, None, None, :]
        mixed = attention(query, key, value, mask)
        return self.out(mixed.reshape(n, t, width))


class Mlp(nnx.Module):
    """Linear to four times the width, GELU (or another of ACTIVATIONS), linear back."""

    def __init__(self, width: int, activation: str = "gelu", *, dtype, rngs: nnx.Rngs):
        self.activation = activation
        self.expand = nnx.Linear(width, 4 * width, dtype=dtype, kernel_init=_weights, rngs=rngs)
        self.contract = nnx.Linear(4 * width, width, dtype=dtype, kernel_init=_weights, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.contract(ACTIVATIONS[self.activation](self.expand(x)))


class Block(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)). Shapes as in `SelfAttention`."""

    def __init__(
        self, width: int, heads: int, epsilon: float = 1e-6, activation: str = "gelu", *, dtype, rngs: nnx.Rngs
    ):
        self.norm1 = layer_norm(width, epsilon, dtype=dtype, rngs=rngs)
        self.attention = SelfAttention(width, heads, dtype=dtype, rngs=rngs)
        self.norm2 = layer_norm(width, epsilon, dtype=dtype, rngs=rngs)
        self.mlp = Mlp(width, activation, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, keep: jax.Array | None = None) -> jax.Array:
        x = x + self.attention(self.norm1(x), keep)
        return x + self.mlp(self.norm2(x))
