"""Blocks: the rows that an objective compares, with everything that is known about them.

A block is a dict of arrays with one row per embedding: "z" [n, D] (unit rows, with gradient where there is one) and
side information (graphs/sources.py). Blocks of a step: image (all views, row = image * V + view), local (small crops),
predicted, text, teacher (EMA encoder), queue (keys of past steps), neighbours (in the queue), prototypes.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from xsample_jax.errors import ConfigError, DataError, lookup
from xsample_jax.objectives.similarity import all_products

Block = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Rows:
    """Which rows of a step: a block, or one view of it.

    Attributes:
      block: image, local, predicted, text, teacher, queue, neighbours or prototypes.
      view: keep only this view of every image; None: all rows.
      beside: another selection with the same samples, put beside it: [n, 2 D] (the modalities of GRAM).
      times: another selection with the same samples: all products of the two, [n * n, D] (the keys of Symile).
    """

    block: str = "image"
    view: int | None = None
    beside: "Rows | None" = None
    times: "Rows | None" = None


IMAGE, TEXT = Rows("image"), Rows("text")


def image_block(z: jax.Array, per_image: Mapping[str, jax.Array], views: int, first_row: int = 0, **per_row) -> Block:
    """The block of `views` embeddings per image. z [B * views, D]; per_image: side information [B, ...]."""
    side = {name: jnp.repeat(value, views, axis=0) for name, value in per_image.items()}
    rows = jnp.arange(len(z), dtype=jnp.int32)
    known = {"row": first_row + rows, "view": rows % views, "filled": jnp.ones(len(z), bool)}
    return {"z": z, "embedding": jax.lax.stop_gradient(z)} | known | side | per_row


def key_block(z: jax.Array, **side) -> Block:
    """Keys that are nobody's own row: queue entries, prototypes. Without an id they equal nothing."""
    nothing = jnp.full(len(z), -1, jnp.int32)
    known = {"row": nothing, "view": nothing, "id": nothing, "filled": jnp.ones(len(z), bool)}
    return {"z": z, "embedding": jax.lax.stop_gradient(z)} | known | side


def other_view(z: jax.Array, views: int) -> jax.Array:
    """The next view of the same image for every row, without gradient. [B * V, D] -> [B * V, D]."""
    by_image = z.reshape(-1, views, z.shape[-1])
    return jax.lax.stop_gradient(jnp.roll(by_image, -1, axis=1).reshape(z.shape))


def check_unit_rows(blocks: Mapping[str, Block]) -> None:
    """Raises DataError where an embedding is not finite or not of length one.

    Looks at values, so it is silent on traced arrays: inside a compiled step the model scales its rows itself.
    """
    for name, block in blocks.items():
        if isinstance(block["z"], jax.core.Tracer):
            continue
        length = np.linalg.norm(np.asarray(block["z"], np.float64), axis=-1)
        bad = np.flatnonzero(np.asarray(block["filled"]) & ~(np.abs(length - 1) < 1e-2))
        if bad.size:
            raise DataError(
                f"embeddings of block {name!r}",
                f"row {bad[0]} has length {length[bad[0]]:.4g}",
                "finite rows of length one",
                "Scale them with xsample_jax.rows.unit_rows.",
            )


def select(blocks: Mapping[str, Block], rows: Rows, images: int) -> Block:
    """The rows that `rows` names, of a step on `images` images.

    Raises ConfigError for a block or a view that this step does not have.
    """
    block = lookup(blocks, rows.block, "rows.block")
    if rows.view is not None:
        views = len(block["z"]) // images
        if not 0 <= rows.view < views:
            raise ConfigError("rows.view", rows.view, f"one of the {views} views of {rows.block}, from 0")
        block = {name: value[rows.view :: views] for name, value in block.items()}
    if rows.beside is not None:
        other = select(blocks, rows.beside, images)
        block = block | {name: jnp.concatenate([block[name], other[name]], axis=1) for name in ("z", "embedding")}
        block |= {"row": jnp.full_like(block["row"], -1)}
    if rows.times is not None:
        other = select(blocks, rows.times, images)
        matched = jnp.where(jnp.eye(images, dtype=bool), block["id"][:, None], -1).reshape(-1)
        block = key_block(all_products(block["z"], other["z"]), id=matched)
    return block


def concatenate(parts: list[Block]) -> Block:
    """Several blocks as one: the keys of MoCo are the teacher's rows and the queue. Keeps what all of them have."""
    if len(parts) == 1:
        return parts[0]
    names = set.intersection(*(set(part) for part in parts))
    return {name: jnp.concatenate([part[name] for part in parts]) for name in sorted(names)}
