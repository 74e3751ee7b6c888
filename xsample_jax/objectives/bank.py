"""A bank: the latest embedding of every image of the dataset, and k-means on it that runs where its rows are.

    bank/z [R, D]          unit rows by index of the record, float32 or bfloat16; zeros: no step has seen the image yet
    bank/cluster [R, M]    int32, the cluster of every row in each of M clusterings; -1: in none yet
    bank/label [R]         int32, the class of every row, for clusters within classes; -1: none, or not seen yet
    clusters/class_temperature [C]     what tau is multiplied by for every class, beside clusters within classes

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

from xsample_jax.errors import ConfigError
from xsample_jax.models.heads import products, unit_rows
from xsample_jax.objectives.blocks import Block, key_block
from xsample_jax.objectives.cluster_centers import CENTER
from xsample_jax.sharding import ROWS_OF_ALL, row_axes

ROWS, ASSIGNED, LABEL = ROWS_OF_ALL + "z", ROWS_OF_ALL + "cluster", ROWS_OF_ALL + "label"
OF_CLASSES = "clusters/class_temperature"
PARTS = 4096  # R is a multiple of it
RENEWAL = 2**20 + 8  # folded into the key of a step for the first centers
DRAW = 2**20 + 10  # and for the rows that are keys
ROUNDS = 64  # in which they are drawn, several at once where there are more clusters
BLOCK, LARGEST_BLOCK = 1024, 2**24  # rows that are compared with all centers at once, and pairs of such a block
SMALLEST_SUBCLASS, WITHIN = 10, (20, 80)  # of SBCL: images, and percentiles that spreads are clipped to
NOWHERE = -2  # the class of a center that is not there
FINEST = 13  # bits of a whole number that stands for 1 in a sum: a block of them is exact in float32


@dataclasses.dataclass(frozen=True)
class Bank:
    """momentum: share of the old row in the new one, 0: replaced (InterCLR), 0.5: InstDisc; dtype: of the rows; keys:
    rows of the block "bank" that are drawn at every step beside those of the batch, 0: all rows are keys; images: of
    the dataset, 0 as long as it is not known."""

    momentum: float = 0.0
    dtype: str = "float32"
    keys: int = 0
    images: int = 0


@dataclasses.dataclass(frozen=True)
class Clusters:
    """Clusterings of the bank by k-means, made again during the run.

    Attributes:
      k: clusters of each clustering.
      every: steps between two renewals; start: step of the first one; None: those of an epoch.
      iterations: of k-means.
      by_class: clusters are subclasses, k of all classes together at most, with a temperature for every class (SBCL).
      classes: of the dataset.
    """

    k: tuple[int, ...]
    every: int | None = None
    start: int | None = None
    iterations: int = 20
    by_class: bool = False
    classes: int = 0

    def of_dataset(self, epoch: int, classes: int) -> "Clusters":
        """The same with the steps of an epoch in place of None, and the number of classes."""
        every, start = (epoch if value is None else value for value in (self.every, self.start))
        return dataclasses.replace(self, every=every, start=start, classes=classes)


def padded(images: int) -> int:
    """Rows of what is kept per image, as many as devices divide."""
    return -(-images // PARTS) * PARTS


def first_places(index: jax.Array) -> jax.Array:
    """The place in a batch of the first row with the index of each row, int [B]: of an image that is in a batch twice
    it is kept, so that it does not matter which is written last."""
    order = jnp.argsort(index)
    return order[jnp.searchsorted(index[order], index)]


def init_bank(bank: Bank, clusters: Clusters | None, images: int, width: int) -> dict[str, jax.Array]:
    """The bank before the first step, for `images` images with embeddings of `width`."""
    rows = padded(images)
    memory = {ROWS: jnp.zeros((rows, width), bank.dtype)}
    if clusters is not None:
        memory[ASSIGNED] = jnp.full((rows, len(clusters.k)), -1, jnp.int32)
    if clusters is not None and clusters.by_class:
        memory |= {LABEL: jnp.full(rows, -1, jnp.int32), OF_CLASSES: jnp.ones(clusters.classes)}
    return memory


def remember(
    memory: Mapping[str, jax.Array], batch: Mapping[str, jax.Array], z: jax.Array, momentum: float
) -> dict[str, jax.Array]:
    """The bank after the images of a batch, its `index` and `label` int [B], have had the unit rows z [B, D].

    momentum * old + (1 - momentum) * z, of unit length again; z itself for an image that is new. Of an image that is in
    a batch twice the first row counts.
    """
    index = batch["index"]
    z = jax.lax.stop_gradient(z)[first_places(index)]
    old = memory[ROWS][index].astype(jnp.float32)
    known = jnp.any(old != 0, axis=1, keepdims=True)
    row = unit_rows(jnp.where(known, momentum * old + (1 - momentum) * z, z))
    labels = {LABEL: memory[LABEL].at[index].set(batch["label"])} if LABEL in memory else {}
    return {ROWS: memory[ROWS].at[index].set(row.astype(memory[ROWS].dtype))} | labels


def bank_block(
    bank: Bank,
    memory: Mapping[str, jax.Array],
    given: tuple[jax.Array, jax.Array],
    key: jax.Array,
    clusters: Clusters | None,
) -> Block:
    """Rows of the bank as keys, with `index` and, where there are clusters, `cluster`: those of the images of a batch
    and as many as are drawn, each row with the same chance, or all.

    given: index int [B] of the images of the batch, and their unit rows z [B, D] of today, which stand for an image
    that the bank has not seen yet. Other rows that no step has seen are not filled, nor is what is drawn of an image
    of the batch, which is there already.
    """
    index, z = given
    rows = len(memory[ROWS])
    own = memory[ROWS][index].astype(jnp.float32)
    own = jnp.where(jnp.any(own != 0, axis=1, keepdims=True), own, jax.lax.stop_gradient(z))
    if 0 < bank.keys < rows:
        drawn = jax.random.randint(jax.random.fold_in(key, DRAW), (bank.keys,), 0, bank.images or rows)
        here = jnp.zeros(rows, bool).at[index].set(True)
        places = jnp.concatenate([index.astype(jnp.int32), drawn])
        found = memory[ROWS][drawn].astype(jnp.float32)
        there = [jnp.ones(len(index), bool), jnp.any(found != 0, axis=1) & ~here[drawn]]
        found, filled = jnp.concatenate([own, found]), jnp.concatenate(there)
    else:  # nothing is put beside the rows, which are split over devices
        places = jnp.arange(rows, dtype=jnp.int32)
        found = memory[ROWS].astype(jnp.float32).at[index].set(own)
        filled = jnp.any(found != 0, axis=1)
    side = {"index": places} | ({"label": memory[LABEL][places]} if LABEL in memory else {})
    side |= clusters_of(memory, side, clusters) if clusters is not None else {}
    return key_block(found, **side) | {"filled": filled}


def clusters_of(
    memory: Mapping[str, jax.Array], side: Mapping[str, jax.Array], clusters: Clusters
) -> dict[str, jax.Array]:
    """The cluster int32 [n, M] of the images whose `index` and `label` [n] are in `side`; with clusters by class the
    class_temperature [n], too.

    An image that is in no cluster yet is one of its own; with clusters by class its class is. Those clusters are
    numbered from the number of rows on, above every k, also an earlier and larger one whose clusters are still there.
    """
    found, apart = memory[ASSIGNED][side["index"]], side["index"]
    rows = len(memory[ASSIGNED])
    if not clusters.by_class:
        return {"cluster": jnp.where(found >= 0, found, rows + apart[:, None])}
    label = side["label"]
    apart = jnp.where(label >= 0, label, clusters.classes + apart)
    temperature = jnp.where(label >= 0, memory[OF_CLASSES][label], 1.0)
    return {"cluster": jnp.where(found >= 0, found, rows + apart[:, None]), "class_temperature": temperature}


def renew_clusters(
    clusters: Clusters, memory: Mapping[str, jax.Array], step: jax.Array, key: jax.Array, mesh: Mesh | None
) -> dict[str, jax.Array]:
    """The memory before a step: where a renewal is due, with the clusters, and the centers if it has any, of k-means.

    key: of the step, so that the clusters follow from the seed, the step and the bank alone.
    """
    due = (step >= clusters.start) & ((step - clusters.start) % clusters.every == 0)
    names = [
        ASSIGNED,
        *(name for name in (*map(CENTER.__add__, ("z", "distance", "rows")), OF_CLASSES) if name in memory),
    ]
    key = jax.random.fold_in(key, RENEWAL)

    def renewed():
        keys = [jax.random.fold_in(key, number) for number in range(len(clusters.k))]
        if clusters.by_class:
            found = [subclasses(memory, clusters, number, one, mesh) for number, one in enumerate(keys)]
        else:
            found = [kmeans(memory[ROWS], k, clusters.iterations, *one, mesh) for k, *one in zip(clusters.k, keys)]
        widest = max(clusters.k)
        centers = [jax.tree.map(lambda x: _padded(x, widest), one[1:]) for one in found]
        made = {ASSIGNED: jnp.stack([one.cluster for one in found], axis=1)}
        for name, *values in zip(("z", "distance", "rows"), *centers, strict=True):
            made[CENTER + name] = jnp.stack(values)
        if clusters.by_class:
            made[OF_CLASSES] = class_temperatures(memory[ROWS], memory[LABEL], clusters, mesh)
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
    return lloyd(z, jnp.zeros(len(z), jnp.int32), (centers, jnp.where(there, 0, NOWHERE)), iterations, mesh)


def lloyd(
    z: jax.Array, label: jax.Array, first: tuple[jax.Array, jax.Array], iterations: int, mesh: Mesh | None
) -> Clustering:
    """k-means of the rows z [R, D] of the classes `label` int [R], from first: (centers [k, D], their classes [k])."""
    centers, owner = first

    def better(_, centers):
        sums = sweep(z, label, centers, owner, mesh).sums
        return jnp.where(sums[:, -1:] > 0, unit_rows(sums[:, :-2].astype(jnp.float32)), centers)

    centers = jax.lax.fori_loop(0, iterations, better, centers)
    last = sweep(z, label, centers, owner, mesh)
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
        found = sweep(z, jnp.zeros(len(z), jnp.int32), new, jnp.where(new_there, 0, NOWHERE), mesh)
        nearness = jnp.maximum(nearness, found.nearness)
        at = number * each
        centers = jax.lax.dynamic_update_slice(centers, new, (at, 0))
        return centers, jax.lax.dynamic_update_slice(there, new_there, (at,)), nearness

    start = jnp.zeros((rounds * each, z.shape[1])), jnp.zeros(rounds * each, bool), jnp.full(len(z), -1.0)
    centers, there, _ = jax.lax.fori_loop(0, rounds, draw, start)
    return centers[:k], there[:k]


def sweep(z: jax.Array, label: jax.Array, centers: jax.Array, owner: jax.Array, mesh: Mesh | None = None) -> Sweep:
    """Compares the rows z [R, D] with the centers [k, D] of their class, on every device its own rows.

    label int [R]: classes of the rows; owner int [k]: of the centers, NOWHERE for one that is not there.
    """
    scale, axes = 2 ** _bits(len(z)), row_axes(len(z), mesh) if mesh is not None else ()

    def own_rows(z, label, centers, owner):
        found = _sweep_blocks((z, label), centers, owner, scale)
        return found._replace(sums=jax.lax.psum(found.sums, axes)) if axes else found

    if not axes:
        return own_rows(z, label, centers, owner)
    split, whole = PartitionSpec(axes), PartitionSpec()
    out, given = Sweep(whole, split, split), (split, split, whole, whole)
    return jax.shard_map(own_rows, mesh=mesh, in_specs=given, out_specs=out, check_vma=False)(z, label, centers, owner)


def _sweep_blocks(rows: tuple[jax.Array, jax.Array], centers: jax.Array, owner: jax.Array, scale: int) -> Sweep:
    k, count = len(centers), len(rows[0])
    block = math.gcd(count, max(8, min(BLOCK, 2 ** (LARGEST_BLOCK.bit_length() - 1 - k.bit_length()))))
    squares = jnp.sum(centers * centers, axis=1)

    def of_block(sums, of_rows):
        z, label = of_rows[0].astype(jnp.float32), of_rows[1]
        cosines = jnp.where(label[:, None] == owner, products(z, centers), -jnp.inf)
        nearness, nearest = jnp.max(cosines, axis=1), jnp.argmax(cosines, axis=1).astype(jnp.int32)
        cluster = jnp.where(jnp.any(z != 0, axis=1) & (nearness > -jnp.inf), nearest, -1)
        # Half of the distance of a unit row, so that it is at most 1 as all that is summed.
        half = jnp.sqrt(jnp.clip((1 + squares[nearest]) / 4 - nearness / 2, 0, 1))
        columns = jnp.concatenate([z, half[:, None], jnp.ones_like(half)[:, None]], axis=1)
        member = jax.nn.one_hot(cluster, k, dtype=jnp.float32)  # one_hot(-1) is a row of zeros
        return sums + products(member.T, jnp.round(columns * scale).T).astype(jnp.int32), (cluster, nearness)

    start = jnp.zeros((k, centers.shape[1] + 2), jnp.int32)
    blocks = jax.tree.map(lambda x: x.reshape(-1, block, *x.shape[1:]), rows)
    sums, (cluster, nearness) = jax.lax.scan(of_block, start, blocks)
    return Sweep(sums, cluster.reshape(-1), nearness.reshape(-1))


def _bits(rows: int) -> int:
    """Bits of the whole number that stands for 1: a sum over all rows stays below 2^31."""
    return max(0, min(FINEST, 31 - rows.bit_length()))


# Clusters within classes: the subclasses and temperatures of SBCL (arXiv 2306.15925).


def subclasses(
    memory: Mapping[str, jax.Array], clusters: Clusters, number: int, key: jax.Array, mesh: Mesh | None
) -> Clustering:
    """k-means within every class of the bank, from rows of the class drawn at random."""
    z, label = memory[ROWS], memory[LABEL]
    counts, sizes = subclass_counts(label, clusters.classes, clusters.k[number])
    ends, slots = jnp.cumsum(counts), jnp.arange(clusters.k[number])
    owner = jnp.searchsorted(ends, slots, side="right")
    owner = jnp.where(owner < clusters.classes, owner, NOWHERE)
    order = jnp.lexsort((jax.random.uniform(key, label.shape), jnp.where(label >= 0, label, clusters.classes)))
    first = (jnp.cumsum(sizes) - sizes)[owner] + slots - (ends - counts)[owner]
    centers = z[order[jnp.where(owner >= 0, first, 0)]].astype(jnp.float32)
    return lloyd(z, label, (centers, owner), clusters.iterations, mesh)


def subclass_counts(label: jax.Array, classes: int, k: int) -> tuple[jax.Array, jax.Array]:
    """(subclasses of every class, its images), int [C], of the classes `label` int [R], -1 for none.

    max(n // unit, 1) of a class of n images, unit the size of the smallest class, at least 10, and large enough that
    all together are k at most.
    """
    sizes = jnp.bincount(jnp.where(label >= 0, label, classes), length=classes + 1)[:classes]
    smallest = jnp.min(jnp.where(sizes > 0, sizes, jnp.iinfo(jnp.int32).max))
    unit = jnp.maximum(jnp.maximum(smallest, SMALLEST_SUBCLASS), -(-sizes.sum() // (k - classes)))
    return jnp.where(sizes > 0, jnp.maximum(sizes // unit, 1), 0), sizes


def class_temperatures(z: jax.Array, label: jax.Array, clusters: Clusters, mesh: Mesh | None) -> jax.Array:
    """What tau is multiplied by for every class, float32 [C]: its spread d over the mean of all; 1 without subclasses.

    d = mean |x - mean of the class| / log(n + 10), clipped to the 20th and 80th percentile of the classes.
    """
    counts, sizes = subclass_counts(label, clusters.classes, max(clusters.k))
    owner = jnp.arange(clusters.classes)
    sums = sweep(z, label, jnp.zeros((clusters.classes, z.shape[1])), owner, mesh).sums.astype(jnp.float32)
    means = sums[:, :-2] / jnp.maximum(sums[:, -1:], 1)
    sums = sweep(z, label, means, owner, mesh).sums.astype(jnp.float32)
    spread = jnp.where(sizes > 0, 2 * sums[:, -2] / jnp.maximum(sums[:, -1], 1) / jnp.log(sizes + 10.0), jnp.nan)
    clipped = jnp.clip(spread, *jnp.nanpercentile(spread, jnp.array(WITHIN)))
    mean = jnp.nanmean(clipped)
    return jnp.where((counts > 1) & (mean > 0), clipped / jnp.where(mean > 0, mean, 1.0), 1.0)


def check_clusters(clusters: Clusters, images: int, classes: int) -> None:
    """Raises ConfigError where a clustering of the bank has more clusters than there are images, or no more subclasses
    than there are classes."""
    k, by_class = clusters.k, clusters.by_class
    if max(k) > images:
        raise ConfigError("objective.clusters.k", k, f"at most {images:,} clusters, the images of the training split")
    if by_class and not classes:
        fix = "Set --config.objective.clusters.by_class=false."
        raise ConfigError("objective.clusters.by_class", True, "false for a set without class names", fix)
    if by_class and min(k) <= classes:
        expected = f"more subclasses than the {classes:,} classes, each of which has one at least"
        raise ConfigError("objective.clusters.k", k, expected, f"Set --config.objective.clusters.k='({4 * classes},)'.")
