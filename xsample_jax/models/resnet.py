"""ResNet-18, -34 and -50 (He et al., arXiv 1512.03385) without the classifier: images -> pooled features.

The layout follows torchvision so that its weights can be imported: "v1.5" (a bottleneck strides in its 3x3
convolution), symmetric padding, batch norm with eps 1e-5 and a running average of 0.9 old + 0.1 new, no biases in
convolutions. The last scale of each residual branch starts at zero (Goyal et al., arXiv 1706.02677), so that every
block starts as its shortcut.

Batch norms compute in float32, with statistics of the whole batch: in a jit over a batch that is split between devices,
that is the global batch.

In training the maps after some stages can have their styles disturbed: the mean and the standard deviation of every
channel of an image (`StyleNoise`; what learns how far: objectives/style_noise.py).
"""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from xsample_jax.errors import ConfigError, lookup
from xsample_jax.models.layers import BatchNorm, Conv, block_runner, max_pool, resolve_implementation

STEMS = ("imagenet", "cifar")


class Shortcut(nnx.Module):
    """The 1x1 convolution and norm on a shortcut whose block changes the shape."""

    def __init__(self, channels: int, features: int, stride: int, *, conv, norm):
        self.conv = conv(channels, features, 1, stride)
        self.norm = norm(features)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm(self.conv(x))


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions, the first strided."""

    expansion = 1

    def __init__(self, channels: int, width: int, stride: int, *, conv, norm):
        self.conv1, self.norm1 = conv(channels, width, 3, stride), norm(width)
        self.conv2, self.norm2 = conv(width, width, 3, 1), norm(width, zero=True)
        reshapes = stride != 1 or channels != width
        self.shortcut = nnx.data(Shortcut(channels, width, stride, conv=conv, norm=norm) if reshapes else None)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = jax.nn.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return jax.nn.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class Bottleneck(nnx.Module):
    """1x1 down, 3x3 (strided), 1x1 up to four times the width."""

    expansion = 4

    def __init__(self, channels: int, width: int, stride: int, *, conv, norm):
        features = width * self.expansion
        self.conv1, self.norm1 = conv(channels, width, 1, 1), norm(width)
        self.conv2, self.norm2 = conv(width, width, 3, stride), norm(width)
        self.conv3, self.norm3 = conv(width, features, 1, 1), norm(features, zero=True)
        reshapes = stride != 1 or channels != features
        self.shortcut = nnx.data(Shortcut(channels, features, stride, conv=conv, norm=norm) if reshapes else None)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = jax.nn.relu(self.norm1(self.conv1(x)))
        y = jax.nn.relu(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(y))
        return jax.nn.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class Stem(nnx.Module):
    """imagenet: 7x7 stride 2, then 3x3 max-pool stride 2 (a quarter of the side). cifar: 3x3 stride 1 (full side)."""

    def __init__(self, kind: str, width: int, channels: int = 3, *, conv, norm, implementation: str):
        lookup(dict.fromkeys(STEMS), kind, "model.stem")
        size, stride = (7, 2) if kind == "imagenet" else (3, 1)
        self.conv = conv(channels, width, size, stride)
        self.norm = norm(width)
        self.pools = kind == "imagenet"
        self.implementation = implementation

    def __call__(self, x: jax.Array) -> jax.Array:
        x = jax.nn.relu(self.norm(self.conv(x)))
        return max_pool(x, self.implementation) if self.pools else x


# Styles of images: mean and standard deviation of every channel of a map, disturbed in training so that features do not
# lean on them (DSU, Li et al., arXiv 2202.03958; AdvStyle, Zhang et al., arXiv 2301.12643).
#
#     x -> (x - mu) / sigma * (sigma + e2 B) + mu + e1 A        e1, e2 ~ N(0, 1) of every image and channel
#
# A, B [C] are the standard deviations of mu and sigma over the batch (DSU), or learned to raise the loss (AdvStyle).


# AdvStyle: nothing below the first, the learned noise below the second, above it that of DSU.
CALM, LEARNED = 1 / 3, 2 / 3
CALM_OF_DSU = 1 / 2  # the default of its code
SMALLEST_VARIANCE = 1e-6


class StyleNoise(NamedTuple):
    """How the styles of the rows of a pass are disturbed.

    Attributes:
      key: of the step, from which a stage draws which noise it has, the same for all images.
      keys: random keys [n], one of every row.
      stages: after which there is noise; 0: the stem.
      spread: A and B of each of them, {"stage 1": [2, C]}; None: those of the batch only.
    """

    key: jax.Array
    keys: jax.Array
    stages: tuple[int, ...]
    spread: Mapping[str, jax.Array] | None = None


def styles_of(x: jax.Array) -> jax.Array:
    """Mean and standard deviation of every channel of maps [n, h, w, C], float32 [2, n, C]; of the unbiased variance
    plus 1e-6."""
    x = x.astype(jnp.float32).reshape(x.shape[0], -1, x.shape[-1])
    return jnp.stack([jnp.mean(x, axis=1), _deviation(x, 1)])


def spread_of(styles: jax.Array) -> jax.Array:
    """A and B of DSU: standard deviations over the batch [2, C] of the means and deviations [2, n, C]."""
    return _deviation(styles, 1)


def _deviation(x: jax.Array, axis: int) -> jax.Array:
    centered = x - jnp.mean(x, axis=axis, keepdims=True)
    # One place, or one image, has no unbiased variance: 0 here.
    variance = jnp.sum(centered * centered, axis=axis) / max(x.shape[axis] - 1, 1)
    return jnp.sqrt(variance + SMALLEST_VARIANCE)


def with_noise(x: jax.Array, styles: jax.Array, drawn: jax.Array, spread: jax.Array) -> jax.Array:
    """Maps [n, h, w, C] with other styles, float32: the formula above.

    styles [2, n, C]: their own; drawn [2, n, C]: e1 and e2; spread [2, C]: A and B.
    """
    (mean, deviation), (new_mean, new_deviation) = (
        both[:, :, None, None, :] for both in (styles, styles + drawn * spread[:, None])
    )
    return (x.astype(jnp.float32) - mean) / deviation * new_deviation + new_mean


def disturb(x: jax.Array, noise: StyleNoise, stage: int) -> jax.Array:
    """The maps [n, h, w, C] after a stage with the noise of this step, or as they were; of the type of x."""
    if stage not in noise.stages:
        return x
    styles = styles_of(x)
    which, spread, calm = jax.random.uniform(jax.random.fold_in(noise.key, stage)), spread_of(styles), CALM_OF_DSU
    if noise.spread is not None:
        spread, calm = jnp.where(which < LEARNED, noise.spread[name_of_stage(stage)], spread), CALM
    draw = lambda key: jax.random.normal(jax.random.fold_in(key, stage), spread.shape)  # noqa: E731
    drawn = jnp.moveaxis(jax.vmap(draw)(noise.keys), 1, 0)
    return jnp.where(which < calm, x, with_noise(x, styles, drawn, spread).astype(x.dtype))


def name_of_stage(stage: int) -> str:
    """As the maps are named; 0: the stem."""
    return f"stage {stage}" if stage else "stem"


LAYOUTS = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}


class ResNet(nnx.Module):
    """Residual network with global average pooling: images [n, s, s, channels] -> features [n, `features`] float32.

    Args:
      depth: 18, 34 or 50.
      width: channels of the first stage (64 in the paper); each later stage doubles them.
      stem: "imagenet" or "cifar".
      conv_impl: "auto", "conv" or "dot" (models/layers.py).
      dtype: type of activations and products; parameters and batch statistics are float32.
      remat: what residual blocks keep for the backward pass (models/layers.py).
      channels: of the images.
      rngs: source of the initial parameters.

    Raises:
      ConfigError: unknown depth, stem, conv_impl or remat.
    """

    def __init__(
        self,
        depth: int,
        width: int = 64,
        stem: str = "imagenet",
        conv_impl: str = "auto",
        dtype=jnp.float32,
        *,
        remat: str = "none",
        channels: int = 3,
        rngs: nnx.Rngs,
    ):
        if depth not in LAYOUTS:
            raise ConfigError("model.encoder", f"resnet{depth}", f"a depth of {', '.join(map(str, sorted(LAYOUTS)))}")
        block, counts = LAYOUTS[depth]
        implementation = resolve_implementation(conv_impl)
        conv = partial(Conv, implementation=implementation, dtype=dtype, rngs=rngs)
        norm = partial(BatchNorm, rngs=rngs)
        self.stem = Stem(stem, width, channels, conv=conv, norm=norm, implementation=implementation)
        stages, channels, widths = [], width, [width]
        for number, count in enumerate(counts):
            blocks = []
            for position in range(count):
                stride = 2 if number > 0 and position == 0 else 1
                blocks.append(block(channels, width * 2**number, stride, conv=conv, norm=norm))
                channels = width * 2**number * block.expansion
            stages.append(nnx.List(blocks))
            widths.append(channels)
        self.stages = nnx.List(stages)
        self.features, self.widths = channels, tuple(widths)  # channels after the stem and after each stage
        self.run = block_runner(remat)

    def __call__(self, images: jax.Array, noise: StyleNoise | None = None) -> jax.Array:
        return jnp.mean(self._all_maps(images, noise)[-1], axis=(1, 2), dtype=jnp.float32)

    def with_map(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(features [n, F], the map [n, h, w, F] that they are the mean of), float32."""
        *_, last = self._all_maps(images)
        return jnp.mean(last, axis=(1, 2), dtype=jnp.float32), last.astype(jnp.float32)

    def maps(self, images: jax.Array) -> dict[str, jax.Array]:
        """The map [n, h, w, channels] after each stage, by name, from shallow to deep."""
        return {name_of_stage(number): x for number, x in enumerate(self._all_maps(images)) if number}

    def spreads(self, images: jax.Array, stages: tuple[int, ...]) -> dict[str, jax.Array]:
        """A and B of DSU [2, C] after some stages, 0 for the stem, by name."""
        maps = self._all_maps(images)
        return {name_of_stage(stage): spread_of(styles_of(maps[stage])) for stage in stages if stage < len(maps)}

    def _all_maps(self, images: jax.Array, noise: StyleNoise | None = None) -> list[jax.Array]:
        """The map after the stem and after each stage, with their styles disturbed where there is noise."""
        x = self.stem(images)
        found = [x if noise is None else disturb(x, noise, 0)]
        for number, stage in enumerate(self.stages, 1):
            x = found[-1]
            for block in stage:
                x = self.run(block, x)
            found.append(x if noise is None else disturb(x, noise, number))
        return found
