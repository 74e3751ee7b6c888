"""Which target graph a report can show of an objective, and that it is the objective's own."""

import dataclasses

import numpy as np
import pytest

from tests.tiny import tiny_config
from xsample_jax.evals.evaluate import FeatureStore
from xsample_jax.evals.snapshot import drawable_term, graphs_of, side_of
from xsample_jax.graphs.targets import Graph
from xsample_jax.objectives.presets import PRESETS
from xsample_jax.setup import build_run

KNOWN = ("id", "label", "caption_embedding", "class_embedding", "path")


def source_of(preset, known=KNOWN):
    term = drawable_term(PRESETS[preset].objective, known)
    return term and term.graph.source


@pytest.mark.parametrize(
    ("preset", "source"),
    [
        ("xclr", "caption"),
        ("xclr_class_text", "class_text"),
        ("xclr_hierarchy", "hierarchy"),
        ("supcon", "label"),
        ("sogclr", "identity"),
        ("isogclr", "identity"),
        ("clip", None),
        ("moco", None),
        ("byol", None),
        ("simlap", None),
    ],
)
def test_term_that_a_held_out_batch_can_show(preset, source):
    assert source_of(preset) == source


def test_a_graph_whose_entries_are_not_there_is_not_drawn():
    assert source_of("xclr", ("id", "label")) is None
    (term,) = PRESETS["xclr"].objective.terms
    of_teacher = dataclasses.replace(term, graph=Graph("teacher", "softmax"))
    objective = dataclasses.replace(PRESETS["xclr"].objective, terms=(of_teacher,), teacher=0.9)
    assert drawable_term(objective, KNOWN) is None


@pytest.mark.usefixtures("linear_encoder")
@pytest.mark.parametrize("preset", ["xclr_class_text", "xclr_hierarchy", "y_aware"])
def test_target_is_that_of_the_objective(preset):
    target = ({"name": "target", "attributes": ("style", "group")},) if preset == "y_aware" else ()
    config = tiny_config(objective__preset=preset, data__hierarchy=("group", "subgroup"), data__side=target)
    parts, _ = build_run(config)
    state = parts.new_state()
    examples = FeatureStore(parts, state).examples("train")
    batch = [examples[index] for index in (0, 3, 40, 41, 90)]
    side = side_of(parts, batch)
    graphs = graphs_of(parts, state, np.stack([example["image"] for example in batch]), side)
    if preset == "xclr_class_text":
        texts = np.repeat(parts.class_embeddings[side["label"]].astype(np.float64), config.views, axis=0)
        texts /= np.linalg.norm(texts, axis=1, keepdims=True)
        similarity = texts @ texts.T
    elif preset == "y_aware":
        numbers = [[example[f"attribute/{name}"] for name in ("style", "group")] for example in batch]
        numbers = np.repeat(np.array(numbers, float), config.views, axis=0)
        similarity = -((numbers[:, None] - numbers) ** 2).sum(axis=2) / 2  # the logarithm of its weights
    else:
        path = np.repeat(side["path"], config.views, axis=0)
        shared = 1 + np.cumprod(path[:, None] == path[None], axis=-1).sum(axis=-1)
        similarity = shared / (1 + path.shape[1])  # Wu-Palmer of leaves of one depth
    logits = similarity / (1 if preset == "y_aware" else parts.objective.target_temperature)
    np.fill_diagonal(logits, -np.inf)
    weight = np.exp(logits - logits.max(axis=1, keepdims=True))
    assert not graphs.stand_in
    np.testing.assert_allclose(graphs.target, weight / weight.sum(axis=1, keepdims=True), atol=1e-5)
    np.testing.assert_allclose(graphs.student.sum(axis=1), 1, rtol=1e-5)


def test_classes_without_a_text_are_not_compared():
    """Concepts of the emoji's held-out splits are in no training image, so their mean caption is not known."""
    parts, _ = build_run(tiny_config(objective__preset="xclr_class_text"))
    examples = FeatureStore(parts, None).examples("val")
    side = side_of(parts, [examples[index] for index in range(4)])
    assert "class_embedding" not in side
    assert drawable_term(parts.objective, side) is None
