"""Graphs of classes: the target side from a C x C table, where the general form compares every pair of images.

Cross-entropies of one student to two graphs differ by something linear in the logits,

    loss_i(T) = loss_i(U) + sum_k (U_ik - T_ik) z_i . z_k / tau,

and for U = 1 / (N - 1) and T_ik = T[class_i, class_k] both sums are products with class sums of embeddings:
O(N D + C^2 D) in place of O(N^2 E). The loss to U comes from tiles (streaming.py), whose weights are then all one.
"""

import dataclasses

import jax
import jax.numpy as jnp

from xsample_jax.objectives.streaming.loss import Streaming, Target, streaming_rows
from xsample_jax.objectives.streaming.tiles import Rows


def uniform(u: dict, v: dict) -> jax.Array:
    """1 for every pair of images."""
    return jnp.ones((u["label"].shape[0], v["label"].shape[0]), jnp.float32)


def class_target(
    similarity: jax.Array, count: jax.Array, normalizer: str, target_temperature: float
) -> tuple[jax.Array, jax.Array]:
    """Target probability of one key of class c for an anchor of class y, [C, C], and how many such keys there are.

    similarity [C, C]; count [C]: rows of each class, the anchor among them. Classes whose rows have no positive get 0.
    """
    copies = jnp.maximum(count[None, :] - jnp.eye(len(count), dtype=count.dtype), 0)
    if normalizer == "softmax":
        logits = jnp.where(copies > 0, similarity / target_temperature, -jnp.inf)
        top = jnp.max(logits, axis=1, keepdims=True)
        weight = jnp.exp(logits - jnp.where(jnp.isfinite(top), top, 0))
    else:
        weight = jnp.where(copies > 0, similarity, 0)
    total = jnp.sum(copies * weight, axis=1, keepdims=True)
    return weight / jnp.where(total > 0, total, 1), copies


def class_table_rows(
    anchors: Rows, similarity: jax.Array, target: Target, temperature: jax.Array | float, how: Streaming
) -> dict[str, jax.Array]:
    """`streaming_rows` for anchors that are the keys and a graph of classes: source(u_i, u_k) = similarity[y_i, y_k].

    Args:
      anchors: z [B * views, D], unit rows, with the side information label, int [B]; images with -1 have no weight in
        any target and are not counted.
      similarity: [C, C], symmetric: cosines of class texts, or the unit matrix for SupCon.
      target: of which the normalizer and its temperature are read.

    Returns:
      what `streaming_rows` returns, images being told apart by their place in the batch.
    """
    z, label, views = anchors.z, anchors.info["label"], anchors.views
    dtype = jnp.result_type(jnp.float32, z)
    similarity = jax.lax.stop_gradient(similarity.astype(dtype))
    if how.mesh is not None and how.comm_dtype == "bfloat16":  # the rounded rows in both parts of the loss
        z = z + jax.lax.stop_gradient(z.astype(jnp.bfloat16).astype(z.dtype) - z)
    rows = streaming_rows(
        Rows(z, {"id": jnp.arange(len(label)), "label": label}, views),
        None,
        Target(uniform, "row_sum"),
        temperature,
        dataclasses.replace(how, kernel="xla"),
    )
    labels = jnp.repeat(label, views)
    known = labels >= 0
    labels = jnp.where(known, labels, 0)  # an index, whose rows are masked by `known`

    def class_sums(x):
        x = jnp.where(known.reshape(-1, *[1] * (x.ndim - 1)), x, 0)
        return jax.ops.segment_sum(x, labels, num_segments=len(similarity))

    count = class_sums(known.astype(dtype))
    weight, copies = class_target(similarity, count, target.normalizer, target.target_temperature)
    z = z.astype(dtype)

    def product(x, y):
        return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)

    own = jnp.diagonal(weight)[labels]  # on one key of the anchor's own class
    from_target = product(weight, class_sums(z))[labels] - own[:, None] * z
    from_uniform = (jnp.sum(z, axis=0) - z) / max(len(z) - 1, 1)
    linear = jnp.sum(z * (from_uniform - from_target), axis=1) / temperature
    counted = known & (jnp.sum(copies * weight, axis=1) > 0)[labels] & rows["counted"]
    entropy = -jnp.sum(copies * weight * jnp.log(jnp.where(weight > 0, weight, 1)), axis=1)
    values = {
        "loss": rows["loss"] + linear,
        "target_entropy": entropy[labels],
        "own_view_mass": (views - 1) * own,
        "same_class_mass": (jnp.diagonal(copies * weight))[labels],
    }
    return {name: jnp.where(counted, value, 0) for name, value in values.items()} | {"counted": counted}
