"""PamC: attraction along a graph of neighbors, means of clusters that repel each other, and self-training."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives.golden_inputs import CASES, LABELS, Z1, Z2, extra, images, interleaved, preset_value
from tests.quick import quick_jit
from xsample_jax.errors import ConfigError
from xsample_jax.graphs.sources import nearest
from xsample_jax.graphs.targets import Graph
from xsample_jax.models.heads import unit_rows
from xsample_jax.objectives.blocks import Rows, key_block
from xsample_jax.objectives.cluster_centers import cluster_metrics, meta_block, self_training, soft_assignment
from xsample_jax.objectives.from_config import find_problems
from xsample_jax.objectives.objective import objective_loss
from xsample_jax.objectives.presets import PRESETS
from xsample_jax.objectives.terms import FeatureTerm, Term

PAMC = "PamC total: 2 x DEC self-training + 2 x meta-node contrast"
ATTRACTION, REPULSION = PRESETS["pamc"].objective.terms


def blocks_of(z, centers, views=1, **side):
    block = images(*[z[view::views] for view in range(views)], **side)
    centers = jnp.asarray(centers, jnp.float32)
    meta, block["assigned"] = meta_block(block["z"], centers, 1000)
    unit = centers / jnp.linalg.norm(centers, axis=1, keepdims=True)
    return {"image": block, "prototypes": key_block(unit) | {"raw": centers}, "meta": meta}


def given_graph(adjacency):
    """(a graph that is the symmetric 0/1 matrix `adjacency`, captions that it is made of)."""
    near = np.eye(12) + 0.05 * (adjacency - np.eye(12))
    graph = Graph("caption", "none", ({"name": "threshold", "at": 0.02, "binary": True},))
    return graph, np.linalg.cholesky(near).astype(np.float32)


def test_pamc_on_a_given_graph_has_value_parts_and_gradients_of_the_published_code():
    """The preset but for its graph; an empty fourth center changes nothing of the contrast.

    There rows are scaled for cosines, but summed and assigned at any length, which shows in the gradient alone.
    """
    graph, caption = given_graph(extra(PAMC, "adjacency"))
    terms = (dataclasses.replace(ATTRACTION, graph=graph), REPULSION)

    def loss(z, centers):
        blocks = blocks_of(unit_rows(z), centers, caption_embedding=caption)
        blocks["meta"] = meta_block(z, centers, 1000)[0]
        objective = dataclasses.replace(PRESETS["pamc"].objective, terms=terms)
        value, metrics = objective_loss(objective, blocks, 12, objective.temperature)
        any_length, of_unit = (self_training(x, None, blocks["prototypes"]) for x in (z, unit_rows(z)))
        return value + 2 * (any_length - of_unit), metrics

    centers = jnp.float32(extra(PAMC, "centers"))
    both = quick_jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    (value, metrics), slopes = both(jnp.float32(Z1), centers)
    assert value == pytest.approx(CASES[PAMC]["expected"], rel=1e-5)
    assert metrics["feature_self_training"] == pytest.approx(2 * CASES[PAMC]["extra"]["also"]["kl"], rel=1e-4)
    norms = CASES[PAMC]["extra"]["grad_norm"]
    assert [float(jnp.linalg.norm(slope)) for slope in slopes] == pytest.approx(
        [norms["z1"], norms["centers"]], rel=1e-4
    )
    far = jnp.concatenate([centers, jnp.full((1, 16), 100.0)])
    (_, more), (slope, _) = both(jnp.float32(Z1), far)
    contrast = lambda found: found["loss"] - found["feature_self_training"]  # noqa: E731
    assert float(contrast(more)) == pytest.approx(float(contrast(metrics)), rel=1e-5)
    assert np.isfinite(slope).all()
    assert more["clusters_used"] == metrics["clusters_used"] <= 3


def test_with_a_cluster_for_every_row_it_is_infonce():
    """A of own views, each row its own cluster: NT-Xent, whose self pair counts e^0 here."""
    z = interleaved(Z1, Z2)
    own = dataclasses.replace(ATTRACTION, graph=Graph("identity"), self_targets=False)
    value = preset_value("pamc", blocks_of(z, z, 2), terms=(own, REPULSION), feature_terms=(), temperature=0.5)
    s = np.asarray(z @ z.T) / 0.5
    np.fill_diagonal(s, 0.0)
    twin = np.arange(24) ^ 1
    assert value == pytest.approx(2 * np.mean(np.log(np.exp(s).sum(axis=1)) - s[np.arange(24), twin]), rel=1e-5)


def test_the_repulsion_costs_pairs_of_clusters_not_of_rows():
    """Four times the rows are four times the products at most: no matrix of rows by rows is made."""

    def flops(rows, term=REPULSION):
        z = jax.ShapeDtypeStruct((rows, 16), jnp.float32)
        blocks = lambda z: {"image": key_block(z), "meta": meta_block(z, jnp.eye(8, 16), 1000)[0]}  # noqa: E731
        objective = dataclasses.replace(PRESETS["pamc"].objective, terms=(term,), feature_terms=())
        slope = jax.grad(lambda z: objective_loss(objective, blocks(z), rows, 2.0)[0])
        return jax.jit(slope).lower(z).cost_analysis()["flops"]

    assert flops(1024) < 4.2 * flops(256)
    assert flops(1024, Term(Graph("uniform"), repulsion=0.0)) > 8 * flops(256, Term(Graph("uniform"), repulsion=0.0))


def test_neighbors_are_those_of_a_double_loop():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(9, 3))
    similarity = points @ points.T
    valid = np.ones((9, 9), bool)
    near = np.eye(9, dtype=bool)
    for i in range(9):
        for k in sorted((k for k in range(9) if k != i), key=lambda k: -similarity[i, k])[:2]:
            near[i, k] = near[k, i] = True
    reach = near.astype(int)
    for order in (1, 2, 3):
        found = nearest(jnp.asarray(similarity), jnp.asarray(valid), k=2, symmetric=True, order=order)
        np.testing.assert_array_equal(found, np.linalg.matrix_power(reach, order) > 0)
    valid[:, 4] = valid[4, :] = False
    found = np.asarray(nearest(jnp.asarray(similarity), jnp.asarray(valid), k=2, symmetric=True, order=2))
    assert not found[4].any()
    assert not found[:, 4].any()
    assert nearest(jnp.asarray(similarity[:4]), jnp.ones((4, 9), bool), k=2).sum(axis=1).tolist() == [2, 2, 2, 2]
    with pytest.raises(ConfigError, match="order 1, or symmetric"):
        nearest(jnp.asarray(similarity[:4]), jnp.ones((4, 9), bool), order=2)


def test_the_assignment_is_students_t_and_the_target_sharpens_it():
    centers = np.random.default_rng(1).normal(size=(4, 16))
    q = np.array([[1 / (1 + ((z - c) ** 2).sum()) for c in centers] for z in Z1])
    q /= q.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(soft_assignment(jnp.float32(Z1), jnp.float32(centers)), q, rtol=1e-5)
    p = q**2 / q.sum(axis=0)
    p /= p.sum(axis=1, keepdims=True)
    found = self_training(jnp.float32(Z1), None, {"raw": jnp.float32(centers)})
    assert found == pytest.approx((p * np.log(p / q)).sum(axis=1).mean(), rel=1e-4)


def test_agreement_with_labels_is_mutual_information_over_the_mean_of_entropies():
    cluster = np.array([0, 0, 1, 1, 2, 2, 5, 5, 0, 1, 2, 5])
    label = np.where(np.arange(12) == 3, -1, LABELS)
    found = cluster_metrics({"assigned": jnp.asarray(cluster), "label": jnp.asarray(label)})
    c, y = cluster[label >= 0], label[label >= 0]
    entropy = lambda x: -sum(n / 11 * np.log(n / 11) for n in np.unique(x, return_counts=True)[1])  # noqa: E731
    shared = entropy(c) + entropy(y) - entropy(100 * c + y)
    assert found["cluster_nmi"] == pytest.approx(2 * shared / (entropy(c) + entropy(y)), rel=1e-5)
    assert found["clusters_used"] == 4
    alike = cluster_metrics({"assigned": jnp.zeros(12, int), "label": jnp.zeros(12, int)})
    assert alike["cluster_nmi"] == 0


def test_what_does_not_go_together_is_refused():
    def found(term, **changes):
        objective = dataclasses.replace(PRESETS["pamc"].objective, terms=(term, REPULSION), **changes)
        return [str(problem) for problem in find_problems(objective)]

    assert found(ATTRACTION) == []
    crossed = dataclasses.replace(ATTRACTION, anchors=Rows("image", 0), keys=Rows("image", 1))
    (problem,) = found(crossed)
    assert "symmetric = True: expected false for a term whose keys are not its anchors" in problem
    ends = found(ATTRACTION, prototypes=0)
    terms = (FeatureTerm("self_training", Rows("image"), Rows("image")),)
    trained = list(map(str, find_problems(dataclasses.replace(PRESETS["simclr"].objective, feature_terms=terms))))
    assert (len(ends), len(trained)) == (2, 1)
    assert all("--config.objective.prototypes" in problem for problem in ends + trained)
