"""Every rule for denominator weights against its definition, pair by pair."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xsample_jax.objectives.negatives import NEGATIVES, hardest, importance

RNG = np.random.default_rng(2)
ROWS, KEYS = 5, 8
LOGITS = 2 * RNG.normal(size=(ROWS, KEYS))
VALID = RNG.uniform(size=(ROWS, KEYS)) < 0.8
TARGET = np.where(VALID & (RNG.uniform(size=(ROWS, KEYS)) < 0.3), 0.5, 0.0)
U = {
    "id": np.array([0, 1, 2, -1, 3]),
    "label": np.array([0, 1, -1, 2, 0]),
    "second_label": np.array([1, 1, 2, 0, 2]),
    "cluster": RNG.integers(0, 2, (ROWS, 3)),
    "group": np.array([0, 0, 1, 1, 1]),
    "view": np.array([0, 1, 0, 1, -1]),
    "target": RNG.normal(size=(ROWS, 2)),
    "caption_number": np.array([0, 1, 0, 3, 4]),
}
V = {
    "row": np.array([0, 1, 2, 3, 4, -1, -1, 7]),
    "id": np.array([0, 0, 1, 2, 3, -1, 7, 1]),
    "label": np.array([0, 1, -1, 2, 0, 1, 2, 0]),
    "cluster": RNG.integers(0, 2, (KEYS, 3)),
    "owner": np.array([0, 0, 1, 1, 2, 2, 3, 3]),
    "group": np.array([0, 0, 0, 0, 1, 1, 1, 1]),
    "view": np.array([0, 1, 0, 1, 0, 1, -1, 0]),
    "target": RNG.normal(size=(KEYS, 2)),
    "caption_number": np.array([0, 0, 1, 3, 3, 4, 4, 1]),
}


def negative(i, k):
    return VALID[i, k] and TARGET[i, k] <= 0


def hard(i, k, count):
    better = [j for j in range(KEYS) if negative(i, j) and LOGITS[i, j] > LOGITS[i, k]]
    return float(negative(i, k) and len(better) < count)


def weighed(i, k, beta):
    among = [np.exp(beta * LOGITS[i, j]) for j in range(KEYS) if negative(i, j)]
    return np.exp(beta * LOGITS[i, k]) / np.mean(among) if negative(i, k) else 0.0


DEFINITIONS = {
    "everything": ({}, lambda i, k: 1.0),
    "not_positive": ({}, negative),
    "positives": ({}, lambda i, k: not negative(i, k)),
    "other_images": ({}, lambda i, k: U["id"][i] != V["id"][k] or U["id"][i] == -1),
    "own_and_queue": ({}, lambda i, k: U["id"][i] == V["id"][k] != -1 or V["row"][k] < 0),
    "hardest": ({"k": 3}, lambda i, k: hard(i, k, 3)),
    "importance": ({"beta": 0.7}, lambda i, k: weighed(i, k, 0.7)),
    "clusters_apart": ({}, lambda i, k: sum(a != b for a, b in zip(U["cluster"][i], V["cluster"][k]))),
    "same_label": ({}, lambda i, k: U["label"][i] == V["label"][k] != -1),
    "neither_label": ({}, lambda i, k: V["label"][k] not in (-1, U["label"][i], U["second_label"][i])),
    "same_owner": ({}, lambda i, k: V["owner"][k] == U["id"][i] or TARGET[i, k] > 0),
    "same_view": (
        {},
        lambda i, k: U["view"][i] == V["view"][k] >= 0 and (U["id"][i] != V["id"][k] or U["id"][i] == -1),
    ),
    "target_distance": ({}, lambda i, k: 1 + abs(U["target"][i, 0] - V["target"][k, 0])),
    "other_captions": ({}, lambda i, k: U["caption_number"][i] != V["caption_number"][k] or TARGET[i, k] > 0),
    "same_group": ({}, lambda i, k: U["group"][i] == V["group"][k]),
}


@pytest.mark.parametrize("name", NEGATIVES)
def test_rule_is_its_definition_on_every_valid_pair(name):
    options, definition = DEFINITIONS[name]
    got = NEGATIVES[name](*(jnp.asarray(x) for x in (LOGITS, TARGET, VALID)), U, V, **options)
    expected = [[float(definition(i, k)) if VALID[i, k] else 0.0 for k in range(KEYS)] for i in range(ROWS)]
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert len(np.unique(expected)) > 1


def test_hardest_with_fewer_negatives_than_asked_for_takes_all():
    got = hardest(jnp.asarray(LOGITS), jnp.asarray(TARGET), jnp.asarray(VALID), U, V, k=99)
    np.testing.assert_array_equal(got, VALID & (TARGET <= 0))


def test_importance_is_even_for_beta_zero_and_finite_without_negatives():
    given = [jnp.asarray(x) for x in (LOGITS, TARGET, VALID)]
    np.testing.assert_allclose(importance(*given, U, V, beta=0.0), VALID & (TARGET <= 0), rtol=1e-6)
    all_positive = jnp.ones((ROWS, KEYS))
    np.testing.assert_array_equal(importance(given[0], all_positive, given[2], U, V), np.zeros((ROWS, KEYS)))
    sharp = importance(100 * given[0], *given[1:], U, V)
    assert np.isfinite(jax.device_get(sharp)).all()
    np.testing.assert_allclose(sharp.max(axis=1), (VALID & (TARGET <= 0)).sum(axis=1), rtol=1e-3)
