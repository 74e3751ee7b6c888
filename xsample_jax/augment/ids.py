"""Ids of images on the device: whole numbers of 63 bits as two int32 words, as jax has no 64-bit numbers by default.

What prepares images on a host imports this file too, and starts seconds sooner without jax.

A batch has `id` int32 [B] where all ids of its dataset are below 2**31, and int32 [B, 2] where they are not: the lower
31 bits, and the 32 bits above them. An id below 2**31 gives the same random numbers in both forms, so that a dataset
that grows beyond 2**31 ids keeps the views of its first images.

Inside a step (`with_numbers`) `id` is always int32 [B], for comparisons, and `id_words` are the keys of random numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from xsample_jax.errors import DataError

if TYPE_CHECKING:
    import jax

VECTOR_CHANNELS = 2  # bytes of a float16, in the place of colors; images have 3 or 4
MAX_ID = 2**63 - 1
NARROW = 2**31  # ids below it are one word
LARGE = np.uint32(2**32 - 1)  # -1, which no image has: what is drawn for ids of two words begins here


def id_entry(id: int, wide: bool) -> np.ndarray:
    """The `id` of a batch for one record: int32 [] or, where `wide`, [2]. DataError for one that does not fit."""
    if not wide:
        if id >= NARROW:
            fix = "Write the dataset again: its manifest does not say that it has larger ones."
            raise DataError("id of a record", id, f"at most {NARROW - 1}", fix)
        return np.int32(id)
    return np.array([id % NARROW, id // NARROW], np.int64).astype(np.uint32).view(np.int32)


def ids_of(entry: np.ndarray) -> np.ndarray:
    """The ids [n] that the `id` of a batch [n] or [n, 2] stands for; int64 where they are wide."""
    entry = np.asarray(entry)
    if entry.ndim == 1:
        return entry
    words = np.ascontiguousarray(entry, np.int32).view(np.uint32).astype(np.int64)
    return words[:, 0] + words[:, 1] * NARROW


def to_words(id: jax.Array) -> jax.Array:
    """int32 [n] or [n, 2] -> [n, 2]."""
    import jax.numpy as jnp

    return id if id.ndim == 2 else jnp.stack([id, jnp.zeros_like(id)], axis=1)


def fold_in_id(key: jax.Array, id: jax.Array) -> jax.Array:
    """The random key of an image: of `key` and its id, int [] or [2]."""
    import jax
    import jax.numpy as jnp

    if id.ndim == 0:
        return jax.random.fold_in(key, id)
    low, high = id[0], id[1]
    of_large = jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(key, LARGE), high), low)
    return jnp.where(high == 0, jax.random.fold_in(key, low), of_large)


def row_keys(key: jax.Array, ids: jax.Array, copies: jax.Array, views: int) -> jax.Array:
    """The random keys [B * views] of the views of a batch, row = image * views + view.

    Each is a function of `key`, the id, the copy (copies_of) and the view. ids: int [B] or [B, 2]; copies: int [B].
    """
    import jax
    import jax.numpy as jnp

    def one(image, copy, view):
        return jax.random.fold_in(fold_in_id(key, image), view + views * copy)

    return jax.vmap(jax.vmap(one, (None, None, 0)), (0, 0, None))(ids, copies, jnp.arange(views)).reshape(-1)


def words_of(side: Mapping[str, jax.Array]) -> jax.Array:
    """What keys of random numbers are made of, for rows of a batch or a block: int32 [n] or [n, 2]."""
    return side["id_words"] if "id_words" in side else side["id"]


def with_numbers(batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """The batch with ids of one word; itself where they are.

    Ids of two words become `id_words`, and `id` becomes the place in the batch of the first row with the same one,
    int32 [B]: equal where the ids are, and no wider for all that compares pairs of rows.
    """
    import jax
    import jax.numpy as jnp

    words = batch["id"]
    if words.ndim == 1:
        return dict(batch)
    place = jnp.arange(len(words), dtype=jnp.int32)
    high, low, order = jax.lax.sort((words[:, 1], words[:, 0], place), num_keys=2, is_stable=True)
    new = (high != jnp.roll(high, 1)) | (low != jnp.roll(low, 1)) | (place == 0)
    first = order[jax.lax.cummax(jnp.where(new, place, 0))]
    return {**batch, "id": jnp.zeros_like(place).at[order].set(first), "id_words": words}


def copies_of(ids: jax.Array) -> jax.Array:
    """How many earlier rows of the batch have the id of a row: 0 for the first, 1, 2, ... int32 [B]."""
    import jax.numpy as jnp

    order = jnp.argsort(ids, stable=True)
    sorted_ids = ids[order]
    since_first = jnp.arange(len(ids)) - jnp.searchsorted(sorted_ids, sorted_ids, method="sort")
    return jnp.zeros(len(ids), jnp.int32).at[order].set(since_first.astype(jnp.int32))
