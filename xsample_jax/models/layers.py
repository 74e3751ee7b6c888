"""Layers: convolution on NHWC images, batch norm, transformer blocks, rematerialization.

Convolution is XLA's own ("conv"), or does in another way what XLA does slowly on a CPU ("dot").

What is several times slower there, and what "dot" does instead:
- 1x1 kernels: the matrix product that they are;
- larger kernels on small images (the late stages of a ResNet): one product with the shifted copies of the image laid
  side by side (im2col);
- the gradient of a kernel on large images, once the batch no longer fits the cache: a sum over slices of the batch;
- the gradient of a max-pool: the maximum of even and odd columns, then of rows.
On GPU and TPU the native convolution wins. Both ways agree up to rounding.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from xsample_jax.errors import ConfigError, lookup
from xsample_jax.models.attention import attention, attention_by_kernel, has_kernel

IMPLEMENTATIONS = ("auto", "conv", "dot")


def resolve_implementation(implementation: str, platform: str | None = None) -> str:
    """Returns "conv" or "dot": `auto` is dot on a CPU, else conv.

    platform: that the program is compiled for; None: that of JAX's default device, which is another one where a CPU
    machine compiles for a TPU slice. Raises ConfigError for an unknown name.
    """
    lookup(dict.fromkeys(IMPLEMENTATIONS), implementation, "model.conv_impl")
    if implementation == "auto":
        return "dot" if (platform or jax.default_backend()) == "cpu" else "conv"
    return implementation


def _shifted(x: jax.Array, size: int, stride: int) -> list[jax.Array]:
    """The size * size shifted, strided copies [n, ho, wo, c] of `x` [n, h, w, c] zero-padded by size // 2."""
    pad = size // 2
    rows = (x.shape[1] + 2 * pad - size) // stride + 1
    columns = (x.shape[2] + 2 * pad - size) // stride + 1
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    return [
        x[:, i : i + (rows - 1) * stride + 1 : stride, j : j + (columns - 1) * stride + 1 : stride]
        for i in range(size)
        for j in range(size)
    ]


def _product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x [..., c_in] @ kernel [c_in, c_out] -> [..., c_out], as one product of all pixels.

    With batch, rows and columns as axes of their own, XLA on CPU makes the gradient of the result twice, the second
    time transposed for the gradient of the kernel, column by column: a sixth of a ResNet-50 step.
    """
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], -1)


def _native(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    padding = [(kernel.shape[0] // 2,) * 2] * 2
    return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _slices(images: int, pixels: int) -> int:
    """Into how many slices a batch is cut: a divisor of `images`, at least one slice per 2^14 pixels but at most 64."""
    wanted = min(64, images, math.ceil(images * pixels / 2**14))
    return next((count for count in range(wanted, 65) if images % count == 0), 1)


def _kernel_gradient(x: jax.Array, g: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Gradient of the kernel, summed in float32 over slices of the batch; of the shape and type of `kernel`.

    Slice i takes images i, i + slices, ...: a batch that is split over devices stays split evenly in every slice. The
    slices are unrolled, because XLA's convolutions on CPU are many times slower inside a loop.
    """
    slices = _slices(x.shape[0], x.shape[1] * x.shape[2])
    x = x.reshape(-1, slices, *x.shape[1:])
    g = g.reshape(-1, slices, *g.shape[1:])
    total = 0.0
    for i in range(slices):
        part = jax.linear_transpose(lambda kernel, i=i: _native(x[:, i], kernel, stride), kernel)(g[:, i])[0]
        total = total + part.astype(jnp.float32)
    return total.astype(kernel.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _sliced(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    return _native(x, kernel, stride)


def _sliced_forward(x: jax.Array, kernel: jax.Array, stride: int):
    return _native(x, kernel, stride), (x, kernel)


def _sliced_backward(stride: int, saved: tuple[jax.Array, jax.Array], g: jax.Array):
    x, kernel = saved
    (image_gradient,) = jax.linear_transpose(lambda x: _native(x, kernel, stride), x)(g)
    return image_gradient, _kernel_gradient(x, g, kernel, stride)


_sliced.defvjp(_sliced_forward, _sliced_backward)


def conv2d(x: jax.Array, kernel: jax.Array, stride: int = 1, implementation: str = "conv") -> jax.Array:
    """Square convolution without bias, padded by size // 2 on every side (as torch's `padding=k // 2`, for any stride).

    XLA's "SAME" pads an even image under stride 2 on the far side only; weights trained in torch need this padding.

    Args:
      x: [n, h, w, c_in].
      kernel: [size, size, c_in, c_out] of the type of `x`, size odd.
      stride: step in both directions.
      implementation: "conv" (XLA throughout) or "dot" (as above; large images have no forward-mode derivative).

    Returns:
      [n, ceil(h / stride), ceil(w / stride), c_out] of the type of `x`.
    """
    size = kernel.shape[0]
    if implementation == "conv":
        return _native(x, kernel, stride)
    if size == 1:
        return _product(x[:, ::stride, ::stride], kernel[0, 0])
    if math.ceil(x.shape[1] / stride) * math.ceil(x.shape[2] / stride) < 64:
        patches = jnp.concatenate(_shifted(x, size, stride), axis=-1)
        return _product(patches, kernel.reshape(-1, kernel.shape[-1]))
    return _sliced(x, kernel, stride)


def max_pool(x: jax.Array, implementation: str = "conv") -> jax.Array:
    """Maximum over 3 x 3 windows at stride 2, padded by -inf: [n, h, w, c] -> [n, ceil(h / 2), ceil(w / 2), c].

    "dot" takes it of columns, then of rows: on CPU the gradient of XLA's window reduction is ten times slower. Where
    values tie, "conv" gives the gradient to the first and "dot" shares it.
    """
    if implementation == "conv":
        return nnx.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
    return _pool_axis(_pool_axis(x, 2), 1)


def _pool_axis(x: jax.Array, axis: int) -> jax.Array:
    """Maxima of places 2i - 1, 2i and 2i + 1 of an axis; even and odd places are two halves, so no copy is strided."""
    # Concatenated, not lax.pad, which jax2onnx cannot convert for any number of images.
    edge = jnp.full_like(lax.slice_in_dim(x, 0, 1, axis=axis), -jnp.inf)
    x = jnp.concatenate([x, edge], axis) if x.shape[axis] % 2 else x
    pairs = x.reshape(*x.shape[:axis], x.shape[axis] // 2, 2, *x.shape[axis + 1 :])
    even, odd = (lax.index_in_dim(pairs, i, axis + 1, keepdims=False) for i in range(2))
    before = jnp.concatenate([edge, lax.slice_in_dim(odd, 0, odd.shape[axis] - 1, axis=axis)], axis)
    return jnp.maximum(jnp.maximum(even, odd), before)


class Conv(nnx.Module):
    """`conv2d` with its kernel [size, size, c_in, c_out] (float32, He normal over the fan-out as in torchvision).

    Args:
      channels, features: channels in and out.
      size: side of the kernel, odd.
      stride: step in both directions.
      implementation: "auto", "conv" or "dot" (see `resolve_implementation`).
      dtype: type of the computation and of the result.
      rngs: source of the initial kernel.
    """

    def __init__(
        self, channels: int, features: int, size: int, stride: int, *, implementation: str, dtype, rngs: nnx.Rngs
    ):
        initialize = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
        self.kernel = nnx.Param(initialize(rngs.params(), (size, size, channels, features), jnp.float32))
        self.stride = stride
        self.implementation = resolve_implementation(implementation)
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.kernel[...].astype(self.dtype)
        return conv2d(x.astype(self.dtype), kernel, self.stride, self.implementation)


# Batch norm in float32, whatever the type of the activations.


class BatchNorm(nnx.BatchNorm):
    """Batch norm with torchvision's constants (eps 1e-5, running averages of 0.9 old + 0.1 new): x [..., features].

    Statistics, scale, bias and all arithmetic are float32; the result is rounded once, to the type of `x`. Flax's own,
    told to compute in bfloat16, rounds scale, bias and running averages to it first, and sums the gradient of the bias
    apart from the other sums over the same activations, in one more pass over the memory of a TPU.

    Args:
      features: channels.
      zero: the scale starts at 0, not 1.
      rngs: source of the initial parameters.
    """

    def __init__(self, features: int, *, zero: bool = False, rngs: nnx.Rngs):
        scale = nnx.initializers.zeros_init() if zero else nnx.initializers.ones_init()
        super().__init__(features, momentum=0.9, epsilon=1e-5, dtype=jnp.float32, scale_init=scale, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return super().__call__(x).astype(x.dtype)


# Transformer layers (Vaswani et al., arXiv 1706.03762), norm first as in arXiv 2002.04745, for images and text.


_weights = nnx.initializers.xavier_uniform()

# gelu_tanh is the default of flax, and so what its published weights were trained with; quick_gelu is OpenAI's CLIP.
ACTIVATIONS = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
}
SWIGLU = "swiglu"  # an activation of two arrays (Mlp)


def layer_norm(width: int, epsilon: float = 1e-6, *, dtype, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Layer norm; statistics and arithmetic in float32 (flax promotes), result of type `dtype`."""
    return nnx.LayerNorm(width, epsilon=epsilon, dtype=dtype, rngs=rngs)


def rotated(x: jax.Array, turn: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotary positions (Su et al., arXiv 2104.09864): every pair of entries i and i + d / 2 of a head is turned.

    x: [n, t, heads, d]. turn: sines and cosines of the angles, [n or 1, t, 1, d / 2] float32, as is the arithmetic.
    """
    (sines, cosines), (first, second) = turn, jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = (first * cosines - second * sines, second * cosines + first * sines)
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)


BIASES = ("all", "query_value", "none")  # of SelfAttention


class SelfAttention(nnx.Module):
    """Multi-head self-attention: [n, t, width] -> [n, t, width].

    bias: which of queries, keys and values have one. keep: bool [n, t], which tokens are seen by all; or [n, t, t],
    which tokens each token sees; None: all. turn: of queries and keys, for rotary positions (`rotated`); None: none.
    """

    def __init__(self, width: int, heads: int, bias: str = "all", *, dtype, rngs: nnx.Rngs):
        if width % heads:
            raise ConfigError("heads", heads, f"a divisor of the width {width}")
        self.heads = heads
        # Three maps in one matrix, query, key and value of a head side by side, so that a tensor axis of devices can
        # share out the heads. Each starts as xavier starts a [width, width] map: variance 1 / width (MoCo v3).
        # fan_avg of the whole is 2 * width, hence the 2.
        query_key_value = nnx.initializers.variance_scaling(2.0, "fan_avg", "uniform")
        options = {"dtype": dtype, "kernel_init": query_key_value, "rngs": rngs}
        self.qkv = nnx.Linear(width, 3 * width, use_bias=bias == "all", **options)
        two = nnx.Param(jnp.zeros((2, width), jnp.float32)) if bias == "query_value" else None
        self.query_value_bias = nnx.data(two)
        self.out = nnx.Linear(width, width, dtype=dtype, kernel_init=_weights, rngs=rngs)

    def __call__(self, x: jax.Array, keep: jax.Array | None = None, turn: tuple | None = None) -> jax.Array:
        n, t, width = x.shape
        packed = self.qkv(x)
        if keep is None and turn is None and self.query_value_bias is None and has_kernel(packed, self.heads):
            return self.out(attention_by_kernel(packed, self.heads))
        query, key, value = jnp.moveaxis(packed.reshape(n, t, self.heads, 3, width // self.heads), 3, 0)
        if self.query_value_bias is not None:
            of_query, of_value = self.query_value_bias[...].astype(x.dtype).reshape(2, self.heads, -1)
            query, value = query + of_query, value + of_value
        if turn is not None:
            query, key = rotated(query, turn), rotated(key, turn)
        mask = None if keep is None else keep[:, None] if keep.ndim == 3 else keep[:, None, None, :]
        mixed = attention(query, key, value, mask)
        return self.out(mixed.reshape(n, t, width))


class Mlp(nnx.Module):
    """Linear to `hidden` (default: four times the width), GELU (or another of ACTIVATIONS), linear back.

    activation "swiglu" (Shazeer, arXiv 2002.05202): linear to gates and values, `hidden` of each; then values times
    x * sigmoid(x) of the gates.
    """

    def __init__(self, width: int, activation: str = "gelu", hidden: int | None = None, *, dtype, rngs: nnx.Rngs):
        self.activation, hidden = activation, hidden or 4 * width
        wide = 2 * hidden if activation == SWIGLU else hidden
        self.expand = nnx.Linear(width, wide, dtype=dtype, kernel_init=_weights, rngs=rngs)
        self.contract = nnx.Linear(hidden, width, dtype=dtype, kernel_init=_weights, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.expand(x)
        if self.activation == SWIGLU:
            gates, values = jnp.split(x, 2, axis=-1)
            return self.contract(jax.nn.silu(gates) * values)
        return self.contract(ACTIVATIONS[self.activation](x))


class Block(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)). Shapes as in `SelfAttention`.

    hidden: width inside the MLP (`Mlp`). bias: of the attention (`SelfAttention`). scale: both branches are multiplied
    by learned factors per channel that start at this value (LayerScale, Touvron et al., arXiv 2103.17239); None: they
    are not.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        epsilon: float = 1e-6,
        activation: str = "gelu",
        hidden: int | None = None,
        scale: float | None = None,
        bias: str = "all",
        *,
        dtype,
        rngs: nnx.Rngs,
    ):
        self.norm1 = layer_norm(width, epsilon, dtype=dtype, rngs=rngs)
        self.attention = SelfAttention(width, heads, bias, dtype=dtype, rngs=rngs)
        self.norm2 = layer_norm(width, epsilon, dtype=dtype, rngs=rngs)
        self.mlp = Mlp(width, activation, hidden, dtype=dtype, rngs=rngs)
        factors = lambda: None if scale is None else nnx.Param(jnp.full(width, scale, jnp.float32))  # noqa: E731
        self.scale1, self.scale2 = nnx.data(factors()), nnx.data(factors())

    def __call__(self, x: jax.Array, keep: jax.Array | None = None, turn: tuple | None = None) -> jax.Array:
        x = x + _scaled(self.attention(self.norm1(x), keep, turn), self.scale1)
        return x + _scaled(self.mlp(self.norm2(x)), self.scale2)


def _scaled(x: jax.Array, factors: nnx.Param | None) -> jax.Array:
    return x if factors is None else x * factors[...].astype(x.dtype)


# What a block keeps for the backward pass (rematerialization, Chen et al., arXiv 1604.06174).
#
# The backward pass needs the values inside every block. `none` keeps them all. `block` keeps only what goes into the
# block and runs it again: the least memory, about a third more work. `dots` keeps the results of convolutions and of
# products with parameters and runs the rest again (norms, activations, attention weights): less saved, hardly more
# work. Losses and gradients are the same up to rounding, and running statistics move once, in the first pass.


_PRODUCTS = jax.checkpoint_policies.dots_with_no_batch_dims_saveable


def _keep_products(primitive, *avals, **params) -> bool:
    return primitive is jax.lax.conv_general_dilated_p or _PRODUCTS(primitive, *avals, **params)


POLICIES = {"none": None, "block": jax.checkpoint_policies.nothing_saveable, "dots": _keep_products}


@functools.cache  # one function per policy: two models of one config then have one structure
def block_runner(remat: str) -> Callable:
    """Returns run(block, x, ...) = block(x, ...), which keeps what the policy `remat` ("none", "block", "dots") says.

    Raises ConfigError for an unknown policy.
    """
    policy = lookup(POLICIES, remat, "model.remat")

    def run(block: nnx.Module, *args):
        return block(*args)

    return run if policy is None else nnx.remat(run, policy=policy)


def compiler_options(remat: str, platform: str) -> dict[str, str] | None:
    """What the compiler must be told for a step with this policy to need less memory; None: nothing.

    Barriers keep the second run of a block behind the backward pass of the blocks after it. XLA for CPU takes them out
    before it orders the program (TPU and GPU do not), and would then run all blocks again at once.
    """
    return {"xla_disable_hlo_passes": "cse_barrier_expander"} if platform == "cpu" and remat != "none" else None


def pool_windows(cells: jax.Array) -> jax.Array:
    """Means of a map [n, h, w, F] over windows of a side of the root of h, [n, windows, F] (TCL, arXiv 2202.10401).

    A map whose sides the window does not divide is cut at its far ends.
    """
    n, rows, columns, width = cells.shape
    side = max(1, int(min(rows, columns) ** 0.5))
    rows, columns = rows // side, columns // side
    parts = cells[:, : rows * side, : columns * side].reshape(n, rows, side, columns, side, width)
    return parts.mean(axis=(2, 4)).reshape(n, rows * columns, width)
