"""Centers of clusterings that are given by record (data.side), with a temperature for each: ProtoNCE of PCL and MEOW.

The memory keeps, for each of M clusterings with K clusters at most, running means over the rows of training:

    center/z [M, K, D]          of the embeddings of a cluster; center/distance [M, K]: of their distance to it
    center/rows [M, K]          rows of the cluster that were seen
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from xsample_jax.models.heads import unit_rows
from xsample_jax.objectives.blocks import Block, key_block

CENTER = "center/"
MOMENTUM = 0.9  # of the running means, per step in which a cluster occurs
LOWEST_SHARE, HIGHEST_SHARE = 0.1, 0.9  # quantiles that temperatures are clipped to
SMOOTHING = 5.0  # of log(n + SMOOTHING), as in the public code of MEOW


def init_centers(clusters: tuple[int, int], width: int) -> dict[str, jax.Array]:
    """The memory of no rows yet; clusters: M, K."""
    shapes = {"z": (*clusters, width), "distance": clusters, "rows": clusters}
    return {CENTER + name: jnp.zeros(shape, jnp.float32) for name, shape in shapes.items()}


def move_centers(memory: Mapping[str, jax.Array], z: jax.Array, cluster: jax.Array) -> dict[str, jax.Array]:
    """The memory after the rows z [n, D] without gradient, of the clusters int [n, M], -1 for none."""
    centers, distances, rows = (memory[CENTER + name] for name in ("z", "distance", "rows"))
    z = jax.lax.stop_gradient(z)

    def of_clustering(centers, distances, rows, cluster):
        member = jax.nn.one_hot(cluster, len(rows), dtype=z.dtype)  # one_hot(-1) is a row of zeros
        count = member.sum(axis=0)
        mean = jnp.matmul(member.T, z, precision=jax.lax.Precision.HIGHEST) / jnp.maximum(count, 1)[:, None]
        keep = jnp.where(count == 0, 1.0, jnp.where(rows == 0, 0.0, MOMENTUM))
        centers = keep[:, None] * centers + (1 - keep)[:, None] * mean
        apart = jnp.linalg.norm(z - unit_rows(centers)[jnp.maximum(cluster, 0)], axis=1)
        distances = keep * distances + (1 - keep) * (member.T @ apart) / jnp.maximum(count, 1)
        return centers, distances, rows + count

    moved = jax.vmap(of_clustering)(centers, distances, rows, cluster.T)
    return dict(zip((CENTER + name for name in ("z", "distance", "rows")), moved, strict=True))


def center_block(memory: Mapping[str, jax.Array], images: jax.Array | float) -> Block:
    """The centers as keys [M K], unit rows. images: of the dataset, of which a cluster has its share of the rows.

    Side information: clustering, center (which of it), sharpness: mean temperature of the clustering / the center's.
    """
    rows = memory[CENTER + "rows"]
    share = rows / jnp.maximum(rows.sum(axis=1, keepdims=True), 1)
    temperatures = jax.vmap(center_temperatures)(memory[CENTER + "distance"], share * images)
    clusterings, clusters = rows.shape
    place = jnp.arange(clusterings * clusters)
    return key_block(
        unit_rows(memory[CENTER + "z"]).reshape(-1, memory[CENTER + "z"].shape[-1]),
        clustering=place // clusters,
        center=place % clusters,
        sharpness=(1 / temperatures).reshape(-1),
    ) | {"filled": (rows > 0).reshape(-1)}


def center_temperatures(distance: jax.Array, count: jax.Array) -> jax.Array:
    """phi_c [K] of mean 1: mean distance / log(n_c + 5) (arXiv 2212.13847, after PCL), clipped to its quantiles.

    distance: mean distance of the members of a cluster from its center; count: its members, 0 where there is none. A
    cluster of one member, which has no distance, gets the largest. 1 for clusters that are not there.
    """
    there, several = count > 0, count > 1.5
    phi = distance / jnp.log(count + SMOOTHING)
    phi = jnp.where(several, phi, jnp.max(phi, where=several, initial=0.0))
    low, high = (_quantile(phi, there, share) for share in (LOWEST_SHARE, HIGHEST_SHARE))
    phi = jnp.clip(phi, low, high)
    mean = jnp.sum(jnp.where(there, phi, 0.0)) / jnp.maximum(there.sum(), 1)
    return jnp.where(there & (mean > 0), jnp.maximum(phi / jnp.where(mean > 0, mean, 1.0), 1e-3), 1.0)


def _quantile(values: jax.Array, among: jax.Array, share: float) -> jax.Array:
    """The quantile of the values `among`, between two of them in proportion."""
    ordered, place = jnp.sort(jnp.where(among, values, jnp.inf)), share * jnp.maximum(among.sum() - 1, 0)
    low = jnp.floor(place).astype(int)
    high = jnp.minimum(low + 1, jnp.maximum(among.sum() - 1, 0))
    below, above = ordered[low], ordered[high]
    return jnp.where(jnp.isfinite(below), below + (place - low) * (above - below), 0.0)
