"""Every graph source against a double loop over its definition, and every normaliser against its sum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xsample_jax.graphs.normalise import NORMALISERS, row_sum, softmax
from xsample_jax.graphs.sources import REQUIRES, SOURCES, unit_rows


def information(seed=0, rows=7):
    rng = np.random.default_rng(seed)
    return {
        "id": rng.integers(0, 4, rows),
        "label": rng.integers(-1, 3, rows),
        "caption_embedding": rng.normal(size=(rows, 5)),
        "class_embedding": rng.normal(size=(rows, 5)),
    }


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


DEFINITIONS = {
    "identity": lambda u, v: float(u["id"] == v["id"]),
    "label": lambda u, v: float(u["id"] == v["id"] or (u["label"] == v["label"] and u["label"] >= 0)),
    "caption": lambda u, v: cosine(u["caption_embedding"], v["caption_embedding"]),
    "class_text": lambda u, v: cosine(u["class_embedding"], v["class_embedding"]),
}


@pytest.mark.parametrize("name", SOURCES)
def test_source_is_its_definition_on_every_pair(name):
    u, v = information(0, 7), information(1, 5)
    row = lambda side, i: {key: value[i] for key, value in side.items()}  # noqa: E731
    expected = [[DEFINITIONS[name](row(u, i), row(v, k)) for k in range(5)] for i in range(7)]
    needed = {"id", *REQUIRES[name]}
    got = SOURCES[name](*({key: jnp.asarray(side[key]) for key in needed} for side in (u, v)))
    np.testing.assert_allclose(got, expected, atol=1e-6)
    own = SOURCES[name](u, u)
    np.testing.assert_allclose(own, own.T, atol=1e-6)


def test_float16_embeddings_give_float32_similarities():
    u = information()
    half = u["caption_embedding"].astype(np.float16)
    got = SOURCES["caption"]({"caption_embedding": half}, {"caption_embedding": half})
    assert got.dtype == jnp.float32
    unit = half.astype(np.float64) / np.linalg.norm(half.astype(np.float64), axis=1, keepdims=True)
    np.testing.assert_allclose(got, unit @ unit.T, atol=1e-6)


def test_unit_rows_have_a_finite_gradient_at_zero():
    gradient = jax.grad(lambda x: unit_rows(x).sum())(jnp.zeros((2, 3)))
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", NORMALISERS)
def test_rows_sum_to_one_over_valid_keys_only(name):
    rng = np.random.default_rng(0)
    similarity, valid = jnp.asarray(rng.uniform(0, 1, (6, 9))), jnp.asarray(rng.uniform(size=(6, 9)) > 0.3)
    target = NORMALISERS[name](similarity, valid, 0.1)
    np.testing.assert_allclose(target.sum(axis=1), 1, atol=1e-6)
    assert not target[~valid].any()


def test_softmax_against_numpy_and_its_limits():
    similarity = np.random.default_rng(0).uniform(-1, 1, (4, 4))
    valid = ~np.eye(4, dtype=bool)
    for tau in (0.05, 1.0):
        e = np.where(valid, np.exp(similarity / tau), 0)
        np.testing.assert_allclose(
            softmax(jnp.asarray(similarity), jnp.asarray(valid), tau), e / e.sum(1, keepdims=True), rtol=1e-4
        )
    sharp = softmax(jnp.asarray(similarity), jnp.asarray(valid), 1e-4)
    np.testing.assert_array_equal(np.argmax(sharp, 1), np.argmax(np.where(valid, similarity, -9), 1))
    np.testing.assert_allclose(softmax(jnp.asarray(similarity), jnp.asarray(valid), 1e6)[valid], 1 / 3, rtol=1e-4)


def test_a_row_without_positives_stays_zero():
    target = row_sum(jnp.asarray([[0.0, 0.0], [0.0, 2.0]]), jnp.ones((2, 2), bool))
    np.testing.assert_array_equal(target, [[0, 0], [0, 1]])
