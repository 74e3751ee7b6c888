"""Decoders: captions from what queries collect of an image (CoCa, arXiv 2205.01917), and images from latents (A-MIM).

CoCa's text side is causal: its first layers see the text alone (TextTower of towers.py), and their last state is the
embedding that is contrasted with images. The layers here follow them and also attend to the image; they predict the
next token. What they attend to is not the map of the encoder but what learned queries collect of it; one more query
collects what the contrast compares.
"""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from xsample_jax.errors import ConfigError
from xsample_jax.models.attention import attention
from xsample_jax.models.layers import Conv, Mlp, SelfAttention, block_runner, layer_norm

PADDING, START, END = 0, 1, 2  # ids of data/captions.py


def seen_before(tokens: jax.Array) -> jax.Array:
    """Which tokens each token attends to, bool [n, t, t]: itself and earlier ones, without padding."""
    count = tokens.shape[1]
    return jnp.tril(jnp.ones((count, count), bool)) & (tokens != PADDING)[:, None, :]


class CrossAttention(nnx.Module):
    """Every row of x attends to all rows of another sequence: x [n, t, width], other [n, s, of] -> [n, t, width]."""

    def __init__(self, width: int, of: int, heads: int, *, dtype, rngs: nnx.Rngs):
        if width % heads:
            raise ConfigError("model.text.heads", heads, f"a divisor of model.text.width = {width}")
        linear = partial(nnx.Linear, dtype=dtype, kernel_init=nnx.initializers.xavier_uniform(), rngs=rngs)
        self.heads = heads
        self.query, self.key, self.value = linear(width, width), linear(of, width), linear(of, width)
        self.out = linear(width, width)

    def __call__(self, x: jax.Array, other: jax.Array) -> jax.Array:
        n, t, width = x.shape
        split = (n, -1, self.heads, width // self.heads)
        parts = (self.query(x), self.key(other), self.value(other))
        return self.out(attention(*(part.reshape(split) for part in parts)).reshape(n, t, width))


class QueryPool(nnx.Module):
    """Attentional pooling: learned queries attend to the cells of a map, [n, cells, of] -> [n, queries, width]."""

    def __init__(self, queries: int, width: int, of: int, heads: int, *, dtype, rngs: nnx.Rngs):
        start = nnx.initializers.normal(0.02)(rngs.params(), (queries, width), jnp.float32)
        self.queries = nnx.Param(start)
        self.norm_cells = layer_norm(of, dtype=dtype, rngs=rngs)
        self.attention = CrossAttention(width, of, heads, dtype=dtype, rngs=rngs)
        self.norm = layer_norm(width, dtype=dtype, rngs=rngs)

    def __call__(self, cells: jax.Array) -> jax.Array:
        cells = self.norm_cells(cells)
        queries = jnp.broadcast_to(self.queries[...].astype(cells.dtype), (cells.shape[0], *self.queries.shape))
        return self.norm(self.attention(queries, cells))


class MultimodalBlock(nnx.Module):
    """x + attention to earlier tokens, + attention to the image, + MLP; each branch of its own norm of x.

    x [n, t, width], keep bool [n, t, t] (`seen_before`), image [n, queries, width] -> [n, t, width].
    """

    def __init__(self, width: int, heads: int, *, dtype, rngs: nnx.Rngs):
        norm = partial(layer_norm, width, dtype=dtype, rngs=rngs)
        self.norm1, self.norm2, self.norm3 = norm(), norm(), norm()
        self.attention = SelfAttention(width, heads, dtype=dtype, rngs=rngs)
        self.cross = CrossAttention(width, width, heads, dtype=dtype, rngs=rngs)
        self.mlp = Mlp(width, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array, keep: jax.Array, image: jax.Array) -> jax.Array:
        x = x + self.attention(self.norm1(x), keep)
        x = x + self.cross(self.norm2(x), image)
        return x + self.mlp(self.norm3(x))


class CaptionDecoder(nnx.Module):
    """The multimodal half of CoCa's text side, and the queries that look at the image.

    Args:
      vocab: number of token ids.
      width: of the states of the causal text tower, and of the layers here.
      layers: with attention to the image; heads: of every attention.
      of: width of the cells of the image; queries: that collect what captions read of them.
      dtype: type of activations and products; parameters are float32, norms and losses are taken in float32.
      remat: what blocks keep for the backward pass (models/layers.py).
      rngs: source of the initial parameters.
    """

    def __init__(
        self,
        vocab: int,
        width: int,
        layers: int,
        heads: int,
        of: int,
        queries: int,
        *,
        dtype=jnp.float32,
        remat: str = "none",
        rngs: nnx.Rngs,
    ):
        self.pool = QueryPool(queries + 1, width, of, heads, dtype=dtype, rngs=rngs)  # the first is for the contrast
        self.blocks = nnx.List([MultimodalBlock(width, heads, dtype=dtype, rngs=rngs) for _ in range(layers)])
        self.norm = layer_norm(width, dtype=dtype, rngs=rngs)
        self.out = nnx.Linear(width, vocab, use_bias=False, dtype=dtype, rngs=rngs)
        self.run = block_runner(remat)

    def hidden(self, states: jax.Array, tokens: jax.Array, image: jax.Array) -> jax.Array:
        """What the logits are a linear map of, [n, t, width]: states [n, t, width] of tokens int [n, t]."""
        keep = seen_before(tokens)
        for block in self.blocks:
            states = self.run(block, states, keep, image)
        return self.norm(states)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """[..., width] -> float32 [..., vocab]: of the token that follows each."""
        return _logits(hidden, self.out.kernel[...])

    def token_losses(self, states: jax.Array, tokens: jax.Array, image: jax.Array) -> jax.Array:
        """Cross-entropy of every token but the first, given those before it and the image: float32 [n, t - 1].

        0 at padding. states: of the causal text tower; image: `pool` without its first query. Logits are made again in
        the backward pass: of a large vocabulary they would be the largest array of the step.
        """
        hidden = self.hidden(states[:, :-1], tokens[:, :-1], image)
        return jax.checkpoint(_losses)(hidden, self.out.kernel[...], tokens[:, 1:])


def _logits(hidden: jax.Array, kernel: jax.Array) -> jax.Array:
    return jnp.matmul(hidden, kernel.astype(hidden.dtype), preferred_element_type=jnp.float32)


def _losses(hidden: jax.Array, kernel: jax.Array, following: jax.Array) -> jax.Array:
    return cross_entropies(_logits(hidden, kernel), following)


def cross_entropies(logits: jax.Array, following: jax.Array) -> jax.Array:
    """-log softmax(logits)[following] of every token, 0 where it is padding: [n, t, vocab], int [n, t] -> [n, t]."""
    own = jnp.take_along_axis(logits, following[..., None], axis=-1)[..., 0]
    return jnp.where(following == PADDING, 0.0, jax.nn.logsumexp(logits, axis=-1) - own)


def greedy_captions(
    text: nnx.Module, decoder: CaptionDecoder, image: jax.Array, length: int
) -> tuple[jax.Array, jax.Array]:
    """The captions that take the most likely token at every place.

    Args:
      text: the causal text tower. image: [n, queries, width], `pool` without its first query.
      length: of a row of tokens; one that has not ended by then ends there.

    Returns:
      (tokens int32 [n, length] from start to end, then padding; mean of -log p over the tokens after the start [n]).
      All tokens are read again for every new one: captions are short.
    """
    n = image.shape[0]
    first = jnp.full((n, length), PADDING, jnp.int32).at[:, 0].set(START)

    def add(place, carry):
        tokens, total, count = carry
        hidden = decoder.hidden(text.states(tokens), tokens, image)
        log_p = jax.nn.log_softmax(decoder.logits(jax.lax.dynamic_index_in_dim(hidden, place, 1, keepdims=False)))
        chosen = jnp.argmax(log_p.at[:, jnp.array([PADDING, START])].set(-jnp.inf), axis=1)
        chosen = jnp.where(place == length - 2, END, chosen)
        open_ = ~jnp.any(tokens == END, axis=1)
        total -= jnp.where(open_, jnp.take_along_axis(log_p, chosen[:, None], axis=1)[:, 0], 0.0)
        tokens = jax.lax.dynamic_update_index_in_dim(tokens, jnp.where(open_, chosen, PADDING), place + 1, 1)
        return tokens, total, count + open_

    start = (first, jnp.zeros(n, jnp.float32), jnp.zeros(n, jnp.int32))
    tokens, total, count = jax.lax.fori_loop(0, length - 1, add, start)
    return tokens, total / jnp.maximum(count, 1)


# From latents to images.


SMALLEST = 8  # largest side of the map that the latents are spread over


class ImageDecoder(nnx.Module):
    """Latents to images: [n, latent] -> float32 [n, size, size, channels], of the scale of normalized images.

    A linear map to a map of at most 8 x 8, then for every doubling of its side a transposed convolution (kernel and
    stride 2, so that no two outputs overlap) and a 3x3 convolution; what is beyond `size` is cut off.

    Args:
      latent: width of the latents. shape: (size, channels).
      width: channels of the largest map; smaller ones have up to four times as many.
      implementation: of the convolutions (models/layers.py).
      dtype: type of activations and products; the result is float32.
      rngs: source of the initial parameters.
    """

    def __init__(self, latent: int, shape: tuple[int, int], width: int, implementation: str, *, dtype, rngs: nnx.Rngs):
        side, stages = shape[0], 0
        while side > SMALLEST:
            side, stages = -(-side // 2), stages + 1
        widths = [width * min(4, 2**number) for number in range(stages, -1, -1)]
        conv = partial(Conv, size=3, stride=1, implementation=implementation, dtype=dtype, rngs=rngs)
        linear = partial(nnx.Linear, dtype=dtype, kernel_init=nnx.initializers.he_normal(), rngs=rngs)
        self.side, self.size, self.dtype = side, shape[0], dtype
        self.stem = linear(latent, side**2 * widths[0])
        self.wider = nnx.List([linear(a, 4 * b) for a, b in itertools.pairwise(widths)])
        self.convs = nnx.List([conv(b, b) for b in widths[1:]])
        self.shifts = nnx.List([nnx.Param(jnp.zeros(b, jnp.float32)) for b in widths[1:]])
        small = nnx.initializers.normal(0.01)  # the first images are nearly 0, the mean of normalized ones
        self.last = nnx.Linear(width, shape[1], dtype=dtype, kernel_init=small, rngs=rngs)

    @classmethod
    def of(cls, config, rngs: nnx.Rngs) -> "ImageDecoder":
        """The decoder of views of a config, from the outputs of its projection head."""
        shape = (config.augment.size, 3 + config.augment.bits)
        dtype, model = jnp.dtype(config.precision.compute), config.model
        return cls(model.head.dim, shape, model.decoder_width, model.conv_impl, dtype=dtype, rngs=rngs)

    def __call__(self, latents: jax.Array) -> jax.Array:
        x = jax.nn.relu(self.stem(latents.astype(self.dtype))).reshape(latents.shape[0], self.side, self.side, -1)
        for wider, conv, shift in zip(self.wider, self.convs, self.shifts, strict=True):
            n, h, w, _ = x.shape
            x = wider(x).reshape(n, h, w, 2, 2, -1).swapaxes(2, 3).reshape(n, 2 * h, 2 * w, -1)
            x = jax.nn.relu(x)
            x = jax.nn.relu(conv(x) + shift[...].astype(self.dtype))
        return self.last(x)[:, : self.size, : self.size].astype(jnp.float32)
