"""Vision transformer (Dosovitskiy et al., arXiv 2010.11929) in the plain form of Beyer et al., arXiv 2205.01580.

Features are the mean over the patch tokens (GAP), with no class token: that baseline found it as good or better, it
keeps the token count round (196 or 64 rather than 197 or 65), and the features stay defined for any number of tokens.
The other layouts are what published weights were trained with; they differ in details, all of them in LAYOUTS.
"""

import dataclasses
from collections.abc import Mapping
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from xsample_jax.augment.ids import row_keys
from xsample_jax.errors import ConfigError, lookup
from xsample_jax.models.attention import attention
from xsample_jax.models.layers import SWIGLU, Block, Mlp, block_runner, layer_norm

_weights = nnx.initializers.xavier_uniform()


@dataclasses.dataclass(frozen=True)
class Shape:
    """Width of the tokens, blocks, attention heads per block, and width inside the MLPs (None: four times `width`).

    gated: the MLPs are SwiGLU (models/layers.py), whatever the activation of the layout.
    """

    width: int
    depth: int
    heads: int
    hidden: int | None = None
    gated: bool = False


VARIANTS = {
    "ti": Shape(192, 12, 3),
    "s": Shape(384, 12, 6),
    "b": Shape(768, 12, 12),
    "l": Shape(1024, 24, 16),
    "h": Shape(1280, 32, 16),
    "so400m": Shape(1152, 27, 16, 4304),  # the shape-optimized one of arXiv 2305.13035
    "g": Shape(1536, 40, 24, 4096, gated=True),  # the giant of DINOv2
    "splus": Shape(384, 12, 6, 1536, gated=True),  # these two are of DINOv3
    "hplus": Shape(1280, 32, 20, 5120, gated=True),
}


@dataclasses.dataclass(frozen=True)
class Layout:
    """The details in which libraries differ.

    Attributes:
      position: "sincos" (fixed, no parameters, any image that the patches divide), "learned" (one image size only) or
        "rotary" (queries and keys of the patches are turned by the place of the patch, rotary_angles).
      token: a class token comes first, and its last state is the feature.
      attention_pool: the feature is what AttentionPool makes of all tokens. With neither, it is the mean over the
        patches.
      registers: tokens after the class token that nothing reads at the end (Darcet et al., arXiv 2309.16588).
      token_position: the class token has a learned position of its own; else the patches alone have one.
      scale: LayerScale of the blocks (models/layers.py) and where it starts; None: without.
      norm_first: a layer norm before the first block.
      patch_bias: the map of the patches has a bias.
      epsilon: of all layer norms.
      activation: of the MLPs (models/layers.py).
      bias: which of queries, keys and values have one (SelfAttention in models/layers.py).
    """

    position: str = "sincos"
    token: bool = False
    norm_first: bool = False
    patch_bias: bool = True
    epsilon: float = 1e-6
    activation: str = "gelu"
    attention_pool: bool = False
    registers: int = 0
    token_position: bool = True
    scale: float | None = None
    bias: str = "all"


_DINOV3 = Layout("rotary", token=True, token_position=False, registers=4, scale=1e-5, epsilon=1e-5, bias="none")
_CLIP = Layout("learned", token=True, norm_first=True, patch_bias=False, epsilon=1e-5)
LAYOUTS = {
    "plain": Layout(),
    "timm": Layout("learned", token=True),
    "open_clip": _CLIP,
    "openai_clip": dataclasses.replace(_CLIP, activation="quick_gelu"),
    "big_vision": Layout("learned", activation="gelu_tanh"),
    "big_vision_sincos": Layout(activation="gelu_tanh"),
    "big_vision_token": Layout("learned", token=True, activation="gelu_tanh"),
    "dinov2": Layout("learned", token=True, scale=1e-5),
    "dinov2_reg": Layout("learned", token=True, scale=1e-5, registers=4, token_position=False),
    "dinov3": _DINOV3,
    "dinov3_qkvb": dataclasses.replace(_DINOV3, bias="query_value"),
    "deit3": Layout("learned", token=True, scale=1e-6, token_position=False),
    "siglip": Layout("learned", attention_pool=True),  # as timm computes it; big_vision trained with gelu_tanh
}
# Those in which a gated shape has names in timm.
GATED_LAYOUTS = ("dinov2", "dinov2_reg", "dinov3", "dinov3_qkvb")


@cache
def sincos_positions(rows: int, columns: int, width: int) -> np.ndarray:
    """Fixed 2-D position embedding (as MoCo v3, arXiv 2104.02057): [rows * columns, width] float32, tokens row by row.

    Token (r, c) gets sin(c w), cos(c w), sin(r w), cos(r w) side by side, w = 10000^(-k / (K - 1)), k < K = width / 4.
    `width` must divide by 4 and be at least 8.
    """
    count = width // 4
    frequencies = 10_000.0 ** (-np.arange(count) / (count - 1))
    row, column = np.mgrid[:rows, :columns].reshape(2, -1, 1)
    parts = [
        np.sin(column * frequencies),
        np.cos(column * frequencies),
        np.sin(row * frequencies),
        np.cos(row * frequencies),
    ]
    return np.concatenate(parts, axis=1).astype(np.float32)


@cache
def rotary_angles(rows: int, columns: int, size: int) -> np.ndarray:
    """Angles by which a head of `size` entries is turned, as in DINOv3 (arXiv 2508.10104): float32 [rows * columns,
    size / 2], tokens row by row.

    The center of patch (r, c) is at (y, x), both from -1 to 1 over the image. The angles are 2 pi y / P, then 2 pi x /
    P, with the periods P = 100^(k / K), k < K = size / 4.
    """
    periods = 100.0 ** (np.arange(size // 4) / (size // 4))
    y, x = (2 * (np.arange(count) + 0.5) / count - 1 for count in (rows, columns))
    places = np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1).reshape(-1, 2)
    return (2 * np.pi * places[:, :, None] / periods).reshape(len(places), -1).astype(np.float32)


class AttentionPool(nnx.Module):
    """One learned query attends to all tokens, then an MLP beside it: [n, t, width] -> [n, width].

    The head MAP of Zhai et al., arXiv 2106.04560, as SigLIP has it.
    """

    def __init__(self, width: int, heads: int, mlp: Mlp, epsilon: float = 1e-6, *, dtype, rngs: nnx.Rngs):
        self.heads = heads
        self.probe = nnx.Param(_weights(rngs.params(), (1, width), jnp.float32))
        linear = partial(nnx.Linear, width, dtype=dtype, kernel_init=_weights, rngs=rngs)
        self.query, self.key_value, self.out = linear(width), linear(2 * width), linear(width)
        self.norm = layer_norm(width, epsilon, dtype=dtype, rngs=rngs)
        self.mlp = mlp

    def __call__(self, x: jax.Array) -> jax.Array:
        n, _, width = x.shape  # len(x) is no number where the batch of an export has any size
        split = (n, -1, self.heads, width // self.heads)
        probe = jnp.broadcast_to(self.probe[...].astype(x.dtype), (n, 1, width))
        key, value = jnp.split(self.key_value(x), 2, axis=-1)
        mixed = attention(self.query(probe).reshape(split), key.reshape(split), value.reshape(split), None)
        pooled = self.out(mixed.reshape(n, width))
        return pooled + self.mlp(self.norm(pooled))


class ViT(nnx.Module):
    """Vision transformer: images [n, s, s, channels] -> features [n, width] float32.

    Args:
      variant: "ti", "s", "b", or a `Shape`.
      patch_size: side of a patch in pixels; divides the image size.
      image_size: side of the images in pixels.
      dtype: type of activations and products; parameters are float32, norms are taken in float32.
      layout: a name of LAYOUTS, or a `Layout`.
      remat: what blocks keep for the backward pass (models/layers.py).
      channels: of the images.
      rngs: source of the initial parameters.

    Raises:
      ConfigError: unknown variant, layout or remat, image size not a multiple of the patch size, a head that rotary
        positions cannot turn.
    """

    def __init__(
        self,
        variant: str | Shape,
        patch_size: int = 16,
        image_size: int = 224,
        dtype=jnp.float32,
        *,
        layout: str | Layout = "plain",
        remat: str = "none",
        channels: int = 3,
        rngs: nnx.Rngs,
    ):
        shape = variant if isinstance(variant, Shape) else lookup(VARIANTS, variant, "model.encoder")
        layout = layout if isinstance(layout, Layout) else lookup(LAYOUTS, layout, "model.layout")
        _check_divides(patch_size, image_size)
        self.rotary = shape.width // shape.heads if layout.position == "rotary" else 0  # entries of a head
        if self.rotary % 4:
            raise ConfigError("model.encoder", variant, "a width of the heads that 4 divides, for rotary positions")
        positions = (image_size // patch_size) ** 2 + (layout.token and layout.token_position)
        width = self.features = shape.width
        self.patch_size, self.image_size = patch_size, image_size
        self.dtype = dtype
        self.patch = nnx.Linear(
            channels * patch_size**2,
            width,
            use_bias=layout.patch_bias,
            dtype=dtype,
            kernel_init=_weights,
            rngs=rngs,
        )
        learned = lambda *size: nnx.Param(nnx.initializers.normal(0.02)(rngs.params(), size, jnp.float32))  # noqa: E731
        self.token = nnx.data(learned(width) if layout.token else None)
        self.position = nnx.data(learned(positions, width) if layout.position == "learned" else None)
        self.registers = nnx.data(learned(layout.registers, width) if layout.registers else None)
        first = layer_norm(width, layout.epsilon, dtype=dtype, rngs=rngs) if layout.norm_first else None
        self.norm_first = nnx.data(first)
        activation = SWIGLU if shape.gated else layout.activation
        options = (layout.epsilon, activation, shape.hidden, layout.scale, layout.bias)
        block = partial(Block, width, shape.heads, *options, dtype=dtype, rngs=rngs)
        self.blocks = nnx.List([block() for _ in range(shape.depth)])
        self.norm = layer_norm(width, layout.epsilon, dtype=jnp.float32, rngs=rngs)
        pool = None
        if layout.attention_pool:
            mlp = Mlp(width, layout.activation, shape.hidden, dtype=dtype, rngs=rngs)
            pool = AttentionPool(width, shape.heads, mlp, layout.epsilon, dtype=dtype, rngs=rngs)
        self.pool = nnx.data(pool)
        self.token_position = layout.token_position
        self.run = block_runner(remat)

    def __call__(self, images: jax.Array, keep: jax.Array | None = None) -> jax.Array:
        """keep: int [n, kept], the patches of each image that are read (draw_patches); None: all."""
        x = self._states(images, keep)
        if self.token is not None:
            return self.norm(x[:, 0])
        return self._pooled(self.norm(x))

    def with_map(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(features [n, F], the normalized tokens of the patches [n, h, w, F]), float32."""
        x = self.norm(self._states(images))
        rows, columns = (side // self.patch_size for side in images.shape[1:3])
        cells = x[:, -rows * columns :].reshape(x.shape[0], rows, columns, -1).astype(jnp.float32)
        return x[:, 0] if self.token is not None else self._pooled(x), cells

    def _states(self, images: jax.Array, keep: jax.Array | None = None) -> jax.Array:
        x = self._tokens(images)
        if keep is not None:
            first = x.shape[1] - (images.shape[1] // self.patch_size) * (images.shape[2] // self.patch_size)
            kept = jnp.take_along_axis(x[:, first:], keep[..., None], axis=1)
            x = jnp.concatenate([x[:, :first], kept], axis=1) if first else kept
        turn = self._turn(images, keep)
        for block in self.blocks:
            x = self.run(block, x, *turn)
        return x

    def _turn(self, images: jax.Array, keep: jax.Array | None = None) -> tuple:
        """What a block reads beside the tokens: () or, with rotary positions, (None, the turn of each token).

        Class token and registers are turned by nothing.
        """
        if not self.rotary:
            return ()
        rows, columns = (side // self.patch_size for side in images.shape[1:3])
        angles = rotary_angles(rows, columns, self.rotary)[None]
        angles = jnp.asarray(angles) if keep is None else jnp.asarray(angles[0])[keep]
        before = 0 if self.token is None else 1 + (0 if self.registers is None else len(self.registers[...]))
        angles = jnp.pad(angles, ((0, 0), (before, 0), (0, 0)))[:, :, None]
        return None, (jnp.sin(angles), jnp.cos(angles))

    def _pooled(self, x: jax.Array) -> jax.Array:
        return jnp.mean(x, axis=1) if self.pool is None else self.pool(x.astype(self.dtype)).astype(jnp.float32)

    def maps(self, images: jax.Array) -> dict[str, jax.Array]:
        """The tokens of the patches [n, h, w, width] after about every fourth part of the blocks, by name."""
        x, found = self._tokens(images), {}
        depth, (n, height, side, _) = len(self.blocks), images.shape
        shown, turn = {-(-depth * part // 4) for part in (1, 2, 3, 4)}, self._turn(images)
        for number, block in enumerate(self.blocks, 1):
            x = self.run(block, x, *turn)
            if number in shown:
                patches = x[:, -(height // self.patch_size) * (side // self.patch_size) :]
                grid = (height // self.patch_size, side // self.patch_size)
                found[f"block {number}"] = patches.reshape(n, *grid, -1)
        return found

    def _tokens(self, images: jax.Array) -> jax.Array:
        """What the first block reads: [n, tokens, width]."""
        n, height, side, channels = images.shape
        p = self.patch_size
        _check_divides(p, height)
        _check_divides(p, side)
        rows, columns = height // p, side // p
        patches = images.reshape(n, rows, p, columns, p, channels).swapaxes(2, 3)
        patches = patches.reshape(n, rows * columns, channels * p**2)
        x = self.patch(patches)
        if self.rotary:
            table = jnp.zeros((), self.dtype)  # the blocks turn queries and keys, and nothing is added here
        else:
            table = self.position[...] if self.position is not None else sincos_positions(rows, columns, self.features)
        if self.token is None or not self.token_position:
            x = x + table.astype(self.dtype)
        if self.token is not None:
            first = self.token[...][None] if self.registers is None else _stacked(self.token, self.registers)
            first = jnp.broadcast_to(first.astype(x.dtype), (n, *first.shape))
            x = jnp.concatenate([first, x], axis=1)
            if self.token_position:
                x = x + table.astype(self.dtype)
        if self.norm_first is not None:
            x = self.norm_first(x)
        return x


# Low-rank additions to frozen maps (LoRA, Hu et al. 2021), and patches that training leaves out (FLIP, Li et al. 2022).


MAPS = {"attention": ("qkv", "out"), "mlp": ("expand", "contract")}  # of a block
LORA = "/lora/lora_"  # in the path of the two factors of a map; the path of its kernel stays as it was


def add_lora(encoder: ViT, rank: int, rngs: nnx.Rngs) -> ViT:
    """Gives every map in the blocks a second path x A B of low rank, beside its kernel; B starts at zero.

    A is [in, rank] and B [rank, out], float32; the encoder is changed in place and returned.
    """
    for block in encoder.blocks:
        for part, names in MAPS.items():
            for name in names:
                old = getattr(getattr(block, part), name)
                sizes = {"lora_rank": rank, "lora_dtype": old.dtype, "dtype": old.dtype, "use_bias": old.use_bias}
                new = nnx.LoRALinear(old.in_features, old.out_features, **sizes, rngs=rngs)
                new.kernel, new.bias = old.kernel, old.bias
                setattr(getattr(block, part), name, new)
    return encoder


def lora_paths(variant: str) -> tuple[list[str], list[str]]:
    """(paths of the kernels of a model that factors add to, paths of the factors): a variant is a name of VARIANTS."""
    blocks = range(VARIANTS[variant].depth)
    places = [f"encoder/blocks/{n}/{part}/{name}" for n in blocks for part, names in MAPS.items() for name in names]
    return [f"{place}/kernel" for place in places], [f"{place}{LORA}{factor}" for place in places for factor in "ab"]


def merge_lora(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """{path: array} of an encoder without the factors: every kernel + A B, in float32."""
    merged = {name: value for name, value in arrays.items() if LORA not in name}
    for name, a in arrays.items():
        if name.endswith(f"{LORA}a"):
            place = name.removesuffix(f"{LORA}a")
            b = np.asarray(arrays[f"{place}{LORA}b"], np.float32)
            kernel = np.asarray(arrays[f"{place}/kernel"], np.float32)
            merged[f"{place}/kernel"] = kernel + np.asarray(a, np.float32) @ b
    return merged


def draw_patches(key: jax.Array, ids: jax.Array, copies: jax.Array, shape: tuple[int, int], share: float) -> jax.Array:
    """Which patches of every view are kept, int32 [B * views, kept], sorted; row = image * views + view.

    Args:
      key: of the step; what is drawn is a function of it, the id, the copy (copies_of) and the view.
      ids: int [B], or words [B, 2] (augment/ids.py); copies: int [B].
      shape: (views, patches of a view). share: of the patches that are left out.
    """
    views, patches = shape
    kept = max(1, round((1 - share) * patches))
    draw = lambda own: jnp.sort(jax.random.permutation(own, patches)[:kept])  # noqa: E731
    return jax.vmap(draw)(row_keys(key, ids, copies, views)).astype(jnp.int32)


def _stacked(token: nnx.Param, registers: nnx.Param) -> jax.Array:
    return jnp.concatenate([token[...][None], registers[...]])


def _check_divides(patch_size: int, image_size: int) -> None:
    if image_size % patch_size:
        divisors = [d for d in (4, 8, 14, 16, 32) if image_size % d == 0]
        fix = f"Set model.patch_size to {', '.join(map(str, divisors))}, or " if divisors else "Set "
        multiple = max(1, round(image_size / patch_size)) * patch_size
        raise ConfigError(
            "augment.size",
            image_size,
            f"a multiple of model.patch_size = {patch_size}",
            f"{fix}augment.size to {multiple}.",
        )
