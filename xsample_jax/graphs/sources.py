"""What should be similar: graph sources.

A source is a function of side information, never a stored matrix: `source(u, v) -> [A, K]` float32, where `u` and
`v` are dicts of arrays with one row per anchor and per key. Higher means more similar; 1 is "the same".
Side information:

    id                 int   [A]      image id; the views of an image share it
    label              int   [A]      class index, -1 = unknown (equal to nothing, not even to another unknown)
    caption_embedding  float [A, E]   frozen text embedding of the caption, any norm > 0
    class_embedding    float [A, E]   frozen embedding of the text of the class, gathered by label
"""

import jax
import jax.numpy as jnp


def cosine(u: jax.Array, v: jax.Array) -> jax.Array:
    """Cosine similarities of rows, [A, E] x [K, E] -> [A, K], in float32 at the highest matmul precision.

    The precision matters: the target softmax multiplies an error in the cosine by 1/tau_s.
    """
    u, v = unit_rows(u), unit_rows(v)
    return jnp.matmul(u, v.T, precision=jax.lax.Precision.HIGHEST)


def unit_rows(x: jax.Array) -> jax.Array:
    """Rows scaled to length one, float32 (float64 stays); a zero row stays zero, with a finite gradient."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(square, 1e-24))


def identity(u: dict, v: dict) -> jax.Array:
    """1 where both rows are views of one image: the graph of SimCLR and CLIP."""
    return (u["id"][:, None] == v["id"][None, :]).astype(jnp.float32)


def label(u: dict, v: dict) -> jax.Array:
    """1 where both rows are of one image or of one known class: the graph of SupCon."""
    known = u["label"][:, None] >= 0
    same = (u["label"][:, None] == v["label"][None, :]) & known
    return jnp.maximum(same.astype(jnp.float32), identity(u, v))


def caption(u: dict, v: dict) -> jax.Array:
    """Cosine of the caption embeddings: the graph of X-CLR on captioned images (arXiv 2407.18134)."""
    return cosine(u["caption_embedding"], v["caption_embedding"])


def class_text(u: dict, v: dict) -> jax.Array:
    """Cosine of the embeddings of the class texts: the graph of X-CLR on ImageNet (arXiv 2407.18134, appendix A.7)."""
    return cosine(u["class_embedding"], v["class_embedding"])


SOURCES = {"identity": identity, "label": label, "caption": caption, "class_text": class_text}

# Side information that a source reads, besides the id that every batch has.
REQUIRES = {"identity": (), "label": ("label",), "caption": ("caption_embedding",), "class_text": ("class_embedding",)}
