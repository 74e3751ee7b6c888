"""An objective on one batch: side information and embeddings in, loss and the numbers worth watching out."""

import jax
import jax.numpy as jnp

from xsample_jax.graphs.normalise import NORMALISERS
from xsample_jax.graphs.sources import SOURCES
from xsample_jax.objectives.cross_entropy import cross_entropy, entropy, mean_over_rows
from xsample_jax.objectives.presets import Objective, Term


def target_graph(term: Term, objective: Objective, anchors: dict, keys: dict) -> tuple[jax.Array, jax.Array]:
    """The target T [A, K] of one term and its validity mask. No gradient flows into it."""
    valid = jnp.ones((anchors["id"].shape[0], keys["id"].shape[0]), bool)
    if term.anchors == term.keys:
        valid = ~jnp.eye(valid.shape[0], dtype=bool)
    similarity = SOURCES[term.graph](anchors, keys)
    target = NORMALISERS[term.normaliser](similarity, valid, objective.target_temperature)
    return jax.lax.stop_gradient(target), valid


def objective_loss(
    objective: Objective, embeddings: dict[str, jax.Array], side: dict[str, dict], temperature: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Loss of an objective on the global batch.

    Args:
      embeddings: "image" [N, D] and, for image-text objectives, "text" [B, D]; unit rows.
      side: for the same names, the side information of those rows (graphs/sources.py).
      temperature: tau, a scalar.
    Returns:
      loss (scalar, float32) and metrics of scalars: loss, target_entropy H(T), kl = loss - H(T), own_view_mass (target
      mass on views of the same image), same_class_mass (on the same label, own views included; only with labels),
      rows_without_positive (share of anchors dropped from the mean because their target row is empty).
    """
    if objective.centre:
        side = {name: centred(rows) for name, rows in side.items()}
    totals: dict[str, jax.Array] = {}
    for term in objective.terms:
        anchors, keys = side[term.anchors], side[term.keys]
        target, valid = target_graph(term, objective, anchors, keys)
        z_anchor, z_key = embeddings[term.anchors], embeddings[term.keys]
        logits = jnp.matmul(z_anchor, z_key.T, precision=jax.lax.Precision.HIGHEST) / temperature
        counted = target.sum(axis=-1) > 0
        values = {
            "loss": cross_entropy(logits, target, valid),
            "target_entropy": entropy(target),
            "own_view_mass": jnp.sum(target * SOURCES["identity"](anchors, keys), axis=-1),
        }
        if "label" in anchors:
            values["same_class_mass"] = jnp.sum(target * SOURCES["label"](anchors, keys), axis=-1)
        values = {name: mean_over_rows(value, counted) for name, value in values.items()}
        values["rows_without_positive"] = 1.0 - jnp.mean(counted)
        for name, value in values.items():
            totals[name] = totals.get(name, 0.0) + term.weight * value
    totals["kl"] = totals["loss"] - totals["target_entropy"]
    return totals["loss"], totals


def centred(rows: dict) -> dict:
    """The side information with the batch mean taken off its text embeddings.

    Unit embeddings of a narrow-cone text encoder all point one way; what tells texts apart is what is left.
    """
    return {
        name: value - value.astype(jnp.float32).mean(axis=0)
        if name in ("caption_embedding", "class_embedding")
        else value
        for name, value in rows.items()
    }
