"""A bank: the latest embedding of every image of the dataset, and k-means on it that runs where its rows are.

    bank/z [R, D]          unit rows by index of the record, float32 or bfloat16; zeros: no step has seen the image yet
    bank/cluster [R, M]    int32, the cluster of every row in each of M clusterings; -1: in none yet

R is the number of images rounded up to a multiple of PARTS, so that the rows fall into equal parts on any power of two
of devices (sharding.py), and a checkpoint fits another number of them. Sums over rows are sums of integers: the same
bank has the same clusters, bit by bit, however its rows are split.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from xsample_jax.models.heads import products, unit_rows
from xsample_jax.objectives.cluster_centers import CENTER
from xsample_jax.sharding import ROWS_OF_ALL, row_axes

ROWS, ASSIGNED = ROWS_OF_ALL + "z", ROWS_OF_ALL + "cluster"
PARTS = 4096  # R is a multiple of it
RENEWAL = 2**20 + 8  # folded into the key of a step for the first centers
ROUNDS = 64  # in which they are drawn, several at once where there are more clusters
BLOCK, LARGEST_BLOCK = 1024, 2**24  # rows that are compared with all centers at once, and pairs of such a block
FINEST = 13  # bits of a whole number that stands for 1 in a sum: a block of them is exact in float32


@dataclasses.dataclass(frozen=True)
class Bank:
    """momentum: share of the old row in the new one, 0: replaced (InterCLR), 0.5: InstDisc; dtype: of the rows."""

    momentum: float = 0.0
    dtype: str = "float32"


@dataclasses.dataclass(frozen=True)
class Clusters:
    """Clusterings of the bank by k-means, made again during the run.

    Attributes:
      k: clusters of each clustering.
      every: steps between two renewals; start: step of the first one; None: those of an epoch.
      iterations: of k-means.
    """

    k: tuple[int, ...]
    every: int | None = None
    start: int | None = None
    iterations: int = 20

    def in_steps(self, epoch: int) -> "Clusters":
        """The same with numbers of steps in place of None; epoch: the steps of one."""
        every, start = (epoch if value is None else value for value in (self.every, self.start))
        return dataclasses.replace(self, every=every, start=start)


def init_bank(bank: Bank, clusters: Clusters | None, images: int, width: int) -> dict[str, jax.Array]:
    """The bank before the first step, for `images` images with embeddings of `width`."""
    rows = -(-images // PARTS) * PARTS
    memory = {ROWS: jnp.zeros((rows, width), bank.dtype)}
    return memory if clusters is None else memory | {ASSIGNED: jnp.full((rows, len(clusters.k)), -1, jnp.int32)}


def remember(memory: Mapping[str, jax.Array], index: jax.Array, z: jax.Array, momentum: float) -> dict[str, jax.Array]:
    """The rows of the bank after the images `index` int [B] have had the unit rows z [B, D].

    momentum * old + (1 - momentum) * z, of unit length again; z itself for an image that is new. Of an image that is in
    a batch twice the first row counts, so that it does not matter which is written last.
    """
    order = jnp.argsort(index)
    z = jax.lax.stop_gradient(z)[order[jnp.searchsorted(index[order], index)]]
    old = memory[ROWS][index].astype(jnp.float32)
    known = jnp.any(old != 0, axis=1, keepdims=True)
    row = unit_rows(jnp.where(known, momentum * old + (1 - momentum) * z, z))
    return {ROWS: memory[ROWS].at[index].set(row.astype(memory[ROWS].dtype))}


def clusters_of(memory: Mapping[str, jax.Array], index: jax.Array, clusters: Clusters) -> jax.Array:
    """The clusters of the images `index` [n], int32 [n, M]; an image that is in none yet is a cluster of its own."""
    found = memory[ASSIGNED][index]
    return jnp.where(found >= 0, found, max(clusters.k) + index[:, None])


def renew_clusters(
    clusters: Clusters, memory: Mapping[str, jax.Array], step: jax.Array, key: jax.Array, mesh: Mesh | None
) -> dict[str, jax.Array]:
    """The memory before a step: where a renewal is due, with the clusters, and the centers if it has any, of k-means.

    key: of the step, so that the clusters follow from the seed, the step and the bank alone.
    """
    due = (step >= clusters.start) & ((step - clusters.start) % clusters.every == 0)
    names = [ASSIGNED, *(CENTER + name for name in ("z", "distance", "rows") if CENTER + name in memory)]
    key = jax.random.fold_in(key, RENEWAL)

    def renewed():
        found = [
            kmeans(memory[ROWS], k, clusters.iterations, jax.random.fold_in(key, number), mesh)
            for number, k in enumerate(clusters.k)
        ]
        widest = max(clusters.k)
        centers = [jax.tree.map(lambda x: _padded(x, widest), one[1:]) for one in found]
        made = {ASSIGNED: jnp.stack([one.cluster for one in found], axis=1)}
        for name, *values in zip(("z", "distance", "rows"), *centers, strict=True):
            made[CENTER + name] = jnp.stack(values)
        return {name: made[name] for name in names}

    return {**memory, **jax.lax.cond(due, renewed, lambda: {name: memory[name] for name in names})}


def _padded(x: jax.Array, length: int) -> jax.Array:
    return jnp.pad(x, [(0, length - len(x))] + [(0, 0)] * (x.ndim - 1))


# k-means by cosine.


class Clustering(NamedTuple):
    """cluster int32 [R], -1 for rows of zeros; of the clusters: centers [k, D] (unit rows), mean distance of the rows
    from them [k], number of rows [k]. float32."""

    cluster: jax.Array
    centers: jax.Array
    distance: jax.Array
    rows: jax.Array


class Sweep(NamedTuple):
    """One comparison of all rows with the centers: sums of rows, distances and ones of every cluster, int32 [k, D + 2];
    cluster int32 [R]; nearness [R], the cosine of every row with its center."""

    sums: jax.Array
    cluster: jax.Array
    nearness: jax.Array


def kmeans(z: jax.Array, k: int, iterations: int, key: jax.Array, mesh: Mesh | None = None) -> Clustering:
    """k clusters of the rows z [R, D] that are not zero, by cosine, from centers drawn as k-means++ does.

    mesh: over which the rows are split as row_axes says; None: not at all. A cluster that loses all its rows keeps its
    center. With fewer rows than k, some clusters have none.
    """
    centers, there = first_centers(z, k, key, mesh)

    def better(_, centers):
        sums = sweep(z, centers, there, mesh).sums
        return jnp.where(sums[:, -1:] > 0, unit_rows(sums[:, :-2].astype(jnp.float32)), centers)

    centers = jax.lax.fori_loop(0, iterations, better, centers)
    last = sweep(z, centers, there, mesh)
    count = last.sums[:, -1] >> _bits(len(z))
    distance = 2 * last.sums[:, -2] / jnp.maximum(last.sums[:, -1], 1)
    return Clustering(last.cluster, centers, distance.astype(jnp.float32), count.astype(jnp.float32))


def first_centers(z: jax.Array, k: int, key: jax.Array, mesh: Mesh | None) -> tuple[jax.Array, jax.Array]:
    """(k rows of z, bool [k]: which there are), drawn as k-means++ does (Arthur and Vassilvitskii 2007).

    The chance of a row is in proportion to its squared distance from the nearest center before; where k > ROUNDS,
    several are drawn at once.
    """
    rounds = min(k, ROUNDS)
    each = -(-k // rounds)
    seen = jnp.any(z != 0, axis=1)

    def draw(number, carry):
        centers, there, nearness = carry
        noise = jax.random.gumbel(jax.random.fold_in(key, number), seen.shape)
        chance = jnp.where(seen, jnp.log(jnp.maximum(1 - nearness, 1e-12)) + noise, -jnp.inf)
        value, place = jax.lax.top_k(chance, each)
        new, new_there = z[place].astype(jnp.float32), value > -jnp.inf
        nearness = jnp.maximum(nearness, sweep(z, new, new_there, mesh).nearness)
        at = number * each
        centers = jax.lax.dynamic_update_slice(centers, new, (at, 0))
        return centers, jax.lax.dynamic_update_slice(there, new_there, (at,)), nearness

    start = jnp.zeros((rounds * each, z.shape[1])), jnp.zeros(rounds * each, bool), jnp.full(len(z), -1.0)
    centers, there, _ = jax.lax.fori_loop(0, rounds, draw, start)
    return centers[:k], there[:k]


def sweep(z: jax.Array, centers: jax.Array, there: jax.Array, mesh: Mesh | None = None) -> Sweep:
    """Compares the rows z [R, D] with the centers [k, D] that are `there` bool [k], on every device its own rows."""
    scale, axes = 2 ** _bits(len(z)), row_axes(len(z), mesh) if mesh is not None else ()

    def own_rows(z, centers, there):
        found = _sweep_blocks(z, centers, there, scale)
        return found._replace(sums=jax.lax.psum(found.sums, axes)) if axes else found

    if not axes:
        return own_rows(z, centers, there)
    split, whole = PartitionSpec(axes), PartitionSpec()
    out = Sweep(whole, split, split)
    return jax.shard_map(own_rows, mesh=mesh, in_specs=(split, whole, whole), out_specs=out, check_vma=False)(
        z, centers, there
    )


def _sweep_blocks(z: jax.Array, centers: jax.Array, there: jax.Array, scale: int) -> Sweep:
    k = len(centers)
    block = math.gcd(len(z), max(8, min(BLOCK, 2 ** (LARGEST_BLOCK.bit_length() - 1 - k.bit_length()))))

    def of_block(sums, rows):
        rows = rows.astype(jnp.float32)
        cosines = jnp.where(there, products(rows, centers), -jnp.inf)
        nearness = jnp.max(cosines, axis=1)
        cluster = jnp.where(jnp.any(rows != 0, axis=1), jnp.argmax(cosines, axis=1).astype(jnp.int32), -1)
        half = jnp.sqrt(jnp.clip((1 - nearness) / 2, 0, 1))  # of the distance, so that it is at most 1 as the rest is
        columns = jnp.concatenate([rows, half[:, None], jnp.ones_like(half)[:, None]], axis=1)
        member = jax.nn.one_hot(cluster, k, dtype=jnp.float32)  # one_hot(-1) is a row of zeros
        return sums + products(member.T, jnp.round(columns * scale).T).astype(jnp.int32), (cluster, nearness)

    start = jnp.zeros((k, z.shape[1] + 2), jnp.int32)
    sums, (cluster, nearness) = jax.lax.scan(of_block, start, z.reshape(-1, block, z.shape[1]))
    return Sweep(sums, cluster.reshape(-1), nearness.reshape(-1))


def _bits(rows: int) -> int:
    """Bits of the whole number that stands for 1: a sum over all rows stays below 2^31."""
    return max(0, min(FINEST, 31 - rows.bit_length()))
