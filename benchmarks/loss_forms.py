"""The X-CLR loss of two-view batches written in the ways that are compared: from tiles, and from full matrices.

All are functions of z [N, D] (unit rows, row = image * 2 + view) and captions [N / 2, E]; tau = tau_s, 0.1 unless said.
"""

import jax
import jax.numpy as jnp
import numpy as np

from xsample_jax.graphs.sources import SOURCES
from xsample_jax.objectives.streaming.loss import Streaming, Target, streaming_rows
from xsample_jax.objectives.streaming.tiles import Rows

VIEWS, TAU = 2, 0.1
HIGHEST = jax.lax.Precision.HIGHEST


def streaming(z, captions, tau=TAU, cosine_of=None, **how):
    side = {"id": jnp.arange(len(captions), dtype=jnp.int32), "caption_embedding": captions}
    target = Target(SOURCES["caption"], "softmax", tau, cosine_of=cosine_of)
    return streaming_rows(Rows(z, side, VIEWS), None, target, tau, Streaming(**how))["loss"].mean()


def naive(z, captions, tau=TAU):
    """As one writes it down: captions repeated to rows, two N x N matrices, autodiff."""
    # Scaled before they are repeated: the other order takes XLA on CPU twice as long, which would flatter us.
    u = jnp.repeat(captions / jnp.linalg.norm(captions, axis=1, keepdims=True), VIEWS, axis=0)
    other = ~jnp.eye(len(z), dtype=bool)
    target = jax.nn.softmax(jnp.where(other, jnp.matmul(u, u.T, precision=HIGHEST) / tau, -1e9), axis=1)
    log_p = jax.nn.log_softmax(jnp.where(other, jnp.matmul(z, z.T, precision=HIGHEST) / tau, -1e9), axis=1)
    return -jnp.where(other, target * log_p, 0).sum(axis=1).mean()


def one_target_per_image(z, captions):
    """A smarter dense form: the target weights of pairs of images once, and only then spread to rows."""
    u = captions / jnp.linalg.norm(captions, axis=1, keepdims=True)
    weight = jnp.exp((jnp.matmul(u, u.T, precision=HIGHEST) - 1) / TAU)
    target = weight / (VIEWS * weight.sum(axis=1) - jnp.diagonal(weight))[:, None]
    target = jnp.repeat(jnp.repeat(target, VIEWS, axis=0), VIEWS, axis=1)
    other = ~jnp.eye(len(z), dtype=bool)
    logits = jnp.matmul(z, z.T, precision=HIGHEST) / TAU
    log_sum = jax.nn.logsumexp(jnp.where(other, logits, -1e9), axis=1)
    return jnp.mean(log_sum - jnp.sum(jnp.where(other, target * logits, 0), axis=1))


def torch_eager(z, captions):
    """`naive` in torch. z, captions: torch tensors, z with requires_grad."""
    import torch

    u = torch.nn.functional.normalize(captions.repeat_interleave(VIEWS, dim=0), dim=1)
    itself = torch.eye(len(z), dtype=torch.bool)
    target = torch.softmax((u @ u.T / TAU).masked_fill(itself, -torch.inf), dim=1)
    log_p = torch.log_softmax((z @ z.T / TAU).masked_fill(itself, -torch.inf), dim=1)
    return -(target * log_p.masked_fill(itself, 0)).sum() / len(z)


def inputs(rows: int, width: int = 128, caption_width: int = 768, clusters: int = 64):
    """float32 embeddings and captions of images in clusters, so that neither graph is flat."""
    rng = np.random.default_rng(0)
    cluster = rng.integers(clusters, size=rows // VIEWS)

    def clustered(width):
        return rng.normal(size=(clusters, width))[cluster] + rng.normal(size=(rows // VIEWS, width))

    z = np.repeat(clustered(width), VIEWS, axis=0) + rng.normal(size=(rows, width))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    return z.astype(np.float32), clustered(caption_width).astype(np.float32)


def shapes(rows: int, width: int = 128, caption_width: int = 768, sharding=None):
    """The same inputs as shapes, to compile for."""
    z = jax.ShapeDtypeStruct((rows, width), jnp.float32, sharding=sharding)
    return z, jax.ShapeDtypeStruct((rows // VIEWS, caption_width), jnp.float32, sharding=sharding)
