"""Everything that any preset reads, without an encoder: random embeddings and side information of eight images.

`inputs_of(objective)` is a tree of global arrays, rows first, so that a test can shard all of them over devices;
`loss_of(objective, inputs)` sends them through the blocks, the memory and the loss of the real step.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from xsample_jax.models.decoder import cross_entropies
from xsample_jax.models.heads import unit_rows
from xsample_jax.models.layers import BatchNorm
from xsample_jax.models.resnet import disturb, spread_of, styles_of
from xsample_jax.objectives.bank import clusters_of
from xsample_jax.objectives.from_config import needed_views
from xsample_jax.objectives.learned_state import bias_of, init_memory, init_objective_parameters, recall, temperature_of
from xsample_jax.objectives.objective import Objective, objective_loss
from xsample_jax.objectives.terms import StepValues
from xsample_jax.objectives.trajectory import init_past
from xsample_jax.step import StepInputs, step_blocks

IMAGES, VIEWS, LOCAL, WIDTH, QUEUE, PROTOTYPES, CLASSES = 8, 2, 2, 8, 16, 6, 5


class Network:
    """Stands in for the model: its images are the raw embeddings, its texts an entry of the batch."""

    def __init__(self, second: jax.Array, heads: dict[str, jax.Array], objective: Objective):
        self.second, self.heads, self.of = second, heads, {name: head.of for name, head in objective.heads.items()}

    def project(self, images):
        return images, images

    def head(self, features):
        return features

    def project_named(self, side, features):
        found = {side: features} | ({"cells": cells_of(features)} if side == "image" else {})
        for name, of in self.of.items():
            if of in found:
                found[name] = found[of] @ self.heads[name]
        found.pop("cells", None)
        return {name: z for name, z in found.items() if name != side}

    def text_features(self, batch):
        return batch["text"]

    def read_text(self, batch):
        return unit_rows(batch["text"]), batch["text"][:, None] * jnp.ones((1, batch["caption_tokens"].shape[1], 1))

    @property
    def decoder(self):
        return self

    def token_losses(self, states, tokens, image):
        """Losses that depend on the text, on the image and on the tokens."""
        logits = (states[:, :-1] + image.mean(axis=1, keepdims=True)) @ jnp.eye(WIDTH, 9)
        return cross_entropies(logits, tokens[:, 1:])

    def image_decoder(self, z):
        return z @ self.second

    def embed(self, images):
        return None, unit_rows(images)

    def embed_text(self, batch):
        return unit_rows(batch["text"])

    def predict(self, z):
        return unit_rows(z @ self.second)


def cells_of(images: jax.Array) -> jax.Array:
    """A map [n, 2, 2, WIDTH] of every row."""
    return jnp.stack([jnp.roll(images, by, axis=1) for by in range(4)], axis=1).reshape(-1, 2, 2, images.shape[1])


def small(objective: Objective) -> Objective:
    """The objective with a queue and prototypes of a size for eight images."""
    return dataclasses.replace(
        objective, queue=min(objective.queue, QUEUE), prototypes=min(objective.prototypes, PROTOTYPES)
    )


def batch_of(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Side information of every kind: ids out of order, unknown labels, shared captions and classes."""
    label = np.array([0, 1, 0, 2, -1, 1, 4, -1])
    caption, own = rng.normal(size=(IMAGES, 6)), np.random.default_rng(7)  # by record: the other draws stay as they are
    caption[3] = caption[2]
    return {
        "id": (7 * np.arange(IMAGES) + 3).astype(np.int32),
        "index": rng.permutation(IMAGES).astype(np.int32),
        "label": label.astype(np.int32),
        "labels": rng.integers(0, 2, (IMAGES, CLASSES)).astype(np.int32),
        "path": np.stack([label % 2, label % 3, label], axis=1).astype(np.int32),
        "target": rng.normal(size=(IMAGES, 2)).astype(np.float32),
        "cluster": own.integers(-1, 3, (IMAGES, 2)).astype(np.int32),
        "group": own.integers(-1, 2, IMAGES).astype(np.int32),
        "class_temperature": own.uniform(0.5, 2, IMAGES).astype(np.float32),
        "weight": own.uniform(0.5, 2, IMAGES).astype(np.float32),
        "part": np.array([0, 0, 1, 0, 1, 1, 0, 1], np.int32),
        "boxes": np.tile(own.uniform([0, 0, 0.5, 0.5], [0.4, 0.4, 1, 1], (IMAGES, 4)), (4, 1)).astype(np.float32),
        "parts": own.normal(size=(3 * IMAGES, WIDTH)).astype(np.float32),
        "caption_tokens": own.integers(3, 9, (IMAGES, 6)).astype(np.int32),
        "is_target": own.integers(0, 2, IMAGES).astype(np.int32),
        "caption_embedding": caption.astype(np.float32),
        "class_embedding": rng.normal(size=(CLASSES + 1, 6))[label].astype(np.float32),
        "text": rng.normal(size=(IMAGES, WIDTH)).astype(np.float32),
        "class_texts": own.normal(size=(CLASSES, WIDTH)).astype(np.float32),
    }


def inputs_of(objective: Objective, seed: int = 0, queued: int = 0, collapsed: bool = False) -> dict[str, dict]:
    """{"trained": what a gradient is taken of, "batch": ..., "memory": ...} of an objective made `small`.

    queued: how many entries of the queue are filled. collapsed: all embeddings of images and texts are the same.
    """
    rng = np.random.default_rng(seed)

    def rows(count):
        z = rng.normal(size=(count, WIDTH)).astype(np.float32)
        return np.ones_like(z) if collapsed else z

    batch, views = batch_of(rng), max(VIEWS, needed_views(objective))
    trained = {"images": rows(IMAGES * views), "local": rows(IMAGES * LOCAL), "text": rows(IMAGES)}
    batch |= {"teacher_image": rows(IMAGES * views), "teacher_text": rows(IMAGES)}
    batch |= {"frozen": rows(IMAGES * views), "means": rows(IMAGES)}
    trained |= {"slim": rows(IMAGES * views)} if objective.slim else {}
    trained["second"] = np.eye(WIDTH, dtype=np.float32) + 0.1 * rng.normal(size=(WIDTH, WIDTH)).astype(np.float32)
    for name in objective.heads:
        trained[f"heads/{name}"] = rng.normal(size=(WIDTH, WIDTH)).astype(np.float32)
    trained |= {
        name: np.asarray(value)
        for name, value in init_objective_parameters(objective, WIDTH, CLASSES, seed, IMAGES).items()
    }
    kept = ("label", "caption_embedding", "cluster", *(["index"] if objective.clusters is not None else []))
    side = {name: batch[name] for name in kept}
    clusters = (batch["cluster"].shape[1], 3)
    memory = init_memory(objective, {}, WIDTH, IMAGES, side, clusters) | init_past(objective, IMAGES, CLASSES)
    memory = {name: np.array(value) for name, value in memory.items()}
    if queued:
        z = rows(queued)
        memory["queue/z"][:queued] = z / np.linalg.norm(z, axis=1, keepdims=True)
        memory["queue/filled"][:queued] = True
        if "queue/frozen_z" in memory:
            memory["queue/frozen_z"][:queued] = memory["queue/z"][:queued]
        memory["queue/label"][:queued] = rng.integers(0, CLASSES, queued)
        memory["queue/cluster"][:queued] = rng.integers(-1, 3, (queued, 2))
        memory["queue/caption_embedding"][:queued] = rng.normal(size=(queued, 6))
    return {"trained": trained, "batch": batch, "memory": memory}


def network_of(objective: Objective, trained: dict) -> Network:
    """The stand-in for the model, with a linear map for every named head."""
    return Network(trained["second"], {name: trained[f"heads/{name}"] for name in objective.heads}, objective)


def of_frozen(batch: dict) -> dict:
    """What a step has of its frozen teacher."""
    found = {"features": batch["frozen"], "means": batch["means"]}
    return found | {"image": unit_rows(batch["frozen"]), "text": unit_rows(batch["means"])}


def loss_of(objective: Objective, inputs: dict[str, dict]):
    """(loss, (metrics, memory after the step)) of the objective, through the blocks of the real step."""
    trained, batch, memory = inputs["trained"], inputs["batch"], inputs["memory"]
    network = network_of(objective, trained)
    teacher = {"image": unit_rows(batch["teacher_image"]), "text": unit_rows(batch["teacher_text"])}
    for name, rows in (("image", "teacher_image"), ("text", "teacher_text")):
        teacher[f"{name}_heads"] = network.project_named(name, batch[rows])
    blocks_read = {rows.block for rows in objective.rows}
    if "teacher_cells" in blocks_read:
        teacher["cells"] = unit_rows(jnp.repeat(batch["teacher_image"][::2], 3, axis=0) + batch["parts"])
    if "teacher_words" in blocks_read:
        words = batch["teacher_text"][:, None] + batch["parts"].reshape(IMAGES, 3, WIDTH)
        teacher["words"] = unit_rows(words), batch["caption_tokens"][:, :3] > 4
    if objective.hard_texts:
        texts = jnp.repeat(batch["teacher_text"], objective.hard_texts, axis=0)
        teacher["hard_text"] = unit_rows(texts)
    if objective.text_views:
        texts = jnp.repeat(batch["teacher_text"], objective.text_views, axis=0)
        teacher |= {"text_views": unit_rows(texts), "text_views_heads": network.project_named("text", texts)}
    step = StepInputs(
        images=trained["images"],
        local=trained["local"],
        batch={**batch, "text": trained["text"]},
        memory=memory,
        class_texts=batch["class_texts"],
        boxes=batch["boxes"][: len(trained["images"])],
        progress=jnp.float32(0.3),
        key=jax.random.key(5),
        teacher=jax.lax.stop_gradient(teacher) if objective.teacher is not None else {},
        slim=trained["slim"] if objective.slim else None,
        features=trained["images"],
        frozen=of_frozen(batch) if objective.frozen else {},
        tokens=trained["images"][:, None] if objective.text == "causal" else None,
    )
    if objective.clusters is not None:
        step.batch.update(clusters_of(memory, batch, objective.clusters))
    temperature = temperature_of(objective, trained)
    named = network.project_named("image", step.images)
    blocks = step_blocks(objective, network, trained, step, step.images, named)
    blocks, memory = recall(objective, blocks, memory, batch, temperature)
    at = StepValues(bias_of(trained), step.progress, step.key)
    loss, metrics = objective_loss(objective, blocks, IMAGES, temperature, at)
    return loss, (metrics, memory)


def loss_and_gradient(objective: Objective, inputs: dict[str, dict]):
    """((loss, (metrics, memory)), gradient of the loss in everything trained)."""
    return jax.value_and_grad(lambda t: loss_of(objective, {**inputs, "trained": t}), has_aux=True)(inputs["trained"])


class LinearEncoder(nnx.Module):
    """The smallest encoder: a linear map of the mean color. It stands in where a test traces a step, not a network."""

    features = 4

    def __init__(self, rngs: nnx.Rngs):
        self.linear = nnx.Linear(3, self.features, rngs=rngs)

    def __call__(self, images):
        return self.linear(images.mean(axis=(1, 2)))

    def with_map(self, images):
        side = images.shape[1] // 2
        cells = images[:, : 2 * side, : 2 * side].reshape(len(images), 2, side, 2, side, -1).mean(axis=(2, 4))
        return self(images), self.linear(cells)


class Styled(nnx.Module):
    """The smallest encoder with styles and a width: a linear map of every cell of a grid, and a batch norm."""

    def __init__(self, width: int, rngs: nnx.Rngs):
        self.features, self.widths = width, (width,)
        self.linear, self.norm = nnx.Linear(3, width, rngs=rngs), BatchNorm(width, rngs=rngs)

    def _map(self, images):
        n, side = len(images), images.shape[1] // 4
        return self.norm(self.linear(images.reshape(n, 4, side, 4, side, 3).mean(axis=(2, 4))))

    def __call__(self, images, noise=None):
        x = self._map(images)
        return jax.nn.relu(x if noise is None else disturb(x, noise, 0)).mean(axis=(1, 2))

    def spreads(self, images, stages):
        return {"stem": spread_of(styles_of(self._map(images)))}
