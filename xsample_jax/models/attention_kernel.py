"""Self-attention of an image without leaving the fast memory of a TPU: Pallas kernels, forward and backward.

An image of 196 tokens has weights of 150 kB a head, which fit whole: nothing is tiled, and one step of the grid does
all heads of an image. No weights are written: the backward pass makes them again from queries and keys. Products take
bfloat16 and add up in float32, as does the softmax.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from xsample_jax.topology import VMEM


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def attend(packed: jax.Array, heads: int, interpret: bool) -> jax.Array:
    """`attention_by_kernel` of attention.py, for the images and heads of one device."""
    return _per_image(_forward_kernel, "attention_forward", heads, interpret, 1, 2, packed)


def _forward(packed, heads, interpret):
    return attend(packed, heads, interpret), packed


def _backward(heads, interpret, packed, g):
    return (_per_image(_backward_kernel, "attention_backward", heads, interpret, 3, 5, packed, g),)


attend.defvjp(_forward, _backward)


def _per_image(kernel, name, heads, interpret, parts, products, packed, *more):
    """Runs a kernel once for every image; its result has `parts` (1, 3) numbers for each of a head's."""
    n, t, width = packed.shape
    operands, out = (packed, *more), parts * width // 3
    work = pl.CostEstimate(
        flops=2 * products * n * t * t * width // 3,
        transcendentals=n * heads * t * t,
        bytes_accessed=sum(each.size * each.dtype.itemsize for each in operands) + n * t * out * packed.dtype.itemsize,
    )
    image = lambda columns: pl.BlockSpec((1, t, columns), lambda i: (i, 0, 0))  # noqa: E731
    return pl.pallas_call(
        functools.partial(kernel, heads=heads),
        grid=(n,),
        in_specs=[image(each.shape[2]) for each in operands],
        out_specs=image(out),
        out_shape=jax.ShapeDtypeStruct((n, t, out), packed.dtype),
        name=name,
        cost_estimate=work,
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",), vmem_limit_bytes=VMEM),
        interpret=interpret,
    )(*operands)


def _forward_kernel(packed, result, *, heads):
    for head, (query, key, value) in enumerate(_heads(packed, heads)):
        weights = _weights(query, key).astype(value.dtype)
        width = value.shape[1]
        result[0, :, head * width : (head + 1) * width] = _dot(weights, value, 1, 0).astype(result.dtype)


def _backward_kernel(packed, g, of_packed, *, heads):
    for head, (query, key, value) in enumerate(_heads(packed, heads)):
        width = value.shape[1]
        of_result = g[0, :, head * width : (head + 1) * width]
        weights, of_weights = _weights(query, key), _dot(of_result, value, 1, 1)
        along = jnp.sum(weights * of_weights, axis=1, keepdims=True)
        of_logits = (weights * (of_weights - along) / width**0.5).astype(key.dtype)
        of_three = (
            _dot(of_logits, key, 1, 0),
            _dot(of_logits, query, 0, 0),
            _dot(weights.astype(value.dtype), of_result, 0, 0),
        )
        for part, of_part in enumerate(of_three):
            at = (3 * head + part) * width
            of_packed[0, :, at : at + width] = of_part.astype(of_packed.dtype)


def _heads(packed, heads):
    """(query, key, value), each [t, d], of every head of the image in a block."""
    width = packed.shape[2] // (3 * heads)
    columns = [packed[0, :, at : at + width] for at in range(0, packed.shape[2], width)]
    return zip(columns[0::3], columns[1::3], columns[2::3], strict=True)


def _weights(query, key):
    logits = _dot(query, key, 1, 1) / query.shape[1] ** 0.5
    raised = jnp.exp(logits - jnp.max(logits, axis=1, keepdims=True))
    return raised / jnp.sum(raised, axis=1, keepdims=True)


def _dot(a, b, axis_of_a, axis_of_b):
    return jax.lax.dot_general(a, b, (((axis_of_a,), (axis_of_b,)), ((), ())), preferred_element_type=jnp.float32)
