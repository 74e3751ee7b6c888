"""Rules that choose tau_s: what they promise is counted again in float64 numpy."""

import numpy as np
import pytest

from tests.quick import quick_jit
from xsample_jax.graphs.targets import HIGHEST, LOWEST, ROWS, Graph, solve_temperature, target

RNG = np.random.default_rng(0)


def batch(images=40, views=2):
    """Cosines of captions of which images 2 k and 2 k + 1 share one; all rows but the own are keys."""
    captions = np.repeat(RNG.normal(size=(images // 2, 6)), 2, axis=0)
    captions[-1] = RNG.normal(size=6)  # the last image shares its caption with nobody but its other view
    unit = np.repeat(captions / np.linalg.norm(captions, axis=1, keepdims=True), views, axis=0)
    return unit @ unit.T, ~np.eye(images * views, dtype=bool)


def softmax64(similarity, valid, tau):
    e = np.where(valid, np.exp((similarity - 1) / tau), 0)
    return e / e.sum(axis=1, keepdims=True)


def effective_neighbors(graph):
    entropy = [-sum(p * np.log(p) for p in row if p > 0) for row in graph]
    return np.exp(np.mean(entropy))


@pytest.mark.parametrize("count", [4.0, 12.5, 60.0])
def test_neighbors(count):
    similarity, valid = batch()
    tau = float(quick_jit(lambda s: solve_temperature({"name": "neighbors", "count": count}, s, valid))(similarity))
    assert effective_neighbors(softmax64(similarity, valid, tau)) == pytest.approx(count, rel=1e-3)


@pytest.mark.parametrize("mass", [0.3, 0.9])
@pytest.mark.parametrize("views", [1, 2])
def test_same_mass(mass, views):
    similarity, valid = batch(views=views)
    tau = float(quick_jit(lambda s: solve_temperature({"name": "same_mass", "mass": mass}, s, valid))(similarity))
    graph, same = softmax64(similarity, valid, tau), (similarity > 1 - 1e-6) & valid
    rows = [sum(graph[i, same[i]]) for i in range(len(graph)) if same[i].any()]
    assert len(rows) == (80 if views == 2 else 38)  # rows without a key of their own text do not count
    assert np.mean(rows) == pytest.approx(mass, rel=1e-3)


def test_what_cannot_be_reached_gives_an_end_of_the_range():
    similarity, valid = batch()
    rule = quick_jit(lambda count: solve_temperature({"name": "neighbors", "count": count}, similarity, valid))
    assert float(rule(1000.0)) == pytest.approx(HIGHEST, rel=1e-4)
    assert float(rule(1.5)) == pytest.approx(LOWEST, rel=1e-4)  # three keys have the very same text


def test_a_number_is_itself_and_a_rule_reads_the_first_rows():
    assert solve_temperature(0.07, None, None) == 0.07
    similarity = RNG.uniform(-1, 1, (2 * ROWS, 30))
    valid = np.ones(similarity.shape, bool)
    rule = {"name": "neighbors", "count": 7.0}
    tau = quick_jit(lambda s: solve_temperature(rule, s, valid))(similarity)
    assert effective_neighbors(softmax64(similarity[:ROWS], valid[:ROWS], float(tau))) == pytest.approx(7, rel=1e-3)


def test_a_graph_with_a_rule():
    images = 30
    captions = RNG.normal(size=(images, 4))
    side = {"id": np.arange(images), "caption_embedding": captions}
    graph = Graph("caption", "softmax", target_temperature={"name": "neighbors", "count": 5.0})
    valid = ~np.eye(images, dtype=bool)
    got = np.asarray(quick_jit(lambda s: target(graph, s, s, valid, 0.1))(side), np.float64)
    assert effective_neighbors(got) == pytest.approx(5, rel=1e-3)
