"""Losses of an episode: images of a few classes, some of them the support of their class, the others queries.

Feature terms (objectives/feature_losses.py) on rows [A, D] of any length, whose side information `part` says what is
support (0) and what is a query (1), as the batches of data.episodes have it (data/plans.py). A class is defined by the
support rows of its label, so nothing depends on how many classes or shots there are. Rows without a class are left out.
"""

import jax
import jax.numpy as jnp

from xsample_jax.graphs.targets import MASKED
from xsample_jax.models.heads import squared_distances

LEAST = 1e-6  # added to squared distances, whose root has no gradient at 0


def prototypes(x: jax.Array, label: jax.Array, support: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(mean of the support rows of the class of every row [A, D], how many they are [A]); 0 where there are none."""
    mine = ((label[:, None] == label[None, :]) & support[None, :]).astype(jnp.float32)
    count = mine.sum(axis=1)
    return jnp.matmul(mine, x, precision=jax.lax.Precision.HIGHEST) / jnp.maximum(count, 1)[:, None], count


def _episode(x: jax.Array, side: dict) -> tuple[jax.Array, ...]:
    """Squared distances of every row to the prototype of the class of every support row [A, A], whether that is the
    own class [A, A] or another one, how many support rows it has [A], and which rows are queries that count [A]."""
    label, known = side["label"], side["label"] >= 0
    support = known & (side["part"] == 0)
    centers, count = prototypes(x, label, support)
    same = label[:, None] == label[None, :]
    own, other = same & support[None, :], ~same & support[None, :]
    query = known & (side["part"] == 1) & jnp.any(own, axis=1) & jnp.any(other, axis=1)
    return squared_distances(x, centers), own, other, count, query


def _mean(values: jax.Array, counted: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(counted, values, 0.0)) / jnp.maximum(jnp.sum(counted), 1)


def prototypical(x: jax.Array, y: jax.Array, side: dict, *, raw: bool = True) -> jax.Array:
    """Cross-entropy of softmax(-|q - c|^2) over the prototypes c, mean over queries (the "cross" of arXiv 2305.09062).

    y is not read; raw: always true, as prototypes are means of rows of any length.
    """
    del y, raw
    distances, own, other, count, query = _episode(x, side)
    # Every class occurs as many times as it has support rows, each with that share.
    logits = jnp.where(own | other, -distances - jnp.log(jnp.maximum(count, 1))[None, :], MASKED)
    log_p = jax.nn.log_softmax(logits, axis=1)
    return _mean(-jax.nn.logsumexp(jnp.where(own, log_p, MASKED), axis=1), query)


def proto_triplet(x: jax.Array, y: jax.Array, side: dict, *, margin: float = 0.5, raw: bool = True) -> jax.Array:
    """mean over queries of [d(q, own prototype) - min over others of d(q, c) + margin]+ (arXiv 2305.09062).

    d = sqrt(|.|^2 + 1e-6). y is not read; raw: always true.
    """
    del y, raw
    squared, own, other, _, query = _episode(x, side)
    distances = jnp.sqrt(jnp.where(own | other, squared, 1.0) + LEAST)
    mine = jnp.max(jnp.where(own, distances, -jnp.inf), axis=1, initial=0.0)  # all of them are the same
    nearest = jnp.min(jnp.where(other, distances, jnp.inf), axis=1, initial=1e9)
    return _mean(jax.nn.relu(mine - nearest + margin), query)


SETS = ("support", "query", "all")


def icnn(x: jax.Array, y: jax.Array, side: dict, *, rows: str = "support", k: int = 4, raw: bool = True) -> jax.Array:
    """-log((lambda + gamma) / 2), how well classes stand apart among the neighbors of each row (arXiv 2305.09062).

    Every row has its k nearest others. gamma: the mean share of them that are of the row's class (1 in a set of at
    most k + 2 rows). lambda: the mean of 1 - d / n_dc over neighbors of the class, and of d / D over those of other
    classes; each a mean over neighbors, then over the rows that have any. n_dc is the distance of the nearest row of
    another class among the k + 1 nearest others, or among as many as a class has rows where rows is all; d / n_dc is 0
    where there is none, and is divided by the largest of the row where that is above 1. D is the largest distance of
    any row to one of its k neighbors that is of another class.

    Args:
      rows: support, query or all: the set within which neighbors are looked for.
      raw: always true. y is not read.
    """
    del y, raw
    label = side["label"]
    member = (label >= 0) & ((rows == "all") | (side["part"] == SETS.index(rows)))
    pairs = member[:, None] & member[None, :] & ~jnp.eye(len(x), dtype=bool)
    alike = label[:, None] == label[None, :]
    k_here = jnp.clip(jnp.sum(member) - 2, 0, k)
    looked_at = jnp.max(jnp.sum(alike & member[:, None] & member, axis=1)) if rows == "all" else k_here + 1
    all_distances = jnp.sqrt(jnp.where(pairs, squared_distances(x, x), 1.0) + LEAST)
    order = jnp.argsort(jnp.where(pairs, all_distances, jnp.inf), axis=1)
    distances, same, there = (jnp.take_along_axis(given, order, axis=1) for given in (all_distances, alike, pairs))
    place = jnp.arange(len(x))
    near, other = there & (place < k_here), there & ~same
    stranger = jnp.min(jnp.where(other & (place < looked_at), distances, jnp.inf), axis=1, keepdims=True)
    known = jnp.isfinite(stranger)
    ratio = jnp.where(near & known, distances / jnp.where(known, stranger, 1.0), 0.0)
    ratio = ratio / jnp.maximum(jnp.max(ratio, axis=1, keepdims=True), 1.0)
    close, close_rows = _row_means(ratio, near & same)
    farthest = jnp.max(jnp.where(near & other, distances, 0.0))
    apart, apart_rows = _row_means(distances / jnp.maximum(farthest, LEAST), near & other)
    spread = jnp.where(jnp.any(apart_rows), _mean(apart, apart_rows), 1.0)
    nearness = 1 - _mean(close, close_rows)
    gamma = jnp.where(k_here < k, 1.0, _mean(jnp.sum(near & same, axis=1) / k, member))
    return -jnp.log(jnp.maximum(((nearness + spread) / 2 + gamma) / 2, 1e-6))


def _row_means(values: jax.Array, counted: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(mean of every row over what counts [A], whether anything does [A])."""
    number = jnp.sum(counted, axis=1)
    return jnp.sum(jnp.where(counted, values, 0.0), axis=1) / jnp.maximum(number, 1), number > 0
