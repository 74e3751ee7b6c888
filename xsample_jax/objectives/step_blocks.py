"""From a batch to the blocks that an objective compares: one encoder call for all views, and whatever else it needs."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import nnx

from xsample_jax.augment.ids import fold_in_id, words_of
from xsample_jax.models.decoder import END, PADDING, START
from xsample_jax.models.heads import unit_rows
from xsample_jax.models.resnet import StyleNoise
from xsample_jax.objectives.bank import bank_block
from xsample_jax.objectives.blocks import OF_HEAD, Block, image_block, key_block, other_view
from xsample_jax.objectives.cluster_centers import meta_block
from xsample_jax.objectives.generative import caption_entries, caption_numbers, draw_latents
from xsample_jax.objectives.learned_state import (
    PROTOTYPES,
    classes_of,
    gate_of,
    nearest,
    prototype_block,
    queue_blocks,
    second_classes,
    temperature_of_head,
)
from xsample_jax.objectives.mixtures import mixed_blocks, mixed_images
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
      frozen: features [B * V, F] of the frozen teacher, and where a term reads them the means of the images' classes
        [B, F], or its embeddings, image [B * V, D] and text [B, D].
      boxes: of the views in their images [B * V, 4] (view_boxes), or None.
      progress: share of the run that is over. key: random key of the step.
      tokens: what the decoder of captions reads of the views [B * V, queries, width], or None.
      keep: the patches of each view that the encoder reads, int [B * V, kept]; None: all.
      class_texts: frozen embeddings of the texts of all classes [C, E], or None.
      slim: head outputs of the views by the thin network [B * V, D], or None.
      features: of the views by the encoder [B * V, F]; None where they went through it in chunks.
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
    tokens: jax.Array | None = None
    class_texts: jax.Array | None = None
    style: StyleNoise | None = None
    slim: jax.Array | None = None
    features: jax.Array | None = None


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
    raw, text, decoded = decoded_entries(objective, network, inputs, raw, named)
    z = unit_rows(raw)
    per_image = side_entries(objective, inputs.batch)
    images = len(per_image["id"])
    views = len(z) // images
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
    other |= head_entries(objective, params, named, z, images) | _boxes(inputs) | decoded
    if teacher:
        other |= {"teacher": other_view(teacher["image"], views)}
        if "same_view_teacher" in objective.reads:
            other |= {"same_view_teacher": teacher["image"]}
    if inputs.frozen:
        unit = unit_rows(inputs.frozen["features"])
        of_frozen = {"frozen": unit, "frozen_features": inputs.frozen["features"]}
        other |= of_frozen | ({"frozen_pair": inputs.frozen["image"]} if "image" in inputs.frozen else {})
        per_image |= {"class_center": inputs.frozen["means"]} if "means" in inputs.frozen else {}
    blocks = {"image": image_block(z, per_image | of_view, views, 0, **other)}
    if inputs.frozen:
        blocks["frozen"] = image_block(unit, per_image, views, 9 * len(z), **of_frozen)
    blocks |= _slim_block(inputs, per_image, views)
    blocks |= _text_and_teacher(objective, network, params, inputs, per_image, text)
    if objective.queue:
        blocks |= queue_blocks(objective, inputs.memory)
        if any(rows.block == "neighbors" for rows in objective.rows):
            blocks["neighbors"] = image_block(nearest(inputs.memory, z), per_image, views, 5 * len(z))
    if any(rows.block == "bank" for rows in objective.rows):
        blocks["bank"] = _bank(objective, inputs, blocks)
    blocks |= _rows_of_classes(objective, network, params, inputs.class_texts)
    if any(rows.block == "meta" for rows in objective.rows):
        blocks["meta"], blocks["image"]["assigned"] = meta_block(z, params[PROTOTYPES], 100 * len(z))
    if objective.local_views:
        features, local = network.project(inputs.local)
        own = head_entries(objective, params, network.project_named("image", features), None, images)
        blocks["local"] = image_block(unit_rows(local), per_image | of_view, len(local) // images, 3 * len(z), **own)
    blocks |= mixed_blocks(blocks, objective.rows, inputs.key, images)
    blocks |= mixed_images(blocks["image"], objective, network, inputs)
    if objective.predictor:
        blocks["predicted"] = image_block(network.predict(z), per_image, views, 4 * len(z))
    return blocks


def side_entries(objective: Objective, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Side information of every image of a batch, one row each."""
    found = {name: batch[name] for name in SIDE_INFORMATION if name in batch}
    if "caption_number" in objective.reads:
        found["caption_number"] = caption_numbers(batch["caption_tokens"])
    return found


def decoded_entries(
    objective: Objective, network: nnx.Module, inputs: StepInputs, raw: jax.Array, named: Mapping[str, jax.Array]
) -> tuple[jax.Array, jax.Array | None, dict[str, jax.Array]]:
    """(the rows of the views, drawn where the objective has their variance; unit rows of the texts or None; what
    decoders give for every view, see generative.py)."""
    found, text = {}, None
    if inputs.tokens is not None:
        text, states = network.read_text(inputs.batch)
        found |= caption_entries(network.decoder, inputs.batch, states, inputs.tokens)
    elif objective.text is not None:
        text = network.embed_text(inputs.batch)
    if objective.log_variance is not None:
        raw, drawn = draw_latents(network.image_decoder, raw, named[objective.log_variance], inputs)
        found |= drawn
    return raw, text, found


def _bank(objective: Objective, inputs: StepInputs, blocks: Mapping[str, Block]) -> Block:
    """The block of a bank whose rows are of the EMA encoder where there is one."""
    z, index = blocks["teacher" if objective.teacher is not None else "image"]["z"], inputs.batch["index"]
    given = index, z[:: len(z) // len(index)]
    return bank_block(objective.bank, inputs.memory, given, inputs.key, objective.clusters)


def _rows_of_classes(
    objective: Objective,
    network: nnx.Module,
    params: Mapping[str, jax.Array],
    texts: jax.Array | None,
) -> dict[str, Block]:
    """The blocks with a learned row for each prototype or class; texts: frozen embeddings of all classes [C, E]."""
    blocks = {}
    if objective.prototypes:
        blocks["prototypes"] = prototype_block(params) | {"raw": params[PROTOTYPES]}
    if objective.classes:
        blocks["classes"] = classes_of(params)
    if "class_texts" in objective.heads:
        z = unit_rows(network.project_named("class_text", jnp.asarray(texts, jnp.float32))["class_texts"])
        blocks["class_texts"] = key_block(z, label=jnp.arange(len(z), dtype=jnp.int32))
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
        found |= {"prompt": raw} if name == "prompts" else {}
        entry = OF_HEAD + name
        found[entry] = raw
        temperature = objective.heads[name].temperature
        if temperature is not None:
            of = temperature if isinstance(temperature, str) else name
            found[f"{entry}/head_temperature"] = jnp.broadcast_to(temperature_of_head(params, of), (len(raw),))
        found |= {f"{entry}/{view}": rows for view, rows in _views_of(objective, raw, images).items()}
        if objective.pair_network is not None:
            found |= {f"{entry}/{part}": rows for part, rows in pair_entries(params, unit_rows(raw), images).items()}
    if objective.pair_network is not None and z is not None:
        found |= pair_entries(params, z, images)
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
        own |= {"frozen_pair": inputs.frozen["text"]} if "text" in inputs.frozen else {}
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


# Several versions of every caption, each without some of its words: the block text_views, row = image * T + view.


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
