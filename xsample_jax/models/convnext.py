"""ConvNeXt (Liu et al., arXiv 2201.03545) and ConvNeXt V2 (Woo et al., arXiv 2301.00808): images -> pooled features.

Four stages of residual blocks: a depthwise 7x7 convolution, layer norm, and an MLP over the channels of every place.
The two versions differ in one place: V1 multiplies what a block adds by learned factors (LayerScale), V2 has global
response normalization inside the MLP instead. Features are the mean of the last map, then a layer norm.

As in timm, whose weights can be imported: the stem is patches of 4 x 4 pixels and a layer norm, before each later stage
come a layer norm and patches of 2 x 2, GELU is the exact one, and a side that patches do not divide is cut at its far
end. Images have at least 32 pixels on a side, or nothing is left of them.

A depthwise convolution on a CPU is the sum of the shifted, scaled copies of the map ("dot"; XLA's own takes 3 to 30
times as long there), elsewhere XLA's ("conv").
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from xsample_jax.augment.ids import row_keys
from xsample_jax.errors import lookup
from xsample_jax.models.layers import block_runner, layer_norm, resolve_implementation

SIDE = 7  # of the kernels of the depthwise convolutions
STEM, STEP = 4, 2  # sides of the patches of the stem, and of those before the later stages
SMALLEST_SIDE = STEM * STEP**3  # pixels on a side of an image, of which the last map has one place
LAYER_SCALE, EPSILON = 1e-6, 1e-6
_start = nnx.initializers.truncated_normal(0.02)


@dataclasses.dataclass(frozen=True)
class Variant:
    """The shape of a ConvNeXt.

    Attributes:
      depths, widths: blocks and channels of each stage.
      response: V2: global response normalization in place of LayerScale.
      epsilon: of all layer norms.
      convolutions: timm keeps the maps of the MLPs as 1x1 convolutions (weights/families.py); they compute the same.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    response: bool = False
    epsilon: float = EPSILON
    convolutions: bool = False

    @property
    def blocks(self) -> int:
        """All of them."""
        return sum(self.depths)


def _doubling(first: int) -> tuple[int, ...]:
    return tuple(first * 2**stage for stage in range(4))


_DEEP = (3, 3, 27, 3)
_BOTH = {
    "atto": Variant((2, 2, 6, 2), _doubling(40), convolutions=True),
    "femto": Variant((2, 2, 6, 2), _doubling(48), convolutions=True),
    "pico": Variant((2, 2, 6, 2), _doubling(64), convolutions=True),
    "nano": Variant((2, 2, 8, 2), _doubling(80), convolutions=True),
    "tiny": Variant((3, 3, 9, 3), _doubling(96)),
    "small": Variant(_DEEP, _doubling(96)),
    "base": Variant(_DEEP, _doubling(128)),
    "large": Variant(_DEEP, _doubling(192)),
}
VARIANTS = {
    **{f"convnext_{size}": variant for size, variant in _BOTH.items()},
    "convnext_xlarge": Variant(_DEEP, _doubling(256)),
    "convnext_xxlarge": Variant((3, 4, 30, 3), _doubling(384), epsilon=1e-5),
    **{f"convnextv2_{size}": dataclasses.replace(variant, response=True) for size, variant in _BOTH.items()},
    "convnextv2_huge": Variant(_DEEP, _doubling(352), response=True),
}


# A convolution of every channel with a kernel of its own, as XLA's or as a sum of shifted maps.


def depthwise(x: jax.Array, kernel: jax.Array, implementation: str = "conv") -> jax.Array:
    """Zero-padded by size // 2 on every side, stride 1.

    Args:
      x: [n, h, w, c].
      kernel: [size, size, c] of the type of `x`, size odd.
      implementation: "conv", or "dot" (sums in float32; it has no forward-mode derivative).

    Returns:
      [n, h, w, c] of the type of `x`.
    """
    if implementation == "dot":
        return _shifted_sum(x, kernel)
    pad = [(kernel.shape[0] // 2,) * 2] * 2
    form = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "feature_group_count": x.shape[-1]}
    return lax.conv_general_dilated(x, kernel[:, :, None], (1, 1), pad, **form)


def _padded(x: jax.Array, size: int) -> jax.Array:
    pad = (size // 2,) * 2
    return jnp.pad(x, ((0, 0), pad, pad, (0, 0)))


def _sum_of_shifts(x: jax.Array, kernel: jax.Array) -> jax.Array:
    size, (_, rows, columns, _) = len(kernel), x.shape
    padded, scale = _padded(x, size), kernel.astype(jnp.float32)
    shifts = ((i, j) for i in range(size) for j in range(size))
    return sum(padded[:, i : i + rows, j : j + columns] * scale[i, j] for i, j in shifts).astype(x.dtype)


@jax.custom_vjp
def _shifted_sum(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _sum_of_shifts(x, kernel)


def _shifted_forward(x: jax.Array, kernel: jax.Array):
    return _sum_of_shifts(x, kernel), (x, kernel)


def _shifted_backward(saved: tuple[jax.Array, jax.Array], g: jax.Array):
    """Derived automatically, both gradients would be 49 padded maps: twice the time, and half a minute to compile."""
    x, kernel = saved
    size, padded = len(kernel), _padded(x, len(kernel))

    def of_shift(number: jax.Array) -> jax.Array:
        shifted = lax.dynamic_slice(padded, (0, number // size, number % size, 0), x.shape)
        return jnp.sum(shifted.astype(jnp.float32) * g.astype(jnp.float32), axis=(0, 1, 2))

    of_kernel = lax.map(of_shift, jnp.arange(size * size)).reshape(kernel.shape)
    return _sum_of_shifts(g, kernel[::-1, ::-1]), of_kernel.astype(kernel.dtype)


_shifted_sum.defvjp(_shifted_forward, _shifted_backward)


# The parts of the network.


class Depthwise(nnx.Module):
    """`depthwise` with its kernel [7, 7, width] and bias [width], float32: [n, h, w, width] -> the same, of `dtype`."""

    def __init__(self, width: int, implementation: str, *, dtype, rngs: nnx.Rngs):
        self.kernel = nnx.Param(_start(rngs.params(), (SIDE, SIDE, width), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(width, jnp.float32))
        self.implementation, self.dtype = implementation, dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        y = depthwise(x.astype(self.dtype), self.kernel[...].astype(self.dtype), self.implementation)
        return y + self.bias[...].astype(self.dtype)


class ResponseNorm(nnx.Module):
    """Global response normalization: x + bias + scale * x * r, [n, h, w, width] -> the same, in float32 inside.

    r of an image and channel: its length over all places, divided by the mean of these lengths over the channels.
    """

    def __init__(self, width: int):
        self.scale = nnx.Param(jnp.zeros(width, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(width, jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        squares = jnp.sum(wide * wide, axis=(1, 2), keepdims=True)
        there = squares > 0  # the root of 0 has no gradient
        lengths = jnp.where(there, jnp.sqrt(jnp.where(there, squares, 1.0)), 0.0)
        response = lengths / (jnp.mean(lengths, axis=-1, keepdims=True) + EPSILON)
        return (wide + self.bias[...] + self.scale[...] * wide * response).astype(x.dtype)


class Block(nnx.Module):
    """x [n, h, w, width] -> x + scale * mlp(norm(depthwise(x))); kept [n] multiplies the second part."""

    def __init__(self, width: int, variant: Variant, implementation: str, *, dtype, rngs: nnx.Rngs):
        options = {"dtype": dtype, "kernel_init": _start, "rngs": rngs}
        self.conv = Depthwise(width, implementation, dtype=dtype, rngs=rngs)
        self.norm = layer_norm(width, variant.epsilon, dtype=dtype, rngs=rngs)
        self.expand = nnx.Linear(width, 4 * width, **options)
        self.response = nnx.data(ResponseNorm(4 * width) if variant.response else None)
        self.contract = nnx.Linear(4 * width, width, **options)
        factors = None if variant.response else nnx.Param(jnp.full(width, LAYER_SCALE, jnp.float32))
        self.scale = nnx.data(factors)

    def __call__(self, x: jax.Array, kept: jax.Array | None = None) -> jax.Array:
        y = jax.nn.gelu(self.expand(self.norm(self.conv(x))), approximate=False)
        y = self.contract(y if self.response is None else self.response(y))
        if self.scale is not None:
            y = y * self.scale[...].astype(y.dtype)
        return x + (y if kept is None else y * kept[:, None, None, None].astype(y.dtype))


class Patches(nnx.Module):
    """Patches of side x side places as channels, then a linear map: [n, h, w, channels] -> [n, h // side, w // side,
    width]; rows and columns that do not fill a patch are left out."""

    def __init__(self, side: int, channels: int, width: int, *, dtype, rngs: nnx.Rngs):
        self.side = side
        self.map = nnx.Linear(side * side * channels, width, dtype=dtype, kernel_init=_start, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        n, height, width, channels = x.shape
        side, rows, columns = self.side, height // self.side, width // self.side
        x = x[:, : rows * side, : columns * side].reshape(n, rows, side, columns, side, channels).swapaxes(2, 3)
        return self.map(x.reshape(n, rows, columns, -1))


class Downsample(nnx.Module):
    """Layer norm, then patches of 2 x 2: what is before a stage other than the first."""

    def __init__(self, channels: int, width: int, epsilon: float, *, dtype, rngs: nnx.Rngs):
        self.norm = layer_norm(channels, epsilon, dtype=dtype, rngs=rngs)
        self.patches = Patches(STEP, channels, width, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.patches(self.norm(x))


class Stage(nnx.Module):
    """Perhaps a downsampling, then blocks of one width."""

    def __init__(self, number: int, variant: Variant, implementation: str, *, dtype, rngs: nnx.Rngs):
        width, options = variant.widths[number], {"dtype": dtype, "rngs": rngs}
        before = Downsample(variant.widths[number - 1], width, variant.epsilon, **options) if number else None
        self.downsample = nnx.data(before)
        self.blocks = nnx.List(
            [Block(width, variant, implementation, **options) for _ in range(variant.depths[number])]
        )


class ConvNeXt(nnx.Module):
    """ConvNeXt: images [n, s, s, channels] -> features [n, `features`] float32.

    In training every block may be left out of some rows (stochastic depth, Huang et al., arXiv 1603.09382): the share
    of rows rises evenly from 0 at the first block to `drop_path` at the last, and what a kept block adds is divided by
    the share of rows that keep it.

    Args:
      variant: a name of VARIANTS, or a `Variant`.
      conv_impl: "auto", "conv" or "dot", of the depthwise convolutions (`depthwise`).
      dtype: type of activations and products; parameters are float32, norms are taken in float32.
      drop_path: share of the rows that leave out the last block, below 1.
      remat: what blocks keep for the backward pass (models/layers.py).
      channels: of the images.
      rngs: source of the initial parameters.

    Raises:
      ConfigError: unknown variant, conv_impl or remat.
    """

    def __init__(
        self,
        variant: str | Variant,
        conv_impl: str = "auto",
        dtype=jnp.float32,
        *,
        drop_path: float = 0.0,
        remat: str = "none",
        channels: int = 3,
        rngs: nnx.Rngs,
    ):
        variant = variant if isinstance(variant, Variant) else lookup(VARIANTS, variant, "model.encoder")
        implementation = resolve_implementation(conv_impl)
        options = {"dtype": dtype, "rngs": rngs}
        self.stem = Patches(STEM, channels, variant.widths[0], **options)
        self.stem_norm = layer_norm(variant.widths[0], variant.epsilon, **options)
        self.stages = nnx.List([Stage(number, variant, implementation, **options) for number in range(4)])
        self.norm = layer_norm(variant.widths[-1], variant.epsilon, dtype=jnp.float32, rngs=rngs)
        self.features, self.variant = variant.widths[-1], variant
        self.rates = tuple(np.linspace(0, drop_path, variant.blocks).tolist())
        self.run = block_runner(remat)

    def __call__(self, images: jax.Array, draws: jax.Array | None = None) -> jax.Array:
        """draws: float32 [n, blocks] from [0, 1) (draw_blocks), which rows leave out which blocks; None: none."""
        return self._pooled(self._all_maps(images, draws)[-1])

    def with_map(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(features [n, F], the normalized places of the last map [n, h, w, F]), float32."""
        last = self._all_maps(images)[-1]
        return self._pooled(last), self.norm(last)

    def maps(self, images: jax.Array) -> dict[str, jax.Array]:
        """The map [n, h, w, channels] after each stage, by name, from shallow to deep."""
        return {f"stage {number}": x for number, x in enumerate(self._all_maps(images), 1)}

    def _pooled(self, last: jax.Array) -> jax.Array:
        return self.norm(jnp.mean(last, axis=(1, 2), dtype=jnp.float32))

    def _all_maps(self, images: jax.Array, draws: jax.Array | None = None) -> list[jax.Array]:
        x, found, number = self.stem_norm(self.stem(images)), [], 0
        for stage in self.stages:
            x = x if stage.downsample is None else stage.downsample(x)
            for block in stage.blocks:
                rate = self.rates[number]
                x = self.run(block, x, *(() if draws is None else ((draws[:, number] >= rate) / (1 - rate),)))
                number += 1
            found.append(x)
        return found


def draw_blocks(key: jax.Array, ids: jax.Array, copies: jax.Array, views: int, blocks: int) -> jax.Array:
    """What decides which blocks the rows of a batch leave out: float32 [B * views, blocks] from [0, 1).

    As draw_patches (models/vit.py) draws, row = image * views + view.
    """
    return jax.vmap(lambda own: jax.random.uniform(own, (blocks,)))(row_keys(key, ids, copies, views))
