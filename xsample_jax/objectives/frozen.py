"""A frozen teacher: the encoder of a finished run, its features of the views, and their means over the classes.

Its weights are kept in the memory of the train state, below "frozen/": no optimizer sees them, checkpoints have them,
and large ones are split over the fsdp axis. FINGERPRINT says whose they are, so that a run that is resumed with another
teacher is refused.
"""

import zlib
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from xsample_jax.errors import ConfigError
from xsample_jax.models.towers import ENCODERS, kind_of
from xsample_jax.objectives.objective import Objective
from xsample_jax.state import ModelDef, define_model

FROZEN, FINGERPRINT = "frozen/", "frozen_fingerprint"
MEANS, COUNTS = "class_mean/features", "class_mean/count"


def define_frozen(config) -> ModelDef:
    """The encoder of the run whose config this is; views [n, s, s, 3] to features [n, F]."""
    return define_model(lambda rngs: ENCODERS[config.model.encoder](config, rngs))


def frozen_features(model: ModelDef, memory: Mapping[str, jax.Array], images: jax.Array) -> jax.Array:
    """Features of views by the frozen encoder, float32 [n, F], in evaluation mode and without gradient."""
    arrays = {name.removeprefix(FROZEN): value for name, value in memory.items() if name.startswith(FROZEN)}
    network = model.merge(arrays, arrays, training=False)
    return jax.lax.stop_gradient(network(jax.lax.stop_gradient(images))).astype(jnp.float32)


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
