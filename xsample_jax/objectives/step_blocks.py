"""From a batch to the blocks that an objective compares: one encoder call for all views, and whatever else it needs."""

import dataclasses
from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from xsample_jax.augment.ids import fold_in_id, words_of
from xsample_jax.graphs.sources import label
from xsample_jax.models.heads import products, unit_rows
from xsample_jax.models.resnet import StyleNoise
from xsample_jax.models.towers import END, PADDING
from xsample_jax.objectives.blocks import OF_HEAD, Block, Rows, image_block, key_block, other_view
from xsample_jax.objectives.learned_state import (
    classes_of,
    gate_of,
    nearest,
    prototype_block,
    queue_blocks,
    second_classes,
    temperature_of_head,
)
from xsample_jax.objectives.objective import Objective
from xsample_jax.objectives.pair_network import pair_entries
from xsample_jax.objectives.side_information import BY_RECORD

# Entries of a batch that graphs read, one row per image.
SIDE_INFORMATION = (
    *("id", "id_words", "index", "label", "path", "caption_embedding", "class_embedding", "part"),
    *BY_RECORD,
)


@dataclasses.dataclass(frozen=True)
class StepInputs:
    """What the blocks of a step are made of.

    Attributes:
      images: views [B * V, S, S, 3]; local: small crops [B * L, s, s, 3] or None.
      batch: the batch of the host, one row per image.
      memory: what the objective remembers (objectives/learned_state.py).
      teacher: embeddings of the EMA encoder: image [B * V, D], and text [B, D] where there is a text side.
      frozen: features [B * V, F] of the frozen teacher, and the means of the images' classes [B, F] where a term reads
        them.
      boxes: of the views in their images [B * V, 4] (view_boxes), or None.
      progress: share of the run that is over. key: random key of the step.
      keep: the patches of each view that the encoder reads, int [B * V, kept]; None: all.
      slim: head outputs of the views by the thin network [B * V, D], or None.
      style: noise of the styles of the views (models/resnet.py); None: none.
    """

    images: jax.Array
    local: jax.Array | None
    batch: Mapping[str, jax.Array]
    memory: Mapping[str, jax.Array]
    progress: jax.Array
    key: jax.Array
    teacher: Mapping[str, jax.Array] = dataclasses.field(default_factory=dict)
    frozen: Mapping[str, jax.Array] = dataclasses.field(default_factory=dict)
    boxes: jax.Array | None = None
    keep: jax.Array | None = None
    style: StyleNoise | None = None
    slim: jax.Array | None = None


def step_blocks(
    objective: Objective,
    network: nnx.Module,
    params: Mapping[str, jax.Array],
    inputs: StepInputs,
    raw: jax.Array,
    named: Mapping[str, jax.Array],
) -> dict[str, Block]:
    """The blocks of a step by name (objectives/terms.py).

    raw [B * V, D]: outputs of the projection head on the views, of any length; named: those of the named heads.
    """
    z = unit_rows(raw)
    per_image = {name: inputs.batch[name] for name in SIDE_INFORMATION if name in inputs.batch}
    images = len(per_image["id"])
    views = len(z) // images
    text = network.embed_text(inputs.batch) if objective.text is not None else None
    if objective.gate:
        # Every image is compared in its own class and in that of another image of the batch.
        second = second_classes(inputs.key, words_of(per_image), per_image["label"])
        per_image |= {"second_label": second, "gate": gate_of(params, per_image["label"], second)}
    if text is not None:
        mean = jax.lax.stop_gradient(z).reshape(images, views, -1).mean(axis=1)
        per_image |= {"text": jax.lax.stop_gradient(text), "image": mean}
    of_view = {f"view_{view}": jax.lax.stop_gradient(z[view::views]) for view in range(views)}
    teacher = inputs.teacher
    other = {"other_view": other_view(z, views)} | ({"raw": raw} if objective.raw else {})
    other |= head_entries(objective, params, named, z, images) | _boxes(inputs)
    if teacher:
        other |= {"teacher": other_view(teacher["image"], views)}
        if "same_view_teacher" in objective.reads:
            other |= {"same_view_teacher": teacher["image"]}
    if inputs.frozen:
        unit = unit_rows(inputs.frozen["features"])
        other |= {"frozen": unit, "frozen_features": inputs.frozen["features"]}
        per_image |= {"class_center": inputs.frozen["means"]} if "means" in inputs.frozen else {}
    blocks = {"image": image_block(z, per_image | of_view, views, 0, **other)}
    if inputs.frozen:
        of_frozen = {"frozen": unit, "frozen_features": inputs.frozen["features"]}
        blocks["frozen"] = image_block(unit, per_image, views, 9 * len(z), **of_frozen)
    blocks |= _slim_block(inputs, per_image, views)
    blocks |= _text_and_teacher(objective, network, params, inputs, per_image, text)
    if objective.queue:
        blocks |= queue_blocks(objective, inputs.memory)
        if any(rows.block == "neighbors" for rows in objective.rows):
            blocks["neighbors"] = image_block(nearest(inputs.memory, z), per_image, views, 5 * len(z))
    if objective.prototypes:
        blocks["prototypes"] = prototype_block(params)
    if objective.classes:
        blocks["classes"] = classes_of(params)
    if objective.local_views:
        features, local = network.project(inputs.local)
        own = head_entries(objective, params, network.project_named("image", features), None, images)
        per_crop = per_image | of_view
        blocks["local"] = image_block(unit_rows(local), per_crop, len(local) // images, 3 * len(z), **own)
    blocks |= mixed_blocks(blocks, objective.rows, inputs.key, images)
    blocks |= mixed_images(blocks["image"], objective.rows, network, inputs)
    if objective.predictor:
        blocks["predicted"] = image_block(network.predict(z), per_image, views, 4 * len(z))
    return blocks


def head_entries(
    objective: Objective,
    params: Mapping[str, jax.Array],
    named: Mapping[str, jax.Array],
    z: jax.Array | None,
    images: int,
) -> dict[str, jax.Array]:
    """Entries of a block for the named heads whose outputs are `named`, and for a network of pairs of rows z."""
    found = {}
    for name, raw in named.items():
        entry = OF_HEAD + name
        found[entry] = raw
        temperature = objective.heads[name].temperature
        if temperature is not None:
            of = temperature if isinstance(temperature, str) else name
            found[f"{entry}/head_temperature"] = jnp.broadcast_to(temperature_of_head(params, of), (len(raw),))
        found |= {f"{entry}/{view}": rows for view, rows in _views_of(objective, raw, images).items()}
        if objective.pair_network is not None:
            found |= {f"{entry}/{part}": rows for part, rows in pair_entries(params, unit_rows(raw)).items()}
    if objective.pair_network is not None and z is not None:
        found |= pair_entries(params, z)
    return found


def _slim_block(inputs: StepInputs, per_image: Mapping[str, jax.Array], views: int) -> dict[str, Block]:
    """The block of the thin network's rows, where there is one."""
    if inputs.slim is None:
        return {}
    return {"slim": image_block(unit_rows(inputs.slim), per_image, views, 12 * len(inputs.slim), raw=inputs.slim)}


def _boxes(inputs: StepInputs) -> dict[str, jax.Array]:
    return {} if inputs.boxes is None else {"crop": inputs.boxes}


def _views_of(objective: Objective, raw: jax.Array, images: int) -> dict[str, jax.Array]:
    """The single views of every image [n, D], without gradient, which a graph reads of a head's outputs [n, D]."""
    z, views = jax.lax.stop_gradient(unit_rows(raw)), len(raw) // images
    names = {f"view_{view}": view for view in range(views)}
    return {name: jnp.repeat(z[view::views], views, axis=0) for name, view in names.items() if name in objective.reads}


def _text_and_teacher(
    objective: Objective,
    network: nnx.Module,
    params: Mapping[str, jax.Array],
    inputs: StepInputs,
    per_image: Mapping[str, jax.Array],
    text: jax.Array | None,
) -> dict[str, Block]:
    """The blocks of texts, and those of the EMA encoders, of a step that has them. text [B, D]: unit rows, or None."""
    teacher, blocks, images = inputs.teacher, {}, len(per_image["id"])
    rows = len(inputs.images)

    def entries(named, z=None):
        return head_entries(objective, params, named, z, images)

    if text is not None:
        own = {"teacher": teacher["text"]} if teacher else {}
        named = network.project_named("text", network.text_features(inputs.batch)) if objective.heads else {}
        blocks["text"] = image_block(text, per_image, 1, rows, **own, **entries(named, text))
    if objective.text_views:
        versions = view_batch(inputs.batch, inputs.key, objective.text_views)
        named = network.project_named("text", network.text_features(versions))
        z = network.embed_text(versions)
        blocks["text_views"] = image_block(z, per_image, objective.text_views, 10 * rows, **entries(named, z))
    if objective.hard_texts:
        wrong, there = hard_batch(inputs.batch, inputs.key, objective.hard_texts)
        blocks["hard_text"] = hard_block(network.embed_text(wrong), per_image["id"], there)
        blocks["text"]["owner"] = per_image["id"]
    if teacher:
        own = {"teacher": teacher["image"], **entries(teacher.get("image_heads", {})), **_boxes(inputs)}
        blocks["teacher"] = image_block(teacher["image"], per_image, rows // images, 2 * rows, **own)
    if teacher and text is not None:
        own = {"teacher": teacher["text"], **entries(teacher.get("text_heads", {}))}
        blocks["text_teacher"] = image_block(teacher["text"], per_image, 1, 6 * rows, **own)
    if teacher and objective.hard_texts:
        blocks["hard_text_teacher"] = hard_block(teacher["hard_text"], per_image["id"], there)
        blocks["text_teacher"]["owner"] = per_image["id"]
    if "cells" in teacher:
        z, cells = teacher["cells"], len(teacher["cells"]) // images
        blocks["teacher_cells"] = image_block(z, per_image, cells, 16 * rows)
    if "words" in teacher:
        z, there = teacher["words"]
        own = {"filled": there.reshape(-1)}
        words = image_block(z.reshape(-1, z.shape[-1]), per_image, z.shape[1], 64 * rows)
        blocks["teacher_words"] = words | own
    if teacher and objective.text_views:
        z, own = teacher["text_views"], entries(teacher.get("text_views_heads", {}))
        blocks["text_views_teacher"] = image_block(z, per_image, objective.text_views, 13 * rows, **own)
    return blocks


# Images mixed with those of another class before the encoder: the block `mixed_images` (Metrix, arXiv 2106.04990).
#
# The last view of every image is mixed with that of the most similar image of another class, lam x_i + (1 - lam) x_j
# with lam ~ Beta(2, 2), and goes through encoder and head in a pass of its own, with batch norms of its own batch. The
# running statistics stay those of images that are not mixed, as evaluation shows no others.


def mixed_images(image: Block, wanted: Iterable[Rows], network: nnx.Module, inputs: StepInputs) -> dict[str, Block]:
    """The block mixed_images, if `wanted` selects from it; image: that of the views."""
    if "mixed_images" not in {rows.block for rows in wanted}:
        return {}
    views = len(inputs.images) // len(inputs.batch["id"])
    one = {name: image[name][views - 1 :: views] for name in ("id", "id_words", "label", "embedding")}
    partner, beta = hard_partners(jax.random.fold_in(inputs.key, MIXTURES + len(MIXED_OF)), one)
    pixels = inputs.images[views - 1 :: views]
    share = beta.reshape(-1, *[1] * (pixels.ndim - 1))
    _, raw = nnx.clone(network).project(share * pixels + (1 - share) * pixels[partner])
    return {"mixed_images": block_of_mixed(unit_rows(raw), one, partner, beta, 11 * len(inputs.images))}


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


# Several versions of every caption, each without some of its words: the block text_views, row = image * T + view.


START = 1  # id of data/captions.py
VERSIONS = 2**20 + 4  # folded into the key of the step
DROPPED = 0.2  # share of the tokens that a version lacks


def view_batch(batch: Mapping[str, jax.Array], key: jax.Array, views: int) -> dict[str, jax.Array]:
    """The batch with `views` rows for each of its rows, of which caption_tokens [B, L] lack some words each."""
    tokens = drop_tokens(batch["caption_tokens"], words_of(batch), jax.random.fold_in(key, VERSIONS), views)
    texts = ("caption_tokens", "text")  # what a text side reads
    found = {name: jnp.repeat(value, views, axis=0) for name, value in batch.items() if name in texts}
    return found | {"caption_tokens": tokens}


def drop_tokens(tokens: jax.Array, image: jax.Array, key: jax.Array, views: int, share: float = DROPPED) -> jax.Array:
    """int [B, L] -> [B * views, L]: every token between start and end is padding with the chance `share`.

    A text that would lose all of them keeps them. The draws are those of the image and the view, wherever in the batch.
    """

    def of_image(row, number):
        keys = jax.vmap(lambda view: jax.random.fold_in(fold_in_id(key, number), view))(jnp.arange(views))
        drawn = jax.vmap(lambda one: jax.random.uniform(one, row.shape))(keys)
        word = (row != PADDING) & (row != START) & (row != END)
        gone = word & (drawn < share)
        gone &= jnp.any(word & ~gone, axis=1, keepdims=True)
        return jnp.where(gone, PADDING, row)

    return jax.vmap(of_image)(tokens, image).reshape(-1, tokens.shape[1])


def hard_block(z: jax.Array, image: jax.Array, there: jax.Array) -> Block:
    """Wrong captions z [B * H, D] as keys that are no image's own and belong to one; there: those that there are."""
    return key_block(z, owner=jnp.repeat(image, len(z) // len(image))) | {"filled": there}


def hard_batch(batch: Mapping[str, jax.Array], key: jax.Array, number: int) -> tuple[dict[str, jax.Array], jax.Array]:
    """(the texts of a batch, `number` of each with two words exchanged; whether there is one, bool [B * number]).

    A caption whose words are all alike has none.
    """
    key = jax.random.fold_in(key, VERSIONS + 1)
    tokens, there = exchange_words(batch["caption_tokens"], words_of(batch), key, number)
    found = {"text": jnp.repeat(batch["text"], number, axis=0)} if "text" in batch else {}
    return found | {"caption_tokens": tokens}, there


def exchange_words(tokens: jax.Array, image: jax.Array, key: jax.Array, number: int) -> tuple[jax.Array, jax.Array]:
    """(int [B, L] -> [B * number, L] with two different tokens exchanged, bool [B * number] whether there are two).

    The first is drawn among the tokens between start and end, the second among those that differ from it.
    """

    def exchange(row, key):
        for_first, for_second = jax.random.split(key)
        word = (row != PADDING) & (row != START) & (row != END)
        first = _draw(for_first, word)
        other = word & (row != row[first])
        second = _draw(for_second, other)
        changed = row.at[first].set(row[second]).at[second].set(row[first])
        there = jnp.any(other)
        return jnp.where(there, changed, row), there

    def of_image(row, which):
        keys = jax.vmap(lambda one: jax.random.fold_in(fold_in_id(key, which), one))(jnp.arange(number))
        return jax.vmap(lambda one: exchange(row, one))(keys)

    changed, there = jax.vmap(of_image)(tokens, image)
    return changed.reshape(-1, tokens.shape[1]), there.reshape(-1)


def _draw(key: jax.Array, among: jax.Array) -> jax.Array:
    """A place of `among` bool [L], each with the same chance."""
    return jnp.argmax(jnp.where(among, jax.random.uniform(key, among.shape), -1.0))


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
