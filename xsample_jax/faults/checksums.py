"""A checksum of every array of a state: what orbax reads back is compared with what was there when it was saved.

Needed since orbax' format has no checksum over the values: a flipped bit in a data file comes back as another number.
The sum is computed on the devices, over the global array, so it is the same for any sharding, and costs one pass.
"""

import hashlib
import json
import math
from functools import partial

import jax
import jax.numpy as jnp

# It runs once in a while: on a CPU, optimising it would take longer than running it.
_CPU_OPTIONS = {"xla_backend_optimization_level": 0}


def checksums(tree) -> dict[str, int]:
    """Returns {path: checksum} of the arrays of a tree, on all processes alike.

    It is sum_i (2 i + 1) bits_i mod 2^32 over the elements i in row-major order. The weights are odd, so a change of
    any one element is always seen; other changes go unseen with a probability of about 2^-32.
    """
    leaves, _ = jax.tree.flatten_with_path(tree)
    values = jax.device_get(_program(jax.default_backend())([leaf for _, leaf in leaves]))
    return {jax.tree_util.keystr(path): int(value) for (path, _), value in zip(leaves, values, strict=True)}


def text_checksum(content) -> str:
    """SHA-256 (hex) of JSON content, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _program(backend: str):
    return _on_cpu if backend == "cpu" else _elsewhere


def _sums(leaves: list[jax.Array]) -> jax.Array:
    return jnp.stack([_sum(leaf) for leaf in leaves])


_elsewhere = jax.jit(_sums)
_on_cpu = partial(jax.jit, compiler_options=_CPU_OPTIONS)(_sums)


def _sum(array: jax.Array) -> jax.Array:
    if array.dtype == jnp.bool_:
        array = array.astype(jnp.uint8)
    width = array.dtype.itemsize
    bits = jax.lax.bitcast_convert_type(array, jnp.dtype(f"uint{8 * min(width, 4)}")).astype(jnp.uint32)
    place = jnp.zeros((), jnp.uint32)
    for axis in range(bits.ndim):
        stride = math.prod(bits.shape[axis + 1 :]) % 2**32
        place = place + jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis) * jnp.uint32(stride)
    return jnp.sum(bits * (2 * place + 1), dtype=jnp.uint32)
