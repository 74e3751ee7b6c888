"""The Z-loss (links.z) with memory linear in the number of rows: moments in closed form, positives tile by tile.

    mean_i = x_i . m,  m the mean key        variance_i = x_i' C x_i,  C the covariance of the keys, [D, D]

The loss sees a row through these two numbers and its positives, so no negative is ever compared with an anchor: the
spherical family of losses, whose output layer of any number of classes updates in D^2 (arXiv 1604.08859, section 2).
"""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from xsample_jax.graphs.sources import identity, label
from xsample_jax.graphs.targets import Graph, requires, similarity
from xsample_jax.objectives.cross_entropy import mean_over_rows
from xsample_jax.objectives.links import inverse_spread
from xsample_jax.objectives.streaming.loss import Streaming

HIGHEST = jax.lax.Precision.HIGHEST


def streamed_z(
    graph: Graph, options: dict, anchors: dict, keys: dict, same: bool, how: Streaming
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Value and metrics of a term with the link z (terms.term_value, graph_metrics), without arrays of pairs.

    Args:
      graph: T, of which each pair can be computed by itself; options: those of the link.
      anchors, keys: blocks; same: they are the same rows, and none is its own key.
      how: with a mesh, every device has the keys of all (collective is not read); frozen embeddings travel as they
        are.
    """
    x, y = anchors["z"], keys["z"]
    if how.mesh is not None and how.comm_dtype == "bfloat16":
        x, y = (z.astype(jnp.bfloat16).astype(z.dtype) for z in (x, y))
    names = {"id", "label", "row", "filled", *requires(graph)}
    u, v = ({name: side[name] for name in names & set(side)} for side in (anchors, keys))
    moments = _moments(x, y, v["filled"], same)
    sums = _over_positives(graph, options, (x, u), _tiles((y, v), how), moments)
    total = jnp.where(sums["mass"] > 0, sums["mass"], 1.0)
    entropy = jnp.log(total) - sums["w_log_w"] / total
    counted = sums["mass"] > 0
    rows = {"loss": sums["loss"] / total, "positive_z": sums["z"] / total, "target_entropy": entropy}
    rows["own_view_mass"] = sums["own"] / total
    if "same_class" in sums:
        rows["same_class_mass"] = sums["same_class"] / total
    metrics = {name: mean_over_rows(value, counted) for name, value in rows.items()}
    metrics |= {
        "rows_without_positive": 1.0 - jnp.mean(counted),
        "rows_without_negative": 1.0 - jnp.mean(sums["negatives"] > 0),
    }
    return metrics.pop("loss"), metrics


def _moments(x: jax.Array, y: jax.Array, filled: jax.Array, same: bool) -> tuple[jax.Array, jax.Array]:
    """(mean [A, 1], 1 / standard deviation [A, 1]) of every anchor's similarities over its keys."""
    used = filled.astype(y.dtype)[:, None]
    count = jnp.sum(used)
    center = jnp.sum(used * y, axis=0) / jnp.maximum(count, 1)
    centered = used * (y - center)
    scatter = jnp.matmul(centered.T, centered, precision=HIGHEST)
    square = jnp.sum(jnp.matmul(x, scatter, precision=HIGHEST) * x, axis=-1, keepdims=True)
    shift = 0.0
    if same:  # without the row itself
        own = jnp.sum(x * centered, axis=-1, keepdims=True)
        count = count - 1
        square, shift = square - own**2, -own / jnp.maximum(count, 1)
    mean = jnp.matmul(x, center[:, None], precision=HIGHEST) + shift
    return mean, inverse_spread(jnp.maximum(square / jnp.maximum(count, 1) - shift**2, 0.0), mean)


def _tiles(keys: tuple, how: Streaming) -> tuple:
    """The arrays of the keys [K, ...] in tiles, [t, size, ...]; keys that fill up the last one are not `filled`."""
    count = len(keys[0])
    size = min(how.block_size, count)
    tiles = -(-count // size)

    def padded(value):
        rest = jnp.zeros((tiles * size - count, *value.shape[1:]), value.dtype)
        return jnp.concatenate([value, rest]).reshape(tiles, size, *value.shape[1:])

    keys = jax.tree.map(padded, keys)
    if how.mesh is None:
        return keys
    return jax.lax.with_sharding_constraint(keys, NamedSharding(how.mesh, PartitionSpec()))


def _over_positives(graph: Graph, options: dict, anchors: tuple, tiles: tuple, moments: tuple) -> dict[str, jax.Array]:
    """Sums over the keys of every anchor, [A] each: of w, of w times loss, z and log w, and of parts of w."""
    x, u = anchors
    mean, inverse = moments
    sharpness, location = options.get("sharpness", 1.0), options.get("location", 0.0)
    with_label = "label" in u and "label" in tiles[1]

    @jax.checkpoint
    def step(sums, tile):
        z, side = tile
        valid = side["filled"][None, :] & ((u["row"][:, None] != side["row"][None, :]) | (u["row"][:, None] < 0))
        target = jax.lax.stop_gradient(jnp.where(valid, similarity(graph, u, side, valid=None), 0.0))
        scores = (jnp.matmul(x, z.T, precision=HIGHEST) - mean) * inverse
        losses = jax.nn.softplus(sharpness * (location - scores)) / sharpness
        found = {
            "mass": target,
            "loss": target * losses,
            "z": target * scores,
            "w_log_w": target * jnp.log(jnp.where(target > 0, target, 1.0)),
            "own": target * identity(u, side),
            "negatives": (valid & (target <= 0)).astype(x.dtype),
        }
        if with_label:
            found["same_class"] = target * label(u, side)
        return {name: sums[name] + value.sum(axis=-1) for name, value in found.items()}, None

    names = ("mass", "loss", "z", "w_log_w", "own", "negatives") + (("same_class",) if with_label else ())
    start = {name: jnp.zeros(len(x), x.dtype) for name in names}
    return jax.lax.scan(step, start, tiles)[0]
