"""The whole model: an image encoder, its projection head and, for image-text objectives, a text tower."""

import itertools
import math
from collections.abc import Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from xsample_jax.errors import ConfigError, lookup
from xsample_jax.models import resnet, vit
from xsample_jax.models.layers import BatchNorm
from xsample_jax.models.resnet import ResNet
from xsample_jax.models.text import LinearText, TextTower
from xsample_jax.models.vit import ViT
from xsample_jax.ops import unit_rows

# From features to what the loss sees: the projection MLP of SimCLR (Chen et al., arXiv 2002.05709).


class ProjectionHead(nnx.Module):
    """(linear, batch norm, ReLU) per hidden width, then linear without bias: [n, features] -> [n, out] float32.

    The last layer has no bias: it would add one common vector to all rows, which only pulls their cosines together.

    Args:
      features: width of the input.
      hidden: widths of the hidden layers; () makes the head one linear map.
      out: width of the result.
      batch_norm: normalize the hidden layers over the batch (global, in float32); without it they have biases.
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


class ReweightingHead(nnx.Module):
    """z_d = h_d kappa^-d: a head that learns nothing, [n, features] -> [n, features] (arXiv 2403.11391).

    What a projection head does to features, made explicit: early ones count, late ones are hardly seen by the loss.
    kappa = 1 is no head at all. A factor below what float32 can hold is 0.

    Args:
      features: width of input and result; kappa: at least 1, 1.05 in the published pretraining.
    """

    def __init__(self, features: int, kappa: float):
        self.features, self.kappa = features, kappa

    def __call__(self, x: jax.Array) -> jax.Array:
        return x.astype(jnp.float32) * jnp.exp(-jnp.log(self.kappa) * jnp.arange(self.features, dtype=jnp.float32))


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
        x = self.standardize(inputs.reshape(len(inputs), -1).astype(jnp.float32)).astype(self.dtype)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = jax.nn.relu(norm(layer(x)))
        return x.astype(jnp.float32)


def _head(config, features: int, rngs: nnx.Rngs) -> nnx.Module:
    """The projection head of a config on features of a width; ConfigError where a fixed head cannot have head.dim."""
    head = config.model.head
    if head.kappa is None:
        dtype = jnp.dtype(config.precision.compute)
        return ProjectionHead(features, tuple(head.hidden), head.dim, head.batch_norm, dtype, rngs=rngs)
    if head.dim != features:
        expected = f"the width of the features, {features}: with model.head.kappa they are what the loss sees"
        raise ConfigError("model.head.dim", head.dim, expected, f"Set --config.model.head.dim={features}.")
    return ReweightingHead(features, head.kappa)


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
    return ViT(variant, model.patch_size, size, dtype, **options, rngs=rngs)


def _mlp(config, rngs: nnx.Rngs, *, depth: int) -> MLP:
    size = config.augment.size
    inputs = (config.data.image_size,) if config.data.source == "vectors" else (size, size, 3 + config.augment.bits)
    return MLP(inputs, depth, config.model.width, jnp.dtype(config.precision.compute), rngs=rngs)


# Name -> function of (config, rngs) that returns a module: images [n, s, s, 3 + augment.bits] -> float32
# [n, module.features].
ENCODERS = {
    **{f"resnet{depth}": partial(_resnet, depth=depth) for depth in resnet.LAYOUTS},
    **{f"vit_{variant}": partial(_vit, variant=variant) for variant in vit.VARIANTS},
    **{f"mlp{depth}": partial(_mlp, depth=depth) for depth in (1, 2, 3, 4)},
}
# Encoders of one kind, the smallest first: they share the rules of a config and the names of weights.
KINDS = {kind: tuple(name for name in ENCODERS if name.startswith(kind)) for kind in ("resnet", "vit", "mlp")}

OWN = "own"


def kind_of(encoder: str) -> str:
    """The kind of an encoder, a name of ENCODERS: a name of KINDS, or OWN for one that was added from outside."""
    return next((kind for kind, names in KINDS.items() if encoder in names), OWN)


class Towers(nnx.Module):
    """Encoder, projection head and perhaps a text tower. `.train()` and `.eval()` switch the batch norms of all."""

    def __init__(
        self, encoder: nnx.Module, head: nnx.Module, text: nnx.Module | None = None, predictor: nnx.Module | None = None
    ):
        self.encoder = encoder
        self.head = head
        self.text = nnx.data(text)
        self.predictor = nnx.data(predictor)

    def features(self, images: jax.Array) -> jax.Array:
        """What is kept after training: images [n, s, s, 3] -> [n, F] float32."""
        return self.encoder(images)

    def embed(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Images [n, s, s, 3] -> (features [n, F], z [n, D] with unit rows), both float32."""
        features, raw = self.project(images)
        return features, unit_rows(raw)

    def project(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Images [n, s, s, 3] -> (features [n, F], head outputs [n, D] of any length), both float32."""
        features = self.encoder(images)
        return features, self.head(features)

    def predict(self, z: jax.Array) -> jax.Array:
        """What the student makes of its embeddings before they are compared with a teacher's: [n, D] -> unit [n, D]."""
        return unit_rows(self.predictor(z))

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


def build_model(
    config,
    text: str | None = None,
    caption_dim: int | None = None,
    vocab_size: int | None = None,
    *,
    predictor: bool = False,
    rngs: nnx.Rngs,
) -> Towers:
    """Builds the model that a config describes; under `nnx.eval_shape` it costs nothing.

    Args:
      config: the whole config (config/schema.py): reads model, augment.size and precision.compute.
      text: text tower of the objective: None, "linear" (of frozen caption embeddings) or "transformer" (of tokens).
      caption_dim: width of the caption embeddings, for "linear".
      vocab_size: number of token ids, for "transformer".
      predictor: a second head on the embeddings, of the hidden widths of the projection head (BYOL, MoCo v3).
      rngs: source of the initial parameters.

    Raises:
      ConfigError: unknown encoder or text tower, sizes that do not go together, or a missing caption_dim or vocab_size.
    """
    make_encoder = lookup(ENCODERS, config.model.encoder, "model.encoder")
    make_text = lookup(TEXT_TOWERS, text, "text") if text is not None else None
    encoder = make_encoder(config, rngs)
    head = config.model.head
    dtype = jnp.dtype(config.precision.compute)
    projection = _head(config, encoder.features, rngs)
    second = (
        ProjectionHead(head.dim, tuple(head.hidden), head.dim, head.batch_norm, dtype, rngs=rngs) if predictor else None
    )
    return Towers(encoder, projection, make_text and make_text(config, caption_dim, vocab_size, rngs), second)


def _linear_text(config, caption_dim: int | None, vocab_size: int | None, rngs: nnx.Rngs) -> LinearText:
    if not caption_dim:
        raise ConfigError(
            "caption_dim", caption_dim, "the width of the caption embeddings", "Embed the captions of the set first."
        )
    return LinearText(caption_dim, config.model.head.dim, rngs=rngs)


def _transformer_text(config, caption_dim: int | None, vocab_size: int | None, rngs: nnx.Rngs) -> TextTower:
    if not vocab_size:
        raise ConfigError("vocab_size", vocab_size, "the number of token ids", "Train a tokenizer for the set first.")
    text = config.model.text
    if not text.layers:
        raise ConfigError("model.text.layers", text.layers, "at least 1 for a text tower that reads tokens")
    dtype = jnp.dtype(config.precision.compute)
    shape = (vocab_size, text.width, text.layers, text.heads, text.length, config.model.head.dim)
    return TextTower(*shape, dtype, remat=config.model.remat, rngs=rngs)


TEXT_TOWERS = {"linear": _linear_text, "transformer": _transformer_text}
