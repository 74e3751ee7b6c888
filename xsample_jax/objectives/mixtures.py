"""Rows of two images: embeddings mixed with each other (M3CoL), and images or features mixed (Metrix)."""

from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from xsample_jax.augment.ids import fold_in_id
from xsample_jax.graphs.sources import label
from xsample_jax.models.heads import products, unit_rows
from xsample_jax.objectives.blocks import Block, Rows, image_block
from xsample_jax.objectives.side_information import OF_CLASSES

# Embeddings mixed with those of another image: the blocks `mixed` and `mixed_text` (M3CoL, arXiv 2409.17777).
#
# A mixed row is beta x_i + (1 - beta) x_j, of unit length, j another image of the batch. It is compared with the rows
# of the other modality, which are not mixed; the graph sources mixed and mixed_keys say how much of i and of j it
# should be.


MIXED_OF = {"mixed": "image", "mixed_text": "text"}  # block: what is mixed in it
MIXTURES = 2**20 + 2  # folded into the key of the step
# As in the published code: half of the rows are mixed, and beta ~ Beta(0.15, 0.15) is mostly near 0 or 1.
SHARE_MIXED, CONCENTRATION = 0.5, 0.15
LEAST = 1e-6  # a row keeps some of its own image, so that the transposed target has no empty row


def mixed_blocks(blocks: Mapping[str, Block], wanted: Iterable[Rows], key: jax.Array, images: int) -> dict[str, Block]:
    """Those of the two mixed blocks that `wanted` selects from, for a batch of `images`; key: of the step."""
    found, names, last = {}, {rows.block for rows in wanted}, len(blocks["image"]["z"])
    for number, (name, of) in enumerate(MIXED_OF.items()):
        if name in names:
            ids = blocks[of]["id_words"][:: len(blocks[of]["z"]) // images]
            drawn = draw_mixtures(jax.random.fold_in(key, MIXTURES + number), ids)
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


# Images mixed with those of another class: the blocks `mixed_images`, mixed before the encoder, and `mixed_features`,
# mixed before the head (Metrix, arXiv 2106.04990).
#
# The last view of every image is mixed with that of the most similar image of another class, lam x_i + (1 - lam) x_j
# with lam ~ Beta(2, 2), and goes through what follows in a pass of its own, with batch norms of its own batch. The
# running statistics stay those of images that are not mixed, as evaluation shows no others. The features of a ResNet
# are the mean of its last map, so that to mix them is to mix the maps.


def mixed_images(image: Block, wanted: Iterable[Rows], network: nnx.Module, inputs) -> dict[str, Block]:
    """The blocks OF_CLASSES that `wanted` selects from; image: that of the views; inputs: StepInputs."""
    names = {rows.block for rows in wanted} & set(OF_CLASSES)
    if not names:
        return {}
    views = len(inputs.images) // len(inputs.batch["id"])
    one = {name: image[name][views - 1 :: views] for name in ("id", "id_words", "label", "embedding")}
    partner, beta = hard_partners(jax.random.fold_in(inputs.key, MIXTURES + len(MIXED_OF)), one)

    def mixed(values):
        last = values[views - 1 :: views]
        share = beta.reshape(-1, *[1] * (last.ndim - 1))
        return share * last + (1 - share) * last[partner]

    still = nnx.clone(network)
    raw = {"mixed_images": lambda: still.project(mixed(inputs.images))[1]}
    raw["mixed_features"] = lambda: still.head(mixed(inputs.features))
    first = {"mixed_images": 11 * len(inputs.images), "mixed_features": 14 * len(inputs.images)}
    return {name: block_of_mixed(unit_rows(raw[name]()), one, partner, beta, first[name]) for name in sorted(names)}


def hard_partners(key: jax.Array, one: Block) -> tuple[jax.Array, jax.Array]:
    """(place int [B] of the most similar image of another class, lam float32 [B]); lam is 1 where there is none.

    one: one row of every image, with its id, label and embedding. An image without a class is one of its own.
    """
    near = products(one["embedding"], one["embedding"])
    near = jnp.where(label(one, one) > 0, -jnp.inf, near)
    lam = jax.vmap(lambda image: jax.random.beta(fold_in_id(key, image), 2.0, 2.0))(one["id_words"])
    return jnp.argmax(near, axis=1), jnp.where(jnp.any(near > -jnp.inf, axis=1), lam, 1.0)


def block_of_mixed(z: jax.Array, one: Block, partner: jax.Array, beta: jax.Array, first_row: int) -> Block:
    """The block of embeddings z [B, D] of mixed images, which know both images, both classes and the share."""
    side = {name: one[name] for name in ("id", "id_words")} | {"first": one["id"], "first_label": one["label"]}
    side |= {"partner": one["id"][partner], "partner_label": one["label"][partner], "beta": beta}
    return image_block(z, side, 1, first_row)
