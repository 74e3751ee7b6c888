"""Weights that depend on how much of the run is over, and rows without gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives.test_build import build, problems
from tests.objectives.test_streamed import assert_streamed_is_dense, blocks_of, inputs
from tests.quick import quick_jit
from xsample_jax.graphs.targets import Graph, Mixture, describe, weight_at
from xsample_jax.objectives.blocks import TEXT, VIEW_0, VIEW_1, Rows, select
from xsample_jax.objectives.from_config import needed_views
from xsample_jax.objectives.objective import Objective, find_unstreamable, objective_loss
from xsample_jax.objectives.streaming.loss import Streaming
from xsample_jax.objectives.terms import FeatureTerm, StepValues, Term

IMAGES = 16
BEFORE, AFTER = ({"name": name, "share": 0.5, "weight": 3.0} for name in ("before", "after"))
RAMP = {"name": "ramp", "share": 0.6, "start": 0.2, "weight": 3.0, "initial": 1.0}


@pytest.mark.parametrize(
    ("rule", "at", "expected"),
    [
        (2.5, 0.7, 2.5),
        (BEFORE, 0.49, 3.0),
        (BEFORE, 0.5, 0.0),
        (AFTER, 0.49, 0.0),
        (AFTER, 0.5, 3.0),
        (RAMP, 0.1, 1.0),
        (RAMP, 0.4, 2.0),
        (RAMP, 0.9, 3.0),
        ({"name": "ramp", "share": 0.0}, 0.0, 0.0),  # a ramp of no length is a step
        ({"name": "ramp", "share": 0.0}, 1e-3, 1.0),
    ],
)
def test_the_rules(rule, at, expected):
    assert float(weight_at(rule, jnp.float32(at))) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("how", [None, Streaming(impl="streaming", block_size=8)])
def test_a_run_in_phases_has_the_loss_of_the_phase(how):
    """Two terms and a feature term, each by a rule: at any progress the loss is that of plain numbers; one compile."""
    first, second = Term(Graph("caption", "softmax"), weight=BEFORE), Term(weight=RAMP)
    apart = Term(keys=TEXT, each_view=True, weight=AFTER)
    whole = Objective((first, second, apart), 0.1, feature_terms=(FeatureTerm("align", weight=AFTER),))
    blocks = blocks_of(inputs())

    def at(objective):
        return quick_jit(
            lambda progress: objective_loss(objective, blocks, IMAGES, 0.1, StepValues(progress=progress), how)
        )

    alone = [at(Objective((Term(graph, keys=keys, each_view=keys == TEXT),), 0.1))(0.0) for graph, keys in (
        (Graph("caption", "softmax"), Rows("image")), (Graph(), Rows("image")), (Graph(), TEXT))]  # fmt: skip
    aligned = at(Objective((), 0.1, feature_terms=(FeatureTerm("align"),)))(0.0)[0]
    run = at(whole)
    for progress, weights in ((0.1, (3, 1, 0, 0)), (0.4, (3, 2, 0, 0)), (0.5, (0, 2.5, 3, 3)), (1.0, (0, 3, 3, 3))):
        loss, metrics = run(jnp.float32(progress))
        values = [*(float(value) for value, _ in alone), float(aligned)]
        assert loss == pytest.approx(sum(w * v for w, v in zip(weights, values, strict=True)), rel=1e-5)
        entropies = sum(w * float(m["target_entropy"]) for w, (_, m) in zip(weights[:3], alone, strict=True)) / sum(
            weights[:3]
        )
        assert metrics["target_entropy"] == pytest.approx(entropies, rel=1e-5)
        assert metrics["feature_align"] == pytest.approx(weights[3] * float(aligned), rel=1e-5)


def test_graphs_of_a_mixture_have_phases_too():
    """With weights that are rules the mixture is, at every progress, that of the numbers."""
    graphs = (Graph(), Graph("caption", "softmax"))
    rules = (
        {"name": "ramp", "share": 0.5, "initial": 1.0, "weight": 0.6},
        {"name": "ramp", "share": 0.5, "weight": 0.4},
    )
    blocks = blocks_of(inputs())

    def loss(weights, progress, ramp=0.0):
        objective = Objective((Term(Mixture(graphs, weights, ramp)),), 0.1)
        return float(objective_loss(objective, blocks, IMAGES, 0.1, StepValues(progress=progress))[0])

    assert loss(rules, 0.25) == pytest.approx(loss((0.8, 0.2), 0.0), rel=1e-6)
    assert loss(rules, 0.25) == pytest.approx(loss((0.6, 0.4), 0.25, ramp=0.5), rel=1e-6)
    assert describe(Mixture(graphs, rules)).startswith("1 to 0.6 from 0 to 0.5 of the run row_sum(identity) + 0 to 0.4")


STILL = {"block": "image", "still": True}


def mixed(second, **ramp):
    return {"graph": {"graphs": ["identity", "uniform"], "weights": [1.0, second], **ramp}}


@pytest.mark.parametrize(
    ("term", "field", "words"),
    [
        ({"weight": {"name": "befor", "share": 0.1}}, "weight", "before"),
        ({"weight": "after"}, "weight.share", "needs it"),
        ({"weight": {"name": "after", "share": 1.5}}, "weight.share", "at most 1"),
        ({"weight": {"name": "ramp", "share": 0.1, "start": 0.5}}, "weight.start", "where the ramp ends"),
        ({"weight": {"name": "before", "share": 0.1, "weight": float("nan")}}, "weight.weight", "finite"),
        ({"name": "align", "weight": {"name": "after", "share": -1.0}}, "weight.share", "at least 0"),
        (mixed({"name": "ramp", "share": 0.5, "weight": -1.0}), "graph.weights", "at least 0"),
        (mixed({"name": "after", "share": 0.5}, ramp=0.1), "graph.ramp", "0 for a mixture whose weights are rules"),
        ({"anchors": STILL, "keys": STILL}, "keys.still", "gradient"),
        ({"name": "align", "x": STILL, "y": STILL}, "y.still", "gradient"),
    ],
)
def test_bad_phases_and_rows_are_refused(term, field, words):
    (problem,) = problems(terms=(term,))
    assert problem.field.endswith(field)
    assert words in str(problem)


def test_rows_without_gradient_are_the_same_rows():
    objective = build(terms=({"keys": STILL},))
    assert needed_views(objective) == 2
    assert dict(find_unstreamable(objective))[0] == "its anchors are some of its keys"
    x = inputs()
    rows = Rows("image", 1, still=True)
    np.testing.assert_array_equal(select(blocks_of(x), rows, IMAGES)["z"], x["z"][1::2])

    def loss(z, keys):
        value, _ = objective_loss(
            Objective((Term(anchors=VIEW_0, keys=keys),), 0.1), blocks_of({**x, "z": z}), IMAGES, 0.1
        )
        return value

    slopes = {keys: jax.grad(loss)(x["z"], keys) for keys in (VIEW_1, rows)}
    assert loss(x["z"], VIEW_1) == loss(x["z"], rows)
    np.testing.assert_array_equal(slopes[rows][1::2], 0)
    np.testing.assert_allclose(slopes[rows][::2], slopes[VIEW_1][::2], rtol=1e-6)
    assert np.abs(slopes[VIEW_1][1::2]).max() > 1e-3


@pytest.mark.parametrize("devices", [1, 8])
def test_rows_without_gradient_can_be_streamed(devices):
    term = Term(Graph("caption", "softmax"), anchors=VIEW_0, keys=Rows("image", 1, still=True))
    assert_streamed_is_dense(Objective((term,), 0.1), 8, devices, 1e-5)
