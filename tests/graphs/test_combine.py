"""Graphs as data: order of the steps, mixtures, what they read, and their names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.quick import quick_jit
from xsample_jax.errors import ConfigError
from xsample_jax.graphs.targets import Graph, Mixture, describe, parts_of, requires, target

RNG = np.random.default_rng(3)
U = {
    "id": jnp.arange(5),
    "label": jnp.asarray([0, 1, 0, -1, 1]),
    "caption_embedding": jnp.asarray(RNG.normal(size=(5, 3))),
}
VALID = ~np.eye(5, dtype=bool)
CAPTIONS = np.asarray(U["caption_embedding"], np.float64)
COSINES = CAPTIONS @ CAPTIONS.T / np.linalg.norm(CAPTIONS, axis=1)[:, None] / np.linalg.norm(CAPTIONS, axis=1)[None]


def softmaxed(similarity, tau):
    e = np.where(VALID, np.exp(similarity / tau), 0)
    return e / e.sum(axis=1, keepdims=True)


def test_transforms_are_applied_in_order_before_the_normalizer():
    affine, square = {"name": "affine", "scale": 0.5, "offset": 0.5}, {"name": "power", "exponent": 2.0}
    first = target(Graph("caption", "softmax", (affine, square)), U, U, VALID, 0.2)
    second = target(Graph("caption", "softmax", (square, affine)), U, U, VALID, 0.2)
    np.testing.assert_allclose(first, softmaxed(((1 + COSINES) / 2) ** 2, 0.2), atol=1e-6)
    np.testing.assert_allclose(second, softmaxed((1 + np.maximum(COSINES, 0) ** 2) / 2, 0.2), atol=1e-6)


def test_the_graphs_own_temperature_goes_before_the_objectives():
    own = target(Graph("caption", "softmax", target_temperature=0.05), U, U, VALID, 0.2)
    np.testing.assert_allclose(own, softmaxed(COSINES, 0.05), atol=1e-6)
    np.testing.assert_allclose(
        target(Graph("caption", "softmax"), U, U, VALID, 0.2), softmaxed(COSINES, 0.2), atol=1e-6
    )


def test_a_mixture_is_the_weighted_sum_of_its_targets():
    parts = Graph("caption", "softmax"), Graph("label"), Graph("uniform")
    mixed = target(Mixture(parts, (0.5, 0.3, 0.2)), U, U, VALID, 0.1)
    same = np.array([[a == b != -1 for b in (0, 1, 0, -1, 1)] for a in (0, 1, 0, -1, 1)]) & VALID
    expected = 0.5 * softmaxed(COSINES, 0.1) + 0.3 * same + 0.2 * VALID / 4  # at most one other of a class
    np.testing.assert_allclose(mixed, expected, atol=1e-6)
    np.testing.assert_allclose(mixed.sum(axis=1), [1, 1, 1, 0.7, 1], atol=1e-6)  # image 3 has no class


def test_no_gradient_flows_into_a_target():
    def total(captions):
        side = U | {"caption_embedding": captions}
        mixed = Mixture((Graph("caption", "softmax"), Graph("caption", "sinkhorn")), (0.5, 0.5))
        return jnp.sum(target(mixed, side, side, VALID, 0.1) * jnp.arange(25.0).reshape(5, 5))

    np.testing.assert_array_equal(quick_jit(jax.grad(total))(U["caption_embedding"]), 0)


def test_what_a_graph_reads():
    assert requires(Graph("identity")) == set()
    assert requires(Graph({"name": "hierarchy", "measure": "path"})) == {"path"}
    assert requires(Mixture((Graph("caption"), Graph("label")), (0.5, 0.5))) == {"caption_embedding", "label"}
    assert parts_of(Graph("label")) == (Graph("label"),)


def test_a_graph_in_words():
    assert describe(Graph("caption", "softmax")) == "softmax(caption)"
    assert describe(Graph("identity", "none")) == "identity"
    assert describe(Mixture((Graph(), Graph("uniform")), (0.9, 0.1))) == "0.9 row_sum(identity) + 0.1 row_sum(uniform)"
    transforms = ({"name": "top_k", "k": 3}, "affine")
    graph = Graph({"name": "teacher", "own": False}, {"name": "sinkhorn", "iterations": 5}, transforms)
    assert describe(graph) == "sinkhorn[iterations=5](affine of top_k[k=3] of teacher[own=False])"


def test_wrong_names_are_explained():
    with pytest.raises(ConfigError, match="Did you mean caption"):
        target(Graph("captions"), U, U, VALID, 0.1)
    with pytest.raises(ConfigError, match=r"graph\.transforms\.kk"):
        target(Graph("caption", "softmax", ({"name": "top_k", "kk": 3},)), U, U, VALID, 0.1)
