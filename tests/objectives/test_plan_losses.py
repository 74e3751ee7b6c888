"""Losses on batches by plan: unlearning, rehearsal and episodes against published numbers and what they ask for."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives.test_goldens import CASES, LABELS, Z1, Z2, images
from tests.quick import quick_jit
from xsample_jax.objectives.blocks import IMAGE, key_block
from xsample_jax.objectives.episodes import icnn, proto_triplet, prototypical
from xsample_jax.objectives.feature_losses import past_positives
from xsample_jax.objectives.objective import objective_loss
from xsample_jax.objectives.presets import PRESETS


def unlearn(forget, kept, labels, kept_labels=LABELS, part=((1,) * 12, (0,) * 12)):
    """The first term of the preset, with weight 1: rows to forget before rows that are kept."""
    (term, _) = PRESETS["unlearning"].objective.terms
    objective = dataclasses.replace(
        PRESETS["unlearning"].objective, terms=(dataclasses.replace(term, weight=1.0),), classes=False
    )
    rows = jnp.concatenate([forget, kept])
    side = {"label": np.concatenate([labels, kept_labels]), "id": np.arange(24), "part": np.concatenate(part)}
    return objective_loss(objective, {"image": images(rows, **side)}, 24, 0.1)[0]


@pytest.mark.parametrize("whole_class", [False, True])
def test_unlearning_has_the_value_and_gradient_of_the_formula(whole_class):
    name = ["the paper's form", "a whole class (no retain sample shares it)"][whole_class]
    case, labels = CASES[f"Contrastive unlearning: {name}"], np.full(12, 9) if whole_class else LABELS
    found = quick_jit(jax.value_and_grad(lambda f, k: unlearn(f, k, labels), argnums=(0, 1)))
    value, (of_forget, of_kept) = found(jnp.float32(Z2), jnp.float32(Z1))
    assert value == pytest.approx(case["expected"], abs=1e-5)
    assert np.linalg.norm(of_forget) == pytest.approx(case["extra"]["grad_norm"]["z2"], rel=1e-4)
    assert np.linalg.norm(of_kept) == pytest.approx(case["extra"]["grad_norm"]["z1"], rel=1e-4)


def test_a_step_of_unlearning_moves_rows_away_from_their_class_towards_others():
    forget, kept = jnp.float32(Z2), jnp.float32(Z1)
    step = forget - 0.1 * jax.grad(lambda rows: unlearn(rows, kept, LABELS))(forget)
    own = LABELS[:, None] == LABELS[None, :]
    of = lambda rows, pairs: float(np.mean(np.asarray(rows @ kept.T)[pairs]))  # noqa: E731
    assert of(step, own) < of(forget, own)
    assert of(step, ~own) > of(forget, ~own)


def test_the_classifier_of_unlearning_sees_what_is_kept_only():
    objective = dataclasses.replace(
        PRESETS["unlearning"].objective, terms=PRESETS["unlearning"].objective.terms[1:], classes=True
    )
    rows, part, label = jnp.float32(Z1), np.arange(12) % 3 == 0, np.arange(12) % 5
    weights = jnp.float32(Z2[:5])
    classes = key_block(weights, label=jnp.arange(5))
    blocks = {"image": images(rows, label=label, part=part.astype(np.int32)), "classes": classes}
    logits = np.float64(Z1) @ np.float64(Z2[:5]).T / 0.1
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = -np.mean(log_p[np.arange(12), label][~part])
    assert objective_loss(objective, blocks, 12, 0.1)[0] == pytest.approx(expected, rel=1e-5)


def test_coconut_has_the_value_and_gradient_of_the_formula():
    case = CASES["COCONUT NSPT (negative-student positive-teacher)"]
    side = {"id": jnp.arange(12), "label": jnp.asarray(LABELS), "part": jnp.int32(np.arange(12) < 6)}
    teacher = jnp.float32(Z2)
    value, slope = quick_jit(jax.value_and_grad(lambda x: past_positives(x, teacher, side)))(jnp.float32(Z1))
    assert value == pytest.approx(case["expected"], rel=1e-5)
    assert np.linalg.norm(slope) == pytest.approx(case["extra"]["grad_norm"]["z1"], rel=1e-4)
    # NTPT is another number, and nothing is rehearsed in the first task.
    assert abs(past_positives(jnp.float32(Z1), teacher, side, negatives="teacher") - value) > 1e-2
    assert past_positives(jnp.float32(Z1), teacher, side | {"part": jnp.zeros(12, jnp.int32)}) == 0


EPISODE = {
    "label": jnp.array([0] * 4 + [1] * 4 + [2] * 4 + [0, 1, 2] * 4),
    "part": jnp.array([0] * 12 + [1] * 12),
}
ROWS = jnp.float32(np.concatenate([Z1, Z2]))


def test_proto_triplet_has_the_value_and_gradient_of_the_published_code():
    case = CASES["SuSana Distancia: Proto-Triplet"]
    value, slope = quick_jit(jax.value_and_grad(lambda x: proto_triplet(x, x, EPISODE)))(ROWS)
    assert value == pytest.approx(case["expected"], rel=1e-5)
    for rows, name in ((slice(12), "z1"), (slice(12, 24), "z2")):
        assert np.linalg.norm(slope[rows]) == pytest.approx(case["extra"]["grad_norm"][name], rel=1e-4)


def test_prototypical_is_the_softmax_of_distances_to_class_means():
    rows, label = np.float64(ROWS), np.asarray(EPISODE["label"])
    centers = np.stack([rows[:12][label[:12] == c].mean(axis=0) for c in range(3)])
    logits = -((rows[12:, None] - centers[None]) ** 2).sum(axis=2)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = -np.mean(log_p[np.arange(12), label[12:]])
    assert prototypical(ROWS, ROWS, EPISODE) == pytest.approx(expected, rel=1e-5)


def of_episodes_mean(x):
    return (prototypical(x, x, EPISODE) + proto_triplet(x, x, EPISODE) + icnn(x, x, EPISODE, rows="all")) / 3


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("ICNN loss of the support set", lambda x: icnn(x, x, EPISODE)),
        ("cross-entropy + Proto-Triplet + ICNN, mean of the three", of_episodes_mean),
    ],
)
def test_icnn_has_the_value_and_gradient_of_the_published_code(name, loss):
    case = CASES[f"SuSana Distancia: {name}"]
    value, slope = quick_jit(jax.value_and_grad(loss))(ROWS)
    assert value == pytest.approx(case["expected"], rel=1e-5)
    for rows, side in ((slice(12), "z1"), (slice(12, 24), "z2")):
        assert np.linalg.norm(slope[rows]) == pytest.approx(case["extra"]["grad_norm"].get(side, 0), rel=1e-4)


def test_icnn_is_smallest_for_classes_that_are_points_apart_and_does_not_see_the_scale():
    assert icnn(7 * ROWS, 7 * ROWS, EPISODE) == pytest.approx(float(icnn(ROWS, ROWS, EPISODE)), abs=1e-4)
    centers = 10 * np.eye(16)[np.asarray(EPISODE["label"])]
    spread = [float(icnn(x := jnp.float32(centers + s * np.float64(ROWS)), x, EPISODE, k=3)) for s in (5, 1, 1e-3)]
    assert spread == sorted(spread, reverse=True)
    assert spread[-1] == pytest.approx(0, abs=1e-3)


def test_rows_without_a_class_or_of_a_class_without_support_say_nothing():
    side = {
        name: jnp.concatenate([value, jnp.array(more)])
        for (name, value), more in zip(EPISODE.items(), ([-1, 7, -1], [0, 1, 1]), strict=True)
    }
    more = jnp.concatenate([ROWS, 9 * ROWS[:3]])
    for loss in (prototypical, proto_triplet, icnn):
        assert loss(more, more, side) == pytest.approx(float(loss(ROWS, ROWS, EPISODE)), rel=1e-5), loss
    assert PRESETS["susana"].objective.feature_terms[0].x == IMAGE
