"""Target and student graph of a batch of held-out images, as the objective of a run sees them: two of the report's
pictures."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from xsample_jax.choice import name_of
from xsample_jax.data.augment import make_views
from xsample_jax.graphs.normalise import MASKED
from xsample_jax.mesh import replicated
from xsample_jax.objectives.blocks import IMAGE, image_block
from xsample_jax.objectives.objective import Objective, centred
from xsample_jax.objectives.parameters import temperature_of
from xsample_jax.objectives.streamed import entries_of
from xsample_jax.objectives.terms import Term, pairs_of
from xsample_jax.parts import Parts
from xsample_jax.state import TrainState


@dataclasses.dataclass(frozen=True)
class BatchGraphs:
    """target, student: float32 [N, N], row = image * views + view; rows sum to 1, the diagonal is 0.

    stand_in: the objective has no graph among images that can be drawn (image-text, a teacher's keys): the target is
    the graph of an image's own views instead.
    """

    target: np.ndarray
    student: np.ndarray
    stand_in: bool


def graphs_of(parts: Parts, state: TrainState, images: np.ndarray, side: Mapping[str, np.ndarray]) -> BatchGraphs:
    """The graphs of the views of some images; side: of `side_of`. All processes call it."""
    config, objective = parts.config, parts.objective
    term = drawable_term(objective, side)

    def graphs(state, images, side):
        state = state.averaged()
        network = parts.model.merge(state.params, state.statistics, training=False)
        _, z = network.embed(make_views(images, side["id"], config.seed, 0, config.augment, config.views))
        block = image_block(z, side, config.views)
        block = centred(block) if objective.centre else block
        tau = temperature_of(objective, state.params)
        pairs = pairs_of(term or Term(), {"image": block}, len(images), tau, objective.target_temperature)
        logits = jnp.where(pairs.valid, pairs.logits, MASKED)
        return pairs.target, jnp.where(pairs.valid, jax.nn.softmax(logits, axis=-1), 0.0)

    everywhere = jax.jit(graphs, out_shardings=replicated(parts.mesh))
    return BatchGraphs(*jax.device_get(everywhere(state, images, dict(side))), stand_in=term is None)


def side_of(parts: Parts, examples: Sequence[Mapping]) -> dict[str, np.ndarray]:
    """What the graphs of an objective read of some examples, one row each, as far as the set has it."""
    names = [name for name in ("id", "label", "caption_embedding") if name in examples[0]]
    side = {name: np.stack([example[name] for example in examples]) for name in names}
    inner = [f"attribute/{name}" for name in parts.config.data.hierarchy]
    if inner and all(name in example for name in inner for example in examples):
        side["path"] = np.array([[example[name] for name in (*inner, "label")] for example in examples], np.int32)
    if parts.class_embeddings is not None and np.all(side["label"] >= 0):
        texts = np.asarray(parts.class_embeddings)[side["label"]]
        if texts.any(axis=1).all():  # a class that training has not seen may have no text: zeros
            side["class_embedding"] = texts
    return side


def drawable_term(objective: Objective, known: Collection[str]) -> Term | None:
    """The first term of an objective, if its graph is one among images that needs no more than `known`; else None."""
    first = objective.terms[0] if objective.terms else None
    if first is None or not (first.anchors == first.keys == IMAGE) or name_of(first.similarity) == "gated":
        return None
    if not entries_of(first.graph) <= {*known, "embedding"}:
        return None
    return dataclasses.replace(first, mixer=None, temperature="base")
