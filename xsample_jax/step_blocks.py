"""From a batch to the blocks that an objective compares: one encoder call for all views, and whatever else it needs."""

import dataclasses
from collections.abc import Mapping

import jax
from flax import nnx

from xsample_jax.objectives.blocks import Block, image_block, key_block, other_view
from xsample_jax.objectives.memory import nearest, queue_block
from xsample_jax.objectives.objective import Objective
from xsample_jax.objectives.parameters import gate_of, prototypes_of

# Entries of a batch that graphs read, one row per image.
SIDE_INFORMATION = ("id", "label", "labels", "path", "target", "caption_embedding", "class_embedding")


@dataclasses.dataclass(frozen=True)
class StepInputs:
    """What the blocks of a step are made of.

    Attributes:
      images: views [B * V, S, S, 3]; local: small crops [B * L, s, s, 3] or None.
      batch: the batch of the host, one row per image.
      memory: what the objective remembers (objectives/memory.py).
      teacher: embeddings of the EMA encoder: image [B * V, D], and text [B, D] where there is a text side.
      progress: share of the run that is over. key: random key of the step.
    """

    images: jax.Array
    local: jax.Array | None
    batch: Mapping[str, jax.Array]
    memory: Mapping[str, jax.Array]
    progress: jax.Array
    key: jax.Array
    teacher: Mapping[str, jax.Array] = dataclasses.field(default_factory=dict)


def local_crops(augment):
    """The augment section for small crops: their size and area, the rest as for the views."""
    local = augment.copy_and_resolve_references()
    local.size, local.crop_scale = augment.local_size, augment.local_crop_scale
    return local


def teacher_embeddings(objective: Objective, teacher: nnx.Module, inputs: StepInputs) -> dict[str, jax.Array]:
    """Embeddings of the views (and texts) by the EMA encoder, without gradient; batch norms use the batch."""
    found = {"image": teacher.embed(inputs.images)[1]}
    if objective.text is not None:
        found["text"] = teacher.embed_text(inputs.batch)
    return jax.lax.stop_gradient(found)


def step_blocks(
    objective: Objective,
    network: nnx.Module,
    params: Mapping[str, jax.Array],
    inputs: StepInputs,
    z: jax.Array,
    views: int,
) -> dict[str, Block]:
    """The blocks of a step by name (objectives/blocks.py). z [B * V, D]: embeddings of the views."""
    per_image = {name: inputs.batch[name] for name in SIDE_INFORMATION if name in inputs.batch}
    images = len(per_image["id"])
    text = network.embed_text(inputs.batch) if objective.text is not None else None
    if objective.gate:
        # Every image is compared in its own class and in that of another image of the batch.
        second = jax.random.permutation(inputs.key, per_image["label"])
        per_image |= {"second_label": second, "gate": gate_of(params, per_image["label"], second)}
    if text is not None:
        per_image |= {"text": jax.lax.stop_gradient(text)}
    of_view = {f"view_{view}": jax.lax.stop_gradient(z[view::views]) for view in range(views)}
    teacher = inputs.teacher
    other = {"other_view": other_view(z, views)}
    if teacher:
        other |= {"teacher": other_view(teacher["image"], views)}
    blocks = {"image": image_block(z, per_image, views, 0, **other)}
    if text is not None:
        own = {"teacher": teacher["text"]} if teacher else {}
        blocks["text"] = image_block(text, per_image, 1, len(z), **own)
    if teacher:
        of_teacher = image_block(teacher["image"], per_image, views, 2 * len(z), teacher=teacher["image"])
        blocks["teacher"] = of_teacher
    if objective.queue:
        blocks["queue"] = queue_block(inputs.memory)
        if any(rows.block == "neighbours" for rows in objective.rows):
            blocks["neighbours"] = image_block(nearest(inputs.memory, z), per_image, views, 5 * len(z))
    if objective.prototypes:
        blocks["prototypes"] = key_block(prototypes_of(params))
    if objective.local_views:
        _, local = network.embed(inputs.local)
        blocks["local"] = image_block(local, per_image | of_view, len(local) // images, 3 * len(z))
    if objective.predictor:
        blocks["predicted"] = image_block(network.predict(z), per_image, views, 4 * len(z))
    return blocks
