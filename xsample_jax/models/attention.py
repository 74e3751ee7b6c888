"""Dot-product attention (Vaswani et al., arXiv 1706.03762): as products, and on TPUs as one kernel for every image.

The backward pass of a softmax needs its result. Derived automatically it is kept, or made again, in float32: the
largest array of a transformer, several times over. As products, what is kept here is what multiplied the values, and
the sums of weights times their gradient, which the backward pass takes out, are those of results times theirs (as in
Dao et al., arXiv 2205.14135). The kernel keeps nothing but what it reads, and makes the weights again.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from xsample_jax.sharding import AXES

_LOWEST = 0.7 * float(jnp.finfo(jnp.float32).min)  # finite: a query that may see nothing sees all alike


@jax.custom_vjp
def attention(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """softmax(query key^T / sqrt(d)) value; logits and softmax in float32. It has no forward-mode derivative.

    Args:
      query: [n, t, heads, d].
      key, value: [n, s, heads, d] of the type of `query`.
      mask: which keys a query may see, bool, to be broadcast to [n, heads, t, s]; None: all.

    Returns:
      [n, t, heads, d] of the type of `query`.
    """
    return _forward(query, key, value, mask)[0]


def _forward(query, key, value, mask):
    logits = jnp.einsum("nthd,nshd->nhts", query, key, preferred_element_type=jnp.float32) / query.shape[-1] ** 0.5
    if mask is not None:
        logits = jnp.where(mask, logits, _LOWEST)
    weights = jax.nn.softmax(logits, axis=-1).astype(query.dtype)
    result = jnp.einsum("nhts,nshd->nthd", weights, value)
    return result, (query, key, value, mask, weights, result)


def _backward(saved, g):
    query, key, value, mask, weights, result = saved
    along = jnp.einsum("nthd,nthd->nht", g, result, preferred_element_type=jnp.float32)
    of_weights = jnp.einsum("nthd,nshd->nhts", g, value, preferred_element_type=jnp.float32)
    of_logits = weights.astype(jnp.float32) * (of_weights - along[..., None]) / query.shape[-1] ** 0.5
    if mask is not None:
        of_logits = jnp.where(mask, of_logits, 0.0)
    of_logits = of_logits.astype(query.dtype)
    return (
        jnp.einsum("nhts,nshd->nthd", of_logits, key),
        jnp.einsum("nhts,nthd->nshd", of_logits, query),
        jnp.einsum("nhts,nthd->nshd", weights, g),
        None,
    )


attention.defvjp(_forward, _backward)


# The kernel (models/attention_kernel.py) works on what one product with the parameters gives, query, key and value of
# every head side by side, and writes its results side by side. It is taken where the mesh that is set
# (`jax.sharding.use_abstract_mesh`) is of TPUs: in a train step, but for model.attention = xla.

FAST_MEMORY = 24 * 2**20  # bytes of it that an image may need


def with_kernels(step: Callable, mesh: Mesh | None) -> Callable:
    """The step on a mesh, with attention by kernels where there are any."""
    if mesh is None:
        return step

    @functools.wraps(step)
    def run(*args):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return step(*args)

    return run


def has_kernel(packed: jax.Array, heads: int) -> bool:
    """Whether `attention_by_kernel` can do it: on a mesh of TPUs, in bfloat16, whole images and heads on each."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.axis_names != AXES or not _of_tpus(mesh) or packed.dtype != jnp.bfloat16:
        return False
    (n, t, width), (data, fsdp, tensor) = packed.shape, mesh.axis_sizes
    # Of an image what goes in and out of the backward pass, twice as the next image is on its way; of a head, weights.
    needed = 2 * 2 * t * (2 * width + width // 3) // tensor + 4 * 4 * t * t
    return n % (data * fsdp) == 0 and heads % tensor == 0 and needed <= FAST_MEMORY


def _of_tpus(mesh) -> bool:
    device = mesh.abstract_device
    return device is not None and device.device_kind.startswith("TPU")


def attention_by_kernel(packed: jax.Array, heads: int, *, interpret: bool = False) -> jax.Array:
    """Self-attention without a mask; as `attention` but for rounding.

    Args:
      packed: [n, t, heads * 3 * d], query, key and value of a head side by side.
      interpret: without a TPU, as a test of it.

    Returns:
      [n, t, heads * d] of the type of `packed`.
    """
    from xsample_jax.models.attention_kernel import attend  # Pallas takes a while to import

    mesh = jax.sharding.get_abstract_mesh()
    spec = PartitionSpec(AXES[:2], None, AXES[2])
    attend = functools.partial(attend, heads=heads // mesh.shape["tensor"], interpret=interpret)
    return jax.shard_map(attend, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)(packed)
