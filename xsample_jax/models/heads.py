"""Heads: what the loss sees of the features, and the lengths and cosines of such rows of embeddings."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from xsample_jax.errors import ConfigError
from xsample_jax.models.layers import BatchNorm

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


def projection_of(config, features: int, rngs: nnx.Rngs) -> nnx.Module:
    """The projection head of a config on features of a width; ConfigError where a fixed head cannot have head.dim."""
    head = config.model.head
    if head.kappa is None:
        dtype = jnp.dtype(config.precision.compute)
        return ProjectionHead(features, tuple(head.hidden), head.dim, head.batch_norm, dtype, rngs=rngs)
    if head.dim != features:
        expected = f"the width of the features, {features}: with model.head.kappa they are what the loss sees"
        raise ConfigError("model.head.dim", head.dim, expected, f"Set --config.model.head.dim={features}.")
    return ReweightingHead(features, head.kappa)


# Heads with names, beside the projection head: an objective declares them, its terms say which they read.


@dataclasses.dataclass(frozen=True)
class Head:
    """A named head. None means what the section model.head of the config says.

    Attributes:
      of: what it reads: the features of a side, "image" or "text", the frozen texts of all classes ("class_text"), the
        "cells" of the last map of an image (then it is applied to each), or the name of a head declared before it.
      hidden: widths of its hidden layers. dim: width of its output. batch_norm: whether they are normalized.
      standardized: its output has mean 0 and variance 1 over the batch in every channel.
      temperature: where a learned temperature of its own starts (rule "of_head"), or the name of the head whose
        temperature it shares; None: it has none.
      propagation: in place of an MLP, every cell of a map collects from those like it, by this power (Propagation).
      log_variance: its output is the log variance of the projection head's: a row is drawn from the normal distribution
        of both, and a decoder makes an image of it (objectives/generative.py).
    """

    of: str = "image"
    hidden: tuple[int, ...] | None = None
    dim: int | None = None
    batch_norm: bool | None = None
    standardized: bool = False
    temperature: float | str | None = None
    propagation: float | None = None
    log_variance: bool = False


def map_heads(heads: Mapping[str, Head]) -> frozenset[str]:
    """Names of the heads whose outputs are maps: those of the cells, and those that read one of these."""
    found = {"cells"}
    for name, head in heads.items():
        found |= {name} if head.of in found else set()
    return frozenset(found - {"cells"})


class NamedHeads(nnx.Module):
    """The named heads of a model: `(side, features [n, F]) -> {name: [n, dim]}` float32, of any length.

    Args:
      heads: by name, each after the one that it reads. widths: of the features of the sides "image" and "text".
    """

    def __init__(self, heads: Mapping[str, Head], widths: Mapping[str, int | None], config, *, rngs: nnx.Rngs):
        self.reads = {name: head.of for name, head in heads.items()}
        self.standardized = tuple(name for name, head in heads.items() if head.standardized)
        self.propagating = tuple(name for name, head in heads.items() if head.propagation is not None)
        own, known = config.model.head, dict(widths)
        dtype, made = jnp.dtype(config.precision.compute), {}
        for name, head in heads.items():
            hidden = tuple(own.hidden) if head.hidden is None else head.hidden
            norm = own.batch_norm if head.batch_norm is None else head.batch_norm
            known[name] = head.dim or own.dim
            if head.propagation is not None:
                made[name] = Propagation(known[head.of], head.propagation, rngs=rngs)
                continue
            made[name] = ProjectionHead(known[head.of], hidden, known[name], norm, dtype, rngs=rngs)
        self.modules = nnx.Dict(made)

    def __call__(self, side: str, features: jax.Array) -> dict[str, jax.Array]:
        found = {side: features}
        for name, of in self.reads.items():
            if of in found:
                x = found[of]
                flat = self.modules[name](x if x.ndim == 2 or name in self.propagating else x.reshape(-1, x.shape[-1]))
                z = flat.reshape(*x.shape[:-1], -1)
                found[name] = standardized(z) if name in self.standardized else z
        return {name: z for name, z in found.items() if name != side}


class Propagation(nnx.Module):
    """PixPro's smoothing of a map by itself: [n, h, w, D] -> unit rows [n, h, w, D].

    y_i = normalized sum over cells j of relu(cos(x_i, x_j))^power V_j, V_j = normalized (W x_j + b); the weights of the
    sum are not normalized.
    """

    def __init__(self, width: int, power: float, *, rngs: nnx.Rngs):
        self.power = power
        self.value = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        rows = x.reshape(x.shape[0], -1, x.shape[-1])
        value, z = unit_rows(self.value(rows)), unit_rows(rows)
        like = jax.nn.relu(jnp.einsum("nid,njd->nij", z, z, precision=jax.lax.Precision.HIGHEST))
        weight = jnp.where(like > 0, jnp.where(like > 0, like, 1.0) ** self.power, 0.0)
        collected = jnp.einsum("nij,njd->nid", weight, value, precision=jax.lax.Precision.HIGHEST)
        return unit_rows(collected).reshape(x.shape)


def standardized(z: jax.Array, epsilon: float = 1e-5) -> jax.Array:
    """z [n, D] with mean 0 and variance 1 of every channel over the rows."""
    return (z - z.mean(axis=0)) * jax.lax.rsqrt(z.var(axis=0) + epsilon)


# Rows of embeddings: unit length and cosines, in float32 at the highest matmul precision.
#
# The precision matters: a softmax multiplies an error in the cosine by 1 / temperature.


def unit_rows(x: jax.Array, floor: float = 1e-6) -> jax.Array:
    """Divides each row of `x` [..., D] by its Euclidean norm, in float32 (float64 stays).

    A row shorter than `floor` has no direction to speak of: it becomes the zero vector and passes no gradient, where
    the plain formula gives 0/0 and a NaN gradient, or a gradient of size 1/norm that would ruin the step. A row that is
    not finite stays so: a step has to see it.
    """
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    largest = jnp.max(jnp.abs(x), axis=-1, keepdims=True, initial=0.0)
    x = x * jnp.where(largest > 1e16, 2.0**-70, 1.0)  # its square would be infinite, and the row zero
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    short = square <= floor**2
    # The inner `where` keeps rsqrt away from 0: the outer one alone would multiply its infinite derivative by zero.
    return jnp.where(short, 0.0, x * jax.lax.rsqrt(jnp.where(short, 1.0, square)))


def products(x: jax.Array, y: jax.Array) -> jax.Array:
    """Dot products of all pairs of rows, [A, D] x [K, D] -> [A, K]."""
    return jnp.matmul(x, y.T, precision=jax.lax.Precision.HIGHEST)


def squared_distances(x: jax.Array, y: jax.Array) -> jax.Array:
    """|x_i - y_k|^2 of all pairs of rows, at least 0. [A, D] x [K, D] -> [A, K]."""
    square = jnp.sum(x * x, axis=-1)[:, None] + jnp.sum(y * y, axis=-1)[None, :] - 2 * products(x, y)
    return jnp.maximum(square, 0.0)


def cosines(x: jax.Array, y: jax.Array) -> jax.Array:
    """Cosines of all pairs of rows, [A, D] x [K, D] -> [A, K]; rows of any length."""
    return products(unit_rows(x), unit_rows(y))
