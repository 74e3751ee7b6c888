"""Dot-product attention (Vaswani et al., arXiv 1706.03762) that keeps its weights in the type of the activations.

The backward pass of a softmax needs its result. Derived automatically it is kept, or made again, in float32: the
largest array of a transformer, several times over. Here what is kept is what multiplied the values, and the sums of
weights times their gradient, which the backward pass takes out, are those of results times theirs (as in Dao et al.,
arXiv 2205.14135).
"""

import jax
import jax.numpy as jnp

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
