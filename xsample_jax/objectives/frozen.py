"""A frozen teacher, the encoder of a finished run: its features of the views, and their means over the classes.

Where a term reads what it makes of texts, too, it is all that the loss of that run compared: encoder, head, text side.

Its weights are kept in the memory of the train state, below "frozen/": no optimizer sees them, checkpoints have them,
and large ones are split over the fsdp axis. FINGERPRINT says whose they are, so that a run that is resumed with another
teacher is refused.
"""

import dataclasses
import zlib
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from xsample_jax.errors import ConfigError
from xsample_jax.models.towers import ENCODERS, build_model, config_for, kind_of
from xsample_jax.objectives.from_config import build_objective
from xsample_jax.objectives.learned_state import temperature_of
from xsample_jax.objectives.objective import Objective
from xsample_jax.objectives.step_blocks import StepInputs
from xsample_jax.state import ModelDef, define_model, to_flat

FROZEN, FINGERPRINT = "frozen/", "frozen_fingerprint"
MEANS, COUNTS = "class_mean/features", "class_mean/count"


def reads_texts(objective: Objective) -> bool:
    """Whether a term reads the embeddings of images and texts by the frozen teacher, not its features alone."""
    return "frozen_pair" in objective.reads


def define_frozen(objective: Objective, teacher, platform: str) -> ModelDef | None:
    """What an objective reads of its frozen teacher, an Encoder: its encoder, or with head and text side; None without.

    Views [n, s, s, 3] to features [n, F], or Towers (models/towers.py). platform: of the devices.
    """
    if teacher is None:
        return None
    config = config_for(teacher.config, platform)
    if reads_texts(objective):
        return define_model(lambda rngs: build_model(config, *teacher.text_kind, rngs=rngs))
    return define_model(lambda rngs: ENCODERS[config.model.encoder](config, rngs))


def parts_of_teacher(objective: Objective, teacher) -> Mapping[str, np.ndarray]:
    """The weights {path: array} of the network that `define_frozen` defines."""
    if not reads_texts(objective):
        return teacher.arrays
    whole = {"encoder": teacher.module, "head": teacher.head, "text": teacher.text}
    return {f"{part}/{path}": x for part, module in whole.items() for path, x in to_flat(nnx.state(module)).items()}


def taught(objective: Objective, config, teacher) -> Objective:
    """The objective with the tau of its teacher's loss for tau_s, where a term reads its texts and no key sets it."""
    given = [config.objective[f"target_{name}"] for name in ("temperature", "neighbors", "same_mass")]
    if not reads_texts(objective) or any(value is not None for value in given):
        return objective
    tau = temperature_of(build_objective(teacher.config.objective), teacher.sides)
    return dataclasses.replace(objective, target_temperature=float(tau))


def with_frozen(objective: Objective, model: ModelDef | None, inputs: StepInputs) -> StepInputs:
    """The inputs with what the frozen teacher makes of the views, and of the texts where a term reads that; and with a
    memory whose means of classes have seen this batch. In evaluation mode, float32, without gradient."""
    if model is None:
        return inputs
    memory, images = inputs.memory, jax.lax.stop_gradient(inputs.images)
    arrays = {name.removeprefix(FROZEN): value for name, value in memory.items() if name.startswith(FROZEN)}
    network = model.merge(arrays, arrays, training=False)
    if reads_texts(objective):
        features, z = network.embed(images)
        found = {"features": features, "image": z, "text": network.embed_text(inputs.batch)}
    else:
        found = {"features": network(images)}
    found = {name: jax.lax.stop_gradient(value).astype(jnp.float32) for name, value in found.items()}
    if "class_center" in objective.reads:
        found["means"], new = move_class_means(memory, found["features"], inputs.batch["label"])
        memory = {**memory, **new}
    return dataclasses.replace(inputs, frozen=found, memory=memory)


def frozen_memory(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The weights {path: array} as entries of the memory, and what they are told apart by."""
    total = 0
    for name, value in sorted(arrays.items()):
        total = zlib.crc32(name.encode() + np.ascontiguousarray(value, np.float32).tobytes(), total)
    named = {FROZEN + name: np.asarray(value, np.float32) for name, value in arrays.items()}
    return named | {FINGERPRINT: np.asarray(total, np.uint32)}


def init_class_means(objective: Objective, classes: int, width: int) -> dict[str, jax.Array]:
    """Means of the features [F] of every class, of no image yet; {} where no term reads them."""
    if "class_center" not in objective.reads:
        return {}
    return {MEANS: jnp.zeros((classes, width), jnp.float32), COUNTS: jnp.zeros((classes,), jnp.int32)}


def move_class_means(
    memory: Mapping[str, jax.Array], features: jax.Array, label: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """(means of the images' classes [B, F], new entries of the memory): every view counts once.

    features [B * V, F]; label int [B], -1 for an unknown class, whose mean is 0. The means run over all views seen so
    far, this batch included, so after an epoch they are about those of the training set.
    """
    classes, views = len(memory[COUNTS]), len(features) // len(label)
    place = jnp.where(label >= 0, label, classes)  # one class more, for what has none
    sums = (
        jnp.zeros((classes + 1, features.shape[1])).at[place].add(features.reshape(len(label), views, -1).sum(axis=1))
    )
    new = jnp.zeros(classes + 1, jnp.int32).at[place].add(views)[:classes]
    count = memory[COUNTS] + new
    step = (sums[:classes] - new[:, None] * memory[MEANS]) / jnp.maximum(count, 1)[:, None]
    means = memory[MEANS] + step
    own = jnp.where((label >= 0)[:, None], means[jnp.maximum(label, 0)], 0.0)
    return own, {MEANS: means, COUNTS: count}


def find_misfits(theirs, config, objective: Objective, width: int) -> Iterator[ConfigError]:
    """What keeps the frozen encoder of the config `theirs`, with features of `width`, from a run of `config`."""
    path = config.objective.frozen
    for name in ("mean", "std"):
        if tuple(config.augment[name]) != tuple(theirs.augment[name]):
            expected = f"{tuple(theirs.augment[name])}, as {path} was trained with"
            yield ConfigError(f"augment.{name}", tuple(config.augment[name]), expected)
    if kind_of(theirs.model.encoder) == "vit" and config.augment.size != theirs.augment.size:
        expected = f"{theirs.augment.size}, the only size that the ViT of {path} can see"
        yield ConfigError("augment.size", config.augment.size, expected)
    compared = (
        any(rows.block in ("frozen", "frozen_queue") for rows in objective.rows) or "class_center" in objective.reads
    )
    if compared and config.model.head.dim != width:
        expected = f"{width}, the width of the features of {path}, which embeddings are compared with"
        fix = f"Set --config.model.head.dim={width}."
        yield ConfigError("model.head.dim", config.model.head.dim, expected, fix)
