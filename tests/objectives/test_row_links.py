"""Soft top-k (DEXML) and order losses (CoDiEmb): goldens with gradients, and what each claims."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives.golden_inputs import CASES, QUEUE, Z1, Z3, extra
from tests.objectives.test_build import problems
from tests.quick import quick_jit
from xsample_jax.graphs.targets import Graph
from xsample_jax.objectives.blocks import image_block
from xsample_jax.objectives.links import pearson, pro, rank_kl, soft_top_k
from xsample_jax.objectives.objective import objective_loss
from xsample_jax.objectives.presets import PRESETS

CODI = {"Pearson": "CoDiEmb: 1 - Pearson", "PRO": "CoDiEmb: PRO"}
CODI["total"] = "CoDiEmb: STS total 2 Pearson + .5 PRO + 5 rank KL"
SCORES = jnp.asarray(CASES[CODI["PRO"]]["extra"]["scores"], jnp.float32)


@pytest.mark.parametrize(
    ("name", "alpha"),
    [("DEXML soft top-k: k=5, alpha=2, gradient", 2.0), ("DEXML soft top-k (per-row threshold + log-sigmoid)", 1.0)],
)
def test_soft_top_k_gives_the_goldens(name, alpha):
    target = jnp.asarray(extra(name, "targets"), jnp.float32)

    def value(z):
        logits = z @ jnp.float32(QUEUE).T / 0.2
        return soft_top_k(logits, target, jnp.ones(target.shape, bool), k=5, alpha=alpha).mean()

    loss, slope = quick_jit(jax.value_and_grad(value))(jnp.float32(Z1))
    assert loss == pytest.approx(CASES[name]["expected"], rel=1e-5)
    if "also" in CASES[name]:
        assert np.linalg.norm(slope) == pytest.approx(CASES[name]["also"]["gradient_norm_z1"], rel=1e-4)


def test_soft_top_k_is_zero_when_the_positives_are_the_k_best_in_any_order():
    """Property: a softmax over the same row cannot be: its positives compete with each other."""
    logits = jnp.array([[30.0, 20.0, 25.0, -20.0, -25.0, -30.0]])
    target = jnp.array([[1.0, 1.0, 1.0, 0, 0, 0]])
    everything = jnp.ones((1, 6), bool)
    loss, slope = jax.value_and_grad(lambda s: soft_top_k(s, target, everything, k=0)[0])(logits)
    assert loss < 1e-6
    np.testing.assert_allclose(slope, 0, atol=1e-6)
    softmax = -jnp.sum(target / 3 * jax.nn.log_softmax(logits))
    assert softmax > 1
    assert soft_top_k(logits, target, everything, k=2)[0] > 0.5  # room for two of the three
    assert soft_top_k(jnp.flip(logits), target, everything, k=0)[0] > 10


def test_soft_top_k_has_gradient_rows_that_sum_to_zero():
    logits = 3 * jax.random.normal(jax.random.key(0), (5, 9))
    target = (jax.random.uniform(jax.random.key(1), (5, 9)) < 0.3).at[:, 0].set(True).astype(jnp.float32)
    slope = jax.grad(lambda s: soft_top_k(s, target, jnp.ones((5, 9), bool), k=3).sum())(logits)
    assert np.abs(slope).max() > 0.05
    np.testing.assert_allclose(slope.sum(axis=1), 0, atol=1e-5)


def test_soft_top_k_of_fewer_keys_than_k_is_finite():
    logits, target = jnp.array([[2.0, 1.0], [0.5, 9.0]]), jnp.eye(2)
    for valid in (jnp.ones((2, 2), bool), jnp.eye(2, dtype=bool), jnp.zeros((2, 2), bool)):
        value, slope = jax.value_and_grad(lambda s: soft_top_k(s, target * valid, valid, k=5).sum())(logits)  # noqa: B023
        assert np.isfinite(value)
        assert np.isfinite(slope).all()


@pytest.mark.parametrize("name", CODI)
def test_order_losses_of_one_list_give_the_goldens(name):
    """The golden has one list of pairs per batch: a row of twelve keys, with the scores / 0.05 for its logits."""
    golden = CASES[CODI[name]]
    valid = jnp.ones((1, 12), bool)
    weights = {"Pearson": (1, 0, 0), "PRO": (0, 1, 0), "total": (2, 0.5, 5)}[name]

    def value(z):
        logits = jnp.sum(z * jnp.float32(Z3), axis=1)[None] / 0.05
        losses = [link(logits, SCORES[None], valid)[0] for link in (pearson, pro, rank_kl)]
        return sum(weight * loss for weight, loss in zip(weights, losses, strict=True))

    loss, slope = quick_jit(jax.value_and_grad(value))(jnp.float32(Z1))
    assert loss == pytest.approx(golden["expected"], rel=1e-5)
    gradient = golden["also"]["gradient_norm_z1"]
    # The golden's PRO and rank KL divide by 0.05 too; Pearson does not see a factor.
    assert np.linalg.norm(slope) == pytest.approx(gradient, rel=1e-4)


def test_the_preset_is_the_weighted_losses_of_its_rows():
    """codi_graph on two views, against a loop over rows with captions whose cosines are known."""
    rng = np.random.default_rng(2)
    captions, z = rng.normal(size=(6, 5)), rng.normal(size=(12, 8))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    side = {"id": jnp.arange(6), "caption_embedding": jnp.asarray(captions, jnp.float32)}
    loss, metrics = objective_loss(
        PRESETS["codi_graph"].objective, {"image": image_block(jnp.asarray(z, jnp.float32), side, 2)}, 6, 0.05
    )
    unit = np.repeat(captions / np.linalg.norm(captions, axis=1, keepdims=True), 2, axis=0)
    truth, logits = 2.5 * (1 + unit @ unit.T), z @ z.T / 0.05
    rows = []
    for i in range(12):
        others = [k for k in range(12) if k != i]
        given = (jnp.asarray(logits[i, others])[None], jnp.asarray(truth[i, others], jnp.float32)[None])
        parts = [float(link(*given, jnp.ones((1, 11), bool))[0]) for link in (pearson, pro, rank_kl)]
        rows.append(np.dot((2, 0.5, 5), parts))
    assert loss == pytest.approx(np.mean(rows), rel=1e-4)
    assert metrics["rows_without_negative"] == 0


def test_only_the_order_matters_to_rank_kl_and_an_affine_map_to_nothing_in_pearson():
    logits, valid = 4 * jax.random.normal(jax.random.key(0), (3, 12)), jnp.ones((3, 12), bool)
    truth = jnp.tile(SCORES, (3, 1))
    np.testing.assert_allclose(pearson(5 * logits - 3, 2 * truth + 1, valid), pearson(logits, truth, valid), rtol=1e-4)
    np.testing.assert_allclose(rank_kl(logits, jnp.exp(truth), valid), rank_kl(logits, truth, valid), rtol=1e-5)
    assert np.abs(pro(logits, jnp.exp(truth), valid) - pro(logits, truth, valid)).min() > 0.01
    np.testing.assert_allclose(pearson(3 * truth + 2, truth, valid), 0, atol=1e-5)
    np.testing.assert_allclose(pearson(-truth, truth, valid), 2, rtol=1e-5)
    for link in (pearson, pro, rank_kl):  # the right order costs less than the reverse
        assert (link(6 * truth, truth, valid) < link(-6 * truth, truth, valid)).all()


def test_what_they_have_no_meaning_for_is_refused():
    soft = {"source": "caption", "normalizer": "softmax"}
    (problem,) = problems(preset="xclr", terms=({"graph": soft, "link": "soft_top_k"},))
    assert "a graph with zeros" in str(problem)
    (problem,) = problems(preset="simclr", terms=({"graph": {"source": "uniform"}, "link": "pearson"},))
    assert "pairs differ" in str(problem)
    (problem,) = problems(preset="simclr", terms=({"link": {"name": "soft_top_k", "k": -1}},))
    assert problem.field == "objective.terms[0].link.k"
    assert PRESETS["soft_top_k"].objective.terms[0].graph == Graph("label")
