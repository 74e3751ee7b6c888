"""Rows of two images: embeddings mixed with each other (M3CoL), and images or features mixed (Metrix, i-Mix)."""

from collections.abc import Iterable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from xsample_jax.augment.ids import fold_in_id
from xsample_jax.graphs.sources import label
from xsample_jax.models.heads import products, unit_rows
from xsample_jax.objectives.blocks import Block, Rows, image_block
from xsample_jax.objectives.side_information import OF_PAIRS
from xsample_jax.registry import resolve

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
    return next_in_order(place), beta


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


# Images mixed before the encoder, or their features before the head: the blocks `mixed_images` and `mixed_features`.
#
# The last view of every image is mixed with that of another image of the batch, as `Objective.mixing` says, and goes
# through what follows in a pass of its own, with batch norms of its own batch. The running statistics stay those of
# images that are not mixed, as evaluation shows no others. The features of a ResNet are the mean of its last map, so
# that to mix them is to mix the maps.


def mixed_images(image: Block, objective, network: nnx.Module, inputs) -> dict[str, Block]:
    """The blocks OF_PAIRS that the objective selects from; image: that of the views; inputs: StepInputs."""
    names = {rows.block for rows in objective.rows} & set(OF_PAIRS)
    if not names:
        return {}
    views = len(inputs.images) // len(inputs.batch["id"])
    one = {name: image[name][views - 1 :: views] for name in ("id", "id_words", "label", "embedding") if name in image}
    key = jax.random.fold_in(inputs.key, MIXTURES + len(MIXED_OF))
    mix = partial(resolve(MIXINGS, objective.mixing, "mixing"), key)
    still, found = nnx.clone(network), {}
    for name in sorted(names):
        whole = name == "mixed_images"
        made, partner, beta = mix(one, (inputs.images if whole else inputs.features)[views - 1 :: views])
        raw = still.project(made)[1] if whole else still.head(made)
        first = (11 if whole else 14) * len(inputs.images)
        found[name] = block_of_mixed(unit_rows(raw), one, partner, beta, first)
    return found


# f(random key, one row of every image, its pixels [B, ...], **options) -> (mixed pixels, place of the partner of every
# image int [B], share of its own float32 [B]).


def hard_partners(key: jax.Array, one: Block, pixels: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """lam x_i + (1 - lam) x_j, lam ~ Beta(2, 2), j the most similar image of another class (Metrix, arXiv 2106.04990).

    An image without a class is one of its own. lam is 1 where there is no other class.
    """
    near = products(one["embedding"], one["embedding"])
    near = jnp.where(label(one, one) > 0, -jnp.inf, near)
    lam = jax.vmap(lambda image: jax.random.beta(fold_in_id(key, image), 2.0, 2.0))(one["id_words"])
    lam = jnp.where(jnp.any(near > -jnp.inf, axis=1), lam, 1.0)
    partner = jnp.argmax(near, axis=1)
    return blended(pixels, partner, lam), partner, lam


def mixup(
    key: jax.Array, one: Block, pixels: jax.Array, *, concentration: float = 1.0
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """lam x_i + (1 - lam) x_j of random pairs, lam the larger share of a draw from Beta(concentration, concentration).

    mixup (arXiv 1710.09412), with the larger share as in i-Mix (arXiv 2010.08887).
    """
    partner, lam, _ = random_partners(key, one["id_words"], concentration)
    return blended(pixels, partner, lam), partner, lam


def cutmix(
    key: jax.Array, one: Block, pixels: jax.Array, *, concentration: float = 1.0
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """x_i with a box of x_j, of random pairs (CutMix, arXiv 1905.04899): the share is that of the pixels of x_i.

    The box has sqrt(1 - lam) of both sides, lam as in `mixup`, its middle is a random pixel, and what leaves the image
    is cut off. pixels [B, H, W, C]; of vectors [B, D] it is a stretch.
    """
    partner, lam, middle = random_partners(key, one["id_words"], concentration)
    inside = jnp.ones((len(pixels), *[1] * (pixels.ndim - 1)), bool)
    sides = pixels.shape[1:3]
    for axis, size in enumerate(sides):
        length = jnp.floor(size * (1 - lam) ** (1 / len(sides))).astype(jnp.int32)
        first = jnp.floor(size * middle[:, axis]).astype(jnp.int32) - length // 2
        place = jnp.arange(size)
        within = (place >= first[:, None]) & (place < (first + length)[:, None])
        inside &= jnp.expand_dims(within, [other + 1 for other in range(pixels.ndim - 1) if other != axis])
    share = 1 - jnp.mean(inside.reshape(len(pixels), -1), axis=1)
    return jnp.where(inside, pixels[partner], pixels), partner, share


MIXINGS = {function.__name__: function for function in (hard_partners, mixup, cutmix)}


def random_partners(key: jax.Array, ids: jax.Array, concentration: float) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(partner int [B], larger share float32 [B], two uniform numbers [B, 2]), whatever the order of the batch."""

    def draw(id):
        for_order, for_share, for_place = jax.random.split(fold_in_id(key, id), 3)
        lam = jax.random.beta(for_share, concentration, concentration)
        return jax.random.uniform(for_order), jnp.maximum(lam, 1 - lam), jax.random.uniform(for_place, (2,))

    place, lam, middle = jax.vmap(draw)(ids)
    return next_in_order(place), lam, middle


def next_in_order(place: jax.Array) -> jax.Array:
    """The image that follows every image in the order of `place` [B], int [B]: each is the partner of one other."""
    order = jnp.argsort(place)
    return jnp.zeros_like(order).at[order].set(jnp.roll(order, -1))


def blended(pixels: jax.Array, partner: jax.Array, share: jax.Array) -> jax.Array:
    """share x_i + (1 - share) x_partner; pixels [B, ...]."""
    share = share.reshape(-1, *[1] * (pixels.ndim - 1))
    return share * pixels + (1 - share) * pixels[partner]


def block_of_mixed(z: jax.Array, one: Block, partner: jax.Array, beta: jax.Array, first_row: int) -> Block:
    """The block of embeddings z [B, D] of mixed images, which know both images, both classes and the share."""
    side = {name: one[name] for name in ("id", "id_words")} | {"first": one["id"], "partner": one["id"][partner]}
    if "label" in one:
        side |= {"first_label": one["label"], "partner_label": one["label"][partner]}
    return image_block(z, side | {"beta": beta}, 1, first_row)
