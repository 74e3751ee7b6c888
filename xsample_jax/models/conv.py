"""Convolution on NHWC images: XLA's own, or with the parts that XLA does badly on CPU done another way.

What is slow there, each several times, and what "dot" does instead:
- 1x1 kernels: the matrix product that they are;
- larger kernels on small images (the late stages of a ResNet): one product with the shifted copies of the image laid
  side by side (im2col);
- the gradient of a kernel on large images, once the batch no longer fits the cache: a sum over slices of the batch;
- the gradient of a max-pool: the maximum of even and odd columns, then of rows.
On GPU and TPU the native convolution wins. Both ways agree up to rounding.
"""

import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from xsample_jax.errors import lookup

IMPLEMENTATIONS = ("auto", "conv", "dot")


def resolve_implementation(implementation: str) -> str:
    """Returns "conv" or "dot": `auto` is dot where JAX's default device is a CPU, else conv.

    A program that is compiled for a device other than the default one (ahead of time for a TPU slice, on a CPU machine)
    must ask for "conv" by name. Raises ConfigError for an unknown name.
    """
    lookup(dict.fromkeys(IMPLEMENTATIONS), implementation, "model.conv_impl")
    if implementation == "auto":
        return "dot" if jax.default_backend() == "cpu" else "conv"
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
    padding = [(0, 0, 0)] * x.ndim
    padding[axis] = (0, x.shape[axis] % 2, 0)
    x = lax.pad(x, jnp.array(-jnp.inf, x.dtype), padding)
    pairs = x.reshape(*x.shape[:axis], x.shape[axis] // 2, 2, *x.shape[axis + 1 :])
    even, odd = (lax.index_in_dim(pairs, i, axis + 1, keepdims=False) for i in range(2))
    padding[axis] = (1, -1, 0)
    before = lax.pad(odd, jnp.array(-jnp.inf, x.dtype), padding)
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
        initialise = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")
        self.kernel = nnx.Param(initialise(rngs.params(), (size, size, channels, features), jnp.float32))
        self.stride = stride
        self.implementation = resolve_implementation(implementation)
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.kernel[...].astype(self.dtype)
        return conv2d(x.astype(self.dtype), kernel, self.stride, self.implementation)
