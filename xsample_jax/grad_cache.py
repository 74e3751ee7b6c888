"""Exact large batches with a bounded encoder memory (GradCache, Gao et al. 2021, arXiv 2101.06983).

A contrastive loss couples all rows of a batch, so its gradient is not the mean of the gradients of smaller batches.
Instead the images go through the encoder in chunks, the loss sees all embeddings at once, and the backward pass encodes
every chunk a second time: the memory of one chunk's activations, one more forward pass, the very same gradient.

Batch norms see one chunk at a time, which is another function than with the whole batch: smaller statistics, as on
several devices without synchronisation. Running statistics are the means over the chunks. Encoders with layer norms
(ViT, with `model.head.batch_norm = false`) give the gradient of the whole batch up to rounding.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from xsample_jax.state import ModelDef, to_flat


def embed_in_chunks(
    model: ModelDef, params: dict, statistics: dict, images: jax.Array, views: int, chunks: int
) -> tuple[jax.Array, dict]:
    """Embeddings of all views, `chunks` parts of the batch one after the other.

    Args:
      images: [B * views, S, S, 3], row = image * views + view; B a multiple of `chunks`.

    Returns:
      (z [B * views, D], statistics after the step: means over the chunks). Every chunk takes every `chunks`-th image,
      so that on a mesh each device encodes its own rows of each chunk.
    """

    @jax.checkpoint
    def encode(part):
        network = model.merge(params, statistics, training=True)
        _, z = network.embed(part.reshape(-1, *part.shape[2:]))
        return z.reshape(-1, views, z.shape[-1]), to_flat(nnx.split(network, nnx.Param, ...)[2])

    parts = images.reshape(-1, chunks, views, *images.shape[1:])
    z, new = jax.lax.map(encode, jnp.moveaxis(parts, 1, 0))
    return jnp.moveaxis(z, 0, 1).reshape(-1, z.shape[-1]), {name: value.mean(axis=0) for name, value in new.items()}
