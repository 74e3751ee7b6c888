"""Centers of clusters: running means with a temperature for each (ProtoNCE), and learned ones (PamC).

The first are of clusterings given by record (data.side), for ProtoNCE of PCL and MEOW. The memory keeps, for each of M
clusterings with K clusters at most, running means over the rows of training:

    center/z [M, K, D]          of the embeddings of a cluster; center/distance [M, K]: of their distance to it
    center/rows [M, K]          rows of the cluster that were seen
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from xsample_jax.models.heads import products, squared_distances, unit_rows
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


# Learned centers (the rows "prototypes", of any length): PamC, whose loss and constants are those of its public code.
#
# A row belongs to its nearest center. What repels each other are not rows but the means of clusters, the block `meta`:
# K^2 pairs in place of B^2. No gradient flows through who belongs where; the centers learn from the self-training.


def soft_assignment(z: jax.Array, centers: jax.Array) -> jax.Array:
    """q [n, K], rows sum to 1: Student's t of one degree of freedom, in proportion to 1 / (1 + |z_i - center_c|^2)."""
    near = 1 / (1 + squared_distances(z, centers))
    return near / near.sum(axis=1, keepdims=True)


def self_training(x: jax.Array, y: jax.Array, centers: Block) -> jax.Array:
    """mean over rows of KL(p_i || q_i), p_ic in proportion to q_ic^2 / sum_i q_ic, without gradient. y is not read.

    The target is sharper than the assignment, and counts a center less the more rows it has.
    """
    del y
    q = soft_assignment(x, centers["raw"])
    p = jax.lax.stop_gradient(q**2 / jnp.sum(q, axis=0))
    p = p / p.sum(axis=1, keepdims=True)
    return jnp.mean(jnp.sum(p * (jnp.log(jnp.maximum(p, 1e-30)) - jnp.log(q)), axis=1))


def meta_block(z: jax.Array, centers: jax.Array, first_row: int) -> tuple[Block, jax.Array]:
    """(the block of the directions of cluster means [K, D], the cluster of every row int [n]) of unit rows z [n, D].

    Gradient flows into the rows of a cluster. A cluster without rows is not filled.
    """
    assigned = jnp.argmin(squared_distances(jax.lax.stop_gradient(z), jax.lax.stop_gradient(centers)), axis=1)
    member = jax.nn.one_hot(assigned, len(centers), dtype=z.dtype)
    block = key_block(unit_rows(products(member.T, z.T)))
    own = {"row": first_row + jnp.arange(len(centers), dtype=jnp.int32), "filled": member.sum(axis=0) > 0}
    return block | own, assigned


def cluster_metrics(block: Block) -> dict[str, jax.Array]:
    """How the clusters `assigned` int [n] of a block agree with `label` int [n] (-1: none, left out); {} without them.

    cluster_nmi: mutual information over the mean of both entropies, 0..1, which is higher the fewer rows a cluster has;
    clusters_used: clusters with rows, labeled or not.
    """
    if "assigned" not in block or "label" not in block:
        return {}
    assigned, label = block["assigned"], block["label"]
    known = label >= 0
    count = jnp.maximum(known.sum(), 1)

    def entropy(alike):
        share = jnp.sum(alike & known[None, :], axis=1) / count
        return -jnp.sum(jnp.where(known, jnp.log(jnp.maximum(share, 1e-12)), 0.0)) / count

    in_cluster, in_class = (of[:, None] == of[None, :] for of in (assigned, label))
    of_cluster, of_class = entropy(in_cluster), entropy(in_class)
    shared = of_cluster + of_class - entropy(in_cluster & in_class)
    first = jnp.sum(jnp.tril(in_cluster, -1), axis=1) == 0
    nmi = jnp.where(of_cluster + of_class > 0, 2 * shared / jnp.maximum(of_cluster + of_class, 1e-12), 0.0)
    return {"cluster_nmi": nmi, "clusters_used": jnp.sum(first).astype(jnp.float32)}
