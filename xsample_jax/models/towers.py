"""The whole model: an image encoder, its projection head and, for image-text objectives, a text tower.

Text towers are the other side of image-text objectives (CLIP, arXiv 2103.00020): each maps its part of a batch to
[n, out] float32, and `reads` names the entry of the batch that it takes.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from xsample_jax.errors import ConfigError, lookup
from xsample_jax.models import convnext, resnet, vit
from xsample_jax.models.convnext import ConvNeXt
from xsample_jax.models.decoder import END, PADDING, CaptionDecoder, ImageDecoder, seen_before
from xsample_jax.models.heads import Head, NamedHeads, ProjectionHead, projection_of, unit_rows
from xsample_jax.models.layers import BatchNorm, Block, block_runner, layer_norm, resolve_implementation
from xsample_jax.models.resnet import ResNet, StyleNoise
from xsample_jax.models.vit import ViT

TEXT_EPSILON = 1e-6  # of the layer norms of a text tower


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

    Every token attends to every real token, or with `causal` to those up to itself, as in CLIP; padding (id 0) is
    masked out, and the state at the end token (id 2) is normalized and mapped to `out`. More padding does not change
    the result.

    Args:
      vocab: number of token ids.
      width, layers, heads: shape of the transformer.
      length: most tokens per caption.
      out: width of the result.
      dtype: type of activations and products; parameters are float32, norms are taken in float32.
      remat: what blocks keep for the backward pass (models/layers.py).
      causal: a token attends to no later one, as in CLIP and as a decoder needs it (models/decoder.py). The end token
        sees the whole text all the same, and no token is predicted from it.
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
        causal: bool = False,
        rngs: nnx.Rngs,
    ):
        if width % heads:
            raise ConfigError("model.text.heads", heads, f"a divisor of model.text.width = {width}")
        normal = nnx.initializers.normal
        self.length, self.width, self.causal = length, width, causal
        self.tokens = nnx.Embed(vocab, width, dtype=dtype, embedding_init=normal(0.02), rngs=rngs)
        self.position = nnx.Param(normal(0.01)(rngs.params(), (length, width), jnp.float32))
        self.blocks = nnx.List([Block(width, heads, TEXT_EPSILON, dtype=dtype, rngs=rngs) for _ in range(layers)])
        self.norm = layer_norm(width, TEXT_EPSILON, dtype=dtype, rngs=rngs)
        self.run = block_runner(remat)
        self.out = nnx.Linear(width, out, use_bias=False, dtype=dtype, preferred_element_type=jnp.float32, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        return self.out(self.features(tokens)).astype(jnp.float32)

    def words(self, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(what the map to the result makes of every token [n, t, out] float32, whether it is no padding [n, t])."""
        return self.out(self.norm(self.states(tokens))).astype(jnp.float32), tokens != PADDING

    def features(self, tokens: jax.Array) -> jax.Array:
        """The normalized state at the end token, [n, width]: what is mapped to the result."""
        return self.features_of(self.states(tokens), tokens)

    def features_of(self, states: jax.Array, tokens: jax.Array) -> jax.Array:
        """`features` from the result of `states` for the same tokens."""
        end = jnp.argmax(tokens == END, axis=1)
        return self.norm(jnp.take_along_axis(states, end[:, None, None], axis=1)[:, 0])

    def states(self, tokens: jax.Array) -> jax.Array:
        """What the last block makes of every token, [n, t, width]."""
        count = tokens.shape[1]
        if count > self.length:
            raise ConfigError("model.text.length", self.length, f"at least the {count} tokens per caption of the batch")
        x = self.tokens(tokens)
        x = x + self.position[...][:count].astype(x.dtype)
        keep = seen_before(tokens) if self.causal else tokens != PADDING
        for block in self.blocks:
            x = self.run(block, x, keep)
        return x


# The encoder of vectors, and of very small images.


class MLP(nnx.Module):
    """(linear, batch norm, ReLU) per layer on standardized inputs: [n, ...] -> features [n, width] float32.

    Inputs are standardized by a batch norm, too: columns of a table have units, and its running statistics are then
    part of the encoder.

    Args:
      inputs: shape of one input, as (E,) or (s, s, 3).
      depth: layers.
      width: of each of them.
      dtype: type of activations and products; parameters and batch statistics are float32.
      rngs: source of the initial parameters.
    """

    def __init__(self, inputs: Sequence[int], depth: int, width: int, dtype=jnp.float32, *, rngs: nnx.Rngs):
        he, wide = nnx.initializers.he_normal(), math.prod(inputs)
        widths = [wide, *[width] * depth]
        self.standardize = BatchNorm(wide, rngs=rngs)
        self.layers = nnx.List(
            [
                nnx.Linear(a, b, use_bias=False, dtype=dtype, kernel_init=he, rngs=rngs)
                for a, b in itertools.pairwise(widths)
            ]
        )
        self.norms = nnx.List([BatchNorm(width, rngs=rngs) for _ in range(depth)])
        self.features, self.dtype = width, dtype

    def __call__(self, inputs: jax.Array) -> jax.Array:
        x = self.standardize(inputs.reshape(inputs.shape[0], -1).astype(jnp.float32)).astype(self.dtype)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = jax.nn.relu(norm(layer(x)))
        return x.astype(jnp.float32)


def _resnet(config, rngs: nnx.Rngs, *, depth: int) -> ResNet:
    model = config.model
    dtype = jnp.dtype(config.precision.compute)
    channels = 3 + config.augment.bits
    options = {"remat": model.remat, "channels": channels, "rngs": rngs}
    return ResNet(depth, model.width, model.stem, model.conv_impl, dtype, **options)


def _vit(config, rngs: nnx.Rngs, *, variant: str) -> ViT:
    model = config.model
    dtype = jnp.dtype(config.precision.compute)
    size = config.augment.size
    options = {"layout": model.layout, "remat": model.remat, "channels": 3 + config.augment.bits}
    encoder = ViT(variant, model.patch_size, size, dtype, **options, rngs=rngs)
    return vit.add_lora(encoder, model.lora, rngs) if model.lora else encoder


def _convnext(config, rngs: nnx.Rngs, *, variant: str) -> ConvNeXt:
    model = config.model
    options = {"drop_path": model.drop_path, "remat": model.remat, "channels": 3 + config.augment.bits}
    return ConvNeXt(variant, model.conv_impl, jnp.dtype(config.precision.compute), **options, rngs=rngs)


def _mlp(config, rngs: nnx.Rngs, *, depth: int) -> MLP:
    size = config.augment.size
    inputs = (config.data.image_size,) if config.data.source == "vectors" else (size, size, 3 + config.augment.bits)
    return MLP(inputs, depth, config.model.width, jnp.dtype(config.precision.compute), rngs=rngs)


# Name -> function of (config, rngs) that returns a module: images [n, s, s, 3 + augment.bits] -> float32
# [n, module.features].
ENCODERS = {
    **{f"resnet{depth}": partial(_resnet, depth=depth) for depth in resnet.LAYOUTS},
    **{f"vit_{variant}": partial(_vit, variant=variant) for variant in vit.VARIANTS},
    **{variant: partial(_convnext, variant=variant) for variant in convnext.VARIANTS},
    **{f"mlp{depth}": partial(_mlp, depth=depth) for depth in (1, 2, 3, 4)},
}
# Encoders of one kind, the smallest first: they share the rules of a config and the names of weights.
KINDS = {
    kind: tuple(name for name in ENCODERS if name.startswith(kind)) for kind in ("resnet", "vit", "convnext", "mlp")
}

OWN = "own"


def kind_of(encoder: str) -> str:
    """The kind of an encoder, a name of ENCODERS: a name of KINDS, or OWN for one that was added from outside."""
    return next((kind for kind, names in KINDS.items() if encoder in names), OWN)


def smallest_of_kind(encoder: str) -> str:
    """The smallest encoder of the kind of this one, of a ConvNeXt of its version; itself where it is from outside."""
    version = encoder.rpartition("_")[0]
    return next(name for name in KINDS.get(kind_of(encoder), (encoder,)) if name.startswith(version))


class Towers(nnx.Module):
    """Encoder, projection head and perhaps a text tower and decoders. `.train()` and `.eval()` switch the batch norms.

    With a decoder of captions the head reads what a learned query makes of the cells of the last map, in place of the
    features (CoCa).
    """

    def __init__(
        self,
        encoder: nnx.Module,
        head: nnx.Module,
        text: nnx.Module | None = None,
        predictor: nnx.Module | None = None,
        heads: NamedHeads | None = None,
        decoder: CaptionDecoder | None = None,
        image_decoder: ImageDecoder | None = None,
    ):
        self.encoder = encoder
        self.head = head
        self.text = nnx.data(text)
        self.predictor = nnx.data(predictor)
        self.heads = nnx.data(heads)
        self.decoder = nnx.data(decoder)
        self.image_decoder = nnx.data(image_decoder)

    def features(self, images: jax.Array) -> jax.Array:
        """What is kept after training: images [n, s, s, 3] -> [n, F] float32."""
        return self.encoder(images)

    def embed(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Images [n, s, s, 3] -> (features [n, F], z [n, D] with unit rows), both float32."""
        features, raw = self.project(images)
        return features, unit_rows(raw)

    def project(self, images: jax.Array, along: jax.Array | StyleNoise | None = None) -> tuple[jax.Array, jax.Array]:
        """Images [n, s, s, 3] -> (features [n, F], head outputs [n, D] of any length), both float32.

        along: what the encoder reads beside the images in training: a ViT the patches of each that it keeps, int [n,
        kept], a ResNet the noise of their styles, a ConvNeXt what decides which blocks they leave out, [n, blocks].
        None: nothing, for all patches and blocks and without noise.
        """
        if self.decoder is not None:
            return self.with_tokens(images)[:2]
        features = self.encoder(images) if along is None else self.encoder(images, along)
        return features, self.head(features)

    def with_tokens(self, images: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """As project, and what the decoder of captions reads of the images, [n, queries, width]."""
        features, cells = self._with_map(images)
        pooled = self.decoder.pool(cells.reshape(cells.shape[0], -1, cells.shape[-1]))
        return features, self.head(pooled[:, 0].astype(jnp.float32)), pooled[:, 1:]

    def cells(self, images: jax.Array) -> jax.Array:
        """The last map of the encoder before it is pooled: images [n, s, s, 3] -> [n, h, w, F] float32."""
        return self._with_map(images)[1]

    def _with_map(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        if not hasattr(self.encoder, "with_map"):
            expected = "an encoder with a method with_map, for an objective that reads cells of a map"
            raise ConfigError("model.encoder", type(self.encoder).__name__, expected, "Take resnet50, for example.")
        return self.encoder.with_map(images)

    def outputs(
        self, images: jax.Array, along: jax.Array | StyleNoise | None = None
    ) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
        """As project, and the outputs of the named heads of the images: [n, D], of the cells of maps [n, h, w, D]."""
        if self.heads is None or "cells" not in self.heads.reads.values():
            features, raw = self.project(images, along)
            return features, raw, self.project_named("image", features)
        if along is not None:
            expected = "0 for an objective that compares all cells of a map"
            raise ConfigError("model.patch_dropout or model.drop_path", "above 0", expected)
        features, cells = self._with_map(images)
        return features, self.head(features), self.project_named("image", features) | self.project_named("cells", cells)

    def predict(self, z: jax.Array) -> jax.Array:
        """What the student makes of its embeddings before they are compared with a teacher's: [n, D] -> unit [n, D]."""
        return unit_rows(self.predictor(z))

    def project_named(self, side: str, features: jax.Array) -> dict[str, jax.Array]:
        """Outputs [n, D] of any length of the named heads of a side, image or text, on its features [n, F]; by name."""
        return {} if self.heads is None else self.heads(side, features)

    def text_features(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        """What the named heads of the text side read, [n, width] float32."""
        return self.text.features(batch[self.text.reads])

    def embed_words(self, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """(unit rows [n, t, D] of all tokens of a transformer, which of them are no padding bool [n, t])."""
        z, there = self.text.words(batch[self.text.reads])
        return unit_rows(z), there

    def read_text(self, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """(unit rows [n, D] as of embed_text, the states of all tokens [n, t, width]) of a causal text tower."""
        tokens = batch[self.text.reads]
        states = self.text.states(tokens)
        return unit_rows(self.text.out(self.text.features_of(states, tokens))), states

    def embed_text(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        """Unit rows [n, D] float32 of `batch[self.text.reads]`: caption_embedding [n, E] or caption_tokens [n, L].

        Raises:
          ConfigError: the model has no text tower, or the batch lacks what the tower reads.
        """
        if self.text is None:
            raise ConfigError(
                "objective.preset", None, "an objective whose model has a text tower", "Build with text=..."
            )
        if self.text.reads not in batch:
            raise ConfigError("batch", sorted(batch), f"an entry {self.text.reads!r} for the text tower")
        return unit_rows(self.text(batch[self.text.reads]))


def config_for(config, platform: str):
    """The config with what model.conv_impl = auto means on a platform (of a jax.Device) in its place."""
    if config.model.conv_impl != "auto":
        return config
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.model.conv_impl = resolve_implementation("auto", platform)
    return config


def build_model(
    config,
    text: str | None = None,
    text_size: int | None = None,
    *,
    predictor: bool = False,
    heads: Mapping[str, Head] | None = None,
    rngs: nnx.Rngs,
) -> Towers:
    """Builds the model that a config describes; under `nnx.eval_shape` it costs nothing.

    Args:
      config: the whole config (config/schema.py): reads model, augment.size and precision.compute.
      text: text tower of the objective: None, "linear" (of frozen caption embeddings), "transformer" (of tokens), or
        "causal" (of tokens, with a decoder of captions after it).
      text_size: width of the caption embeddings, for "linear"; number of token ids, for the others; of the frozen
        texts of the classes, for a named head that reads them without a text tower.
      predictor: a second head on the embeddings, of the hidden widths of the projection head (BYOL, MoCo v3).
      heads: named heads beside the projection head (models/heads.py); with one of log variances there is a decoder of
        images.
      rngs: source of the initial parameters.

    Raises:
      ConfigError: unknown encoder or text tower, sizes that do not go together, or a text tower without text_size.
    """
    make_encoder = lookup(ENCODERS, config.model.encoder, "model.encoder")
    make_text = lookup(TEXT_TOWERS, text, "text") if text is not None else None
    encoder = make_encoder(config, rngs)
    head = config.model.head
    dtype = jnp.dtype(config.precision.compute)
    captions = text == "causal"
    projection = projection_of(config, config.model.text.width if captions else encoder.features, rngs)
    second = (
        ProjectionHead(head.dim, tuple(head.hidden), head.dim, head.batch_norm, dtype, rngs=rngs) if predictor else None
    )
    text_tower = make_text and make_text(config, text_size, rngs)
    widths = {"image": encoder.features, "cells": encoder.features, "text": text_tower and text_tower.width}
    widths |= {} if text else {"class_text": text_size}
    named = NamedHeads(heads, widths, config, rngs=rngs) if heads else None
    decoder = _caption_decoder(config, encoder.features, text_size, rngs) if captions else None
    drawn = any(head.log_variance for head in (heads or {}).values())
    image_decoder = ImageDecoder.of(config, rngs) if drawn else None
    return Towers(encoder, projection, text_tower, second, named, decoder, image_decoder)


def _caption_decoder(config, cells: int, vocab_size: int, rngs: nnx.Rngs) -> CaptionDecoder:
    text = config.model.text
    if not text.multimodal:
        raise ConfigError("model.text.multimodal", text.multimodal, "at least 1 layer for a decoder of captions")
    shape = (vocab_size, text.width, text.multimodal, text.heads)
    dtype = jnp.dtype(config.precision.compute)
    return CaptionDecoder(*shape, cells, text.queries, dtype=dtype, remat=config.model.remat, rngs=rngs)


def _linear_text(config, caption_dim: int | None, rngs: nnx.Rngs) -> LinearText:
    if not caption_dim:
        raise ConfigError(
            "caption_dim", caption_dim, "the width of the caption embeddings", "Embed the captions of the set first."
        )
    return LinearText(caption_dim, config.model.head.dim, rngs=rngs)


def _transformer_text(config, vocab_size: int | None, rngs: nnx.Rngs, causal: bool = False) -> TextTower:
    if not vocab_size:
        raise ConfigError("vocab_size", vocab_size, "the number of token ids", "Train a tokenizer for the set first.")
    text = config.model.text
    if not text.layers:
        raise ConfigError("model.text.layers", text.layers, "at least 1 for a text tower that reads tokens")
    dtype = jnp.dtype(config.precision.compute)
    shape = (vocab_size, text.width, text.layers, text.heads, text.length, config.model.head.dim)
    causal = causal or text.causal
    return TextTower(*shape, dtype, remat=config.model.remat, causal=causal, rngs=rngs)


TEXT_TOWERS = {
    "linear": _linear_text,
    "transformer": _transformer_text,
    "causal": partial(_transformer_text, causal=True),
}
