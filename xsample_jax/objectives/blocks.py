"""The rows that an objective compares: blocks of embeddings with what is known about them, and selections of rows."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from xsample_jax.augment.ids import to_words
from xsample_jax.errors import ConfigError, DataError, lookup
from xsample_jax.models.heads import unit_rows
from xsample_jax.objectives.logits import all_products

# Blocks: the rows that an objective compares, with everything that is known about them.
#
# A block is a dict of arrays with one row per embedding: "z" [n, D] (unit rows, with gradient where there is one) and
# side information (graphs/sources.py). Blocks of a step: image (all views, row = image * V + view), local (small
# crops), predicted, text, teacher and text_teacher (EMA encoders), queue and text_queue (keys of past steps), neighbors
# (in the queue), prototypes, meta (means of their clusters), centers (of clusters), class_texts (by a head), bank (of
# all images), mixed and mixed_text (rows of two images), mixed_images and mixed_features (mixed before the encoder,
# before the head), frozen and frozen_queue (of a frozen teacher), slim (by the thin network).


Block = dict[str, jax.Array]

OF_HEAD = "head/"  # entries of a block: head/NAME, the outputs of a head; head/NAME/ENTRY, what belongs to it alone
OF_VIEWS = ("image", "teacher", "predicted", "neighbors", "mixed", "frozen", "slim")  # blocks with one row per view


@dataclasses.dataclass(frozen=True)
class Rows:
    """Which rows of a step: a block, or one view of it.

    Attributes:
      block: image, local, predicted, text, teacher, text_teacher, queue, text_queue, neighbors, prototypes, meta,
        centers, classes, class_texts, bank, mixed, mixed_text, mixed_images, mixed_features, frozen, frozen_queue,
        text_views, text_views_teacher, teacher_cells, teacher_words, hard_text, hard_text_teacher or slim.
      view: keep only this view of every image; None: all rows.
      beside: another selection with the same samples, put beside it: [n, 2 D] (the modalities of GRAM).
      times: another selection with the same samples: all products of the two, [n * n, D] (the keys of Symile).
      still: no gradient flows into these rows.
      without: keep all views but this one.
      part: only rows of this part of a batch by plan (data/plans.py): 0 kept, new or support, 1 to forget, rehearsed
        or query. The others remain, but are not keys and do not count as anchors.
      head: the outputs of this named head in place of the projection head's.
      raw: rows of any length, as the head gives them (feature terms only).
    """

    block: str = "image"
    view: int | None = None
    beside: "Rows | None" = None
    times: "Rows | None" = None
    still: bool = False
    without: int | None = None
    head: str | None = None
    raw: bool = False
    part: int | None = None


IMAGE, TEXT = Rows("image"), Rows("text")
VIEW_0, VIEW_1 = Rows("image", 0), Rows("image", 1)


def image_block(z: jax.Array, per_image: Mapping[str, jax.Array], views: int, first_row: int = 0, **per_row) -> Block:
    """The block of `views` embeddings per image. z [B * views, D]; per_image: side information [B, ...]."""
    side = {name: jnp.repeat(value, views, axis=0) for name, value in per_image.items()}
    rows = jnp.arange(len(z), dtype=jnp.int32)
    known = {"row": first_row + rows, "view": rows % views, "filled": jnp.ones(len(z), bool)}
    known |= {"id_words": to_words(side["id"])} if "id" in side else {}
    return {"z": z, "embedding": jax.lax.stop_gradient(z)} | known | side | per_row


def key_block(z: jax.Array, **side) -> Block:
    """Keys without an anchor row: queue entries, prototypes. Without an id they match nothing."""
    nothing = jnp.full(len(z), -1, jnp.int32)
    known = {"row": nothing, "view": nothing, "id": nothing, "filled": jnp.ones(len(z), bool)}
    known |= {"id_words": to_words(nothing)}
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
        if any(isinstance(block[entry], jax.core.Tracer) for entry in ("z", "filled")):
            continue
        length = np.linalg.norm(np.asarray(block["z"], np.float64), axis=-1)
        bad = np.flatnonzero(np.asarray(block["filled"]) & ~(np.abs(length - 1) < 1e-2))
        if bad.size:
            raise DataError(
                f"embeddings of block {name!r}",
                f"row {bad[0]} has length {length[bad[0]]:.4g}",
                "finite rows of length one",
                "Scale them with xsample_jax.models.heads.unit_rows.",
            )


def select(blocks: Mapping[str, Block], rows: Rows, images: int) -> Block:
    """The rows that `rows` names, of a step on `images` images.

    Raises ConfigError for a block or a view that this step does not have.
    """
    block = lookup(blocks, rows.block, "rows.block")
    views = len(block["z"]) // images
    for name in ("view", "without"):
        if getattr(rows, name) is not None and not 0 <= getattr(rows, name) < views:
            raise ConfigError(f"rows.{name}", getattr(rows, name), f"one of the {views} views of {rows.block}, from 0")
    if rows.head is not None:
        block = of_head(block, rows.head)
    if rows.raw:
        block = block | {"z": block["raw"]}
    if rows.view is not None:
        block = {name: value[rows.view :: views] for name, value in block.items()}
    if rows.without is not None:
        kept = np.flatnonzero(np.arange(images * views) % views != rows.without)
        block = {name: value[kept] for name, value in block.items()}
    if rows.beside is not None:
        other = select(blocks, rows.beside, images)
        block = block | {name: jnp.concatenate([block[name], other[name]], axis=1) for name in ("z", "embedding")}
        block |= {"row": jnp.full_like(block["row"], -1)}
    if rows.times is not None:
        other = select(blocks, rows.times, images)
        own = jnp.eye(images, dtype=bool)
        matched = jnp.where(own, block["id"][:, None], -1).reshape(-1)
        words = jnp.where(own[..., None], block["id_words"][:, None], to_words(jnp.full(1, -1))).reshape(-1, 2)
        block = key_block(all_products(block["z"], other["z"]), id=matched, id_words=words)
    if rows.part is not None:
        block = block | {"filled": block["filled"] & (block["part"] == rows.part)}
    if rows.still:
        block = block | {name: jax.lax.stop_gradient(block[name]) for name in ("z", "raw") if name in block}
    return block


def of_head(block: Block, head: str) -> Block:
    """The block with the outputs of a named head as its rows, and what belongs to that head as its side information."""
    raw = lookup(block, OF_HEAD + head, "rows.head")
    mine = f"{OF_HEAD}{head}/"
    own = {name.removeprefix(mine): value for name, value in block.items() if name.startswith(mine)}
    z = unit_rows(raw)
    return block | own | {"raw": raw, "z": z, "embedding": jax.lax.stop_gradient(z)}


def concatenate(parts: list[Block]) -> Block:
    """Several blocks as one: the keys of MoCo are the teacher's rows and the queue. Keeps what all of them have."""
    if len(parts) == 1:
        return parts[0]
    names = set.intersection(*(set(part) for part in parts))
    return {name: jnp.concatenate([part[name] for part in parts]) for name in sorted(names)}
