"""Text towers: the other side of image-text objectives (CLIP, arXiv 2103.00020).

Each maps its part of a batch to [n, out] float32; `reads` names the entry of the batch that it takes.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from xsample_jax.errors import ConfigError
from xsample_jax.models.layers import Block, block_runner, layer_norm

PADDING, END = 0, 2  # ids of data/tokenizer.py


class LinearText(nnx.Module):
    """One linear map, without bias, of a frozen caption embedding: [n, dim] of any float type -> [n, out] float32."""

    reads = "caption_embedding"

    def __init__(self, dim: int, out: int, *, rngs: nnx.Rngs):
        self.out = nnx.Linear(dim, out, use_bias=False, rngs=rngs)

    @property
    def width(self) -> int:
        """Of the features."""
        return self.out.in_features

    def features(self, embeddings: jax.Array) -> jax.Array:
        """What is mapped to the result: the caption embedding in float32."""
        return embeddings.astype(jnp.float32)

    def __call__(self, embeddings: jax.Array) -> jax.Array:
        return self.out(self.features(embeddings))


class TextTower(nnx.Module):
    """Transformer over token ids: int32 [n, t] with t <= `length` -> [n, out] float32.

    Every token attends to every real token (no causal mask: nothing is generated here), padding (id 0) is masked out,
    and the state at the end token (id 2) is normalized and mapped to `out`. More padding does not change the result.

    Args:
      vocab: number of token ids.
      width, layers, heads: shape of the transformer.
      length: most tokens per caption.
      out: width of the result.
      dtype: type of activations and products; parameters are float32, norms are taken in float32.
      remat: what blocks keep for the backward pass (models/layers.py).
      rngs: source of the initial parameters.

    Raises:
      ConfigError: width not a multiple of heads, unknown remat; at the call, more tokens than `length`.
    """

    reads = "caption_tokens"

    def __init__(
        self,
        vocab: int,
        width: int,
        layers: int,
        heads: int,
        length: int,
        out: int,
        dtype=jnp.float32,
        *,
        remat: str = "none",
        rngs: nnx.Rngs,
    ):
        if width % heads:
            raise ConfigError("model.text.heads", heads, f"a divisor of model.text.width = {width}")
        normal = nnx.initializers.normal
        self.length, self.width = length, width
        self.tokens = nnx.Embed(vocab, width, dtype=dtype, embedding_init=normal(0.02), rngs=rngs)
        self.position = nnx.Param(normal(0.01)(rngs.params(), (length, width), jnp.float32))
        self.blocks = nnx.List([Block(width, heads, dtype=dtype, rngs=rngs) for _ in range(layers)])
        self.norm = layer_norm(width, dtype=dtype, rngs=rngs)
        self.run = block_runner(remat)
        self.out = nnx.Linear(width, out, use_bias=False, dtype=dtype, preferred_element_type=jnp.float32, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        return self.out(self.features(tokens)).astype(jnp.float32)

    def words(self, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(what the map to the result makes of every token [n, t, out] float32, whether it is no padding [n, t])."""
        return self.out(self.norm(self._states(tokens))).astype(jnp.float32), tokens != PADDING

    def features(self, tokens: jax.Array) -> jax.Array:
        """The normalized state at the end token, [n, width]: what is mapped to the result."""
        x = self._states(tokens)
        end = jnp.argmax(tokens == END, axis=1)
        return self.norm(jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0])

    def _states(self, tokens: jax.Array) -> jax.Array:
        count = tokens.shape[1]
        if count > self.length:
            raise ConfigError("model.text.length", self.length, f"at least the {count} tokens per caption of the batch")
        x = self.tokens(tokens)
        x = x + self.position[...][:count].astype(x.dtype)
        keep = tokens != PADDING
        for block in self.blocks:
            x = self.run(block, x, keep)
        return x
