"""Embeddings mixed with those of another image: the blocks `mixed` and `mixed_text` (M3CoL, arXiv 2409.17777).

A mixed row is beta x_i + (1 - beta) x_j, of unit length, j another image of the batch. It is compared with the rows of
the other modality, which are not mixed; the graph sources mixed and mixed_keys say how much of i and of j it should be.
"""

from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp

from xsample_jax.augment.ids import fold_in_id
from xsample_jax.objectives.blocks import Block, Rows, image_block
from xsample_jax.ops import unit_rows

OF = {"mixed": "image", "mixed_text": "text"}  # block: what is mixed in it
DRAW = 2**20 + 2  # folded into the key of the step
# As in the published code: half of the rows are mixed, and beta ~ Beta(0.15, 0.15) is mostly near 0 or 1.
SHARE_MIXED, CONCENTRATION = 0.5, 0.15
LEAST = 1e-6  # a row keeps some of its own image, so that the transposed target has no empty row


def mixed_blocks(blocks: Mapping[str, Block], wanted: Iterable[Rows], key: jax.Array, images: int) -> dict[str, Block]:
    """Those of the two mixed blocks that `wanted` selects from, for a batch of `images`; key: of the step."""
    found, names, last = {}, {rows.block for rows in wanted}, len(blocks["image"]["z"])
    for number, (name, of) in enumerate(OF.items()):
        if name in names:
            ids = blocks[of]["id_words"][:: len(blocks[of]["z"]) // images]
            drawn = draw_mixtures(jax.random.fold_in(key, DRAW + number), ids)
            found[name] = mixed_block(blocks[of], *drawn, (7 + number) * last)
    return found


def draw_mixtures(key: jax.Array, ids: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(place of the partner of every image int [B], beta float32 [B]); beta is 1 for images that are not mixed.

    Partners follow each other in an order drawn from the key and the ids, so that every image is the partner of one
    other, whatever the order of the batch.
    """

    def draw(id):
        for_order, for_choice, for_beta = jax.random.split(fold_in_id(key, id), 3)
        beta = jax.random.beta(for_beta, CONCENTRATION, CONCENTRATION)
        mixed = jax.random.uniform(for_choice) < SHARE_MIXED
        return jax.random.uniform(for_order), jnp.where(mixed, jnp.clip(beta, LEAST, 1.0), 1.0)

    place, beta = jax.vmap(draw)(ids)
    order = jnp.argsort(place)
    return jnp.zeros_like(order).at[order].set(jnp.roll(order, -1)), beta


def mixed_block(block: Block, partner: jax.Array, beta: jax.Array, first_row: int) -> Block:
    """The rows of a block of the batch's images [B * V, D], each mixed with the same view of its partner.

    partner: int [B], places in the batch; beta [B]. Side information: first and partner, the ids of both images, and
    beta. Gradient flows into both rows.
    """
    images = len(partner)
    z = block["z"].reshape(images, -1, block["z"].shape[-1])
    views = z.shape[1]
    share = beta[:, None, None]
    mixed = unit_rows(share * z + (1 - share) * z[partner]).reshape(block["z"].shape)
    ids = block["id"][::views]
    side = {"id": ids, "id_words": block["id_words"][::views], "first": ids, "partner": ids[partner], "beta": beta}
    return image_block(mixed, side, views, first_row)
