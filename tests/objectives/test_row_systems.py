"""Systems that look at rows as a whole: GroCo, CACR, WhitenedCSE; goldens with gradients, and what each claims."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives.golden_inputs import CASES, Z1, Z2, Z3, extra, images
from tests.objectives.test_build import problems
from tests.quick import quick_jit
from xsample_jax.models.heads import unit_rows
from xsample_jax.objectives import feature_losses
from xsample_jax.objectives.feature_losses import near_kernel, whitened, whitened_contrast
from xsample_jax.objectives.links import conditional, group_order, sorting_shares
from xsample_jax.objectives.objective import objective_loss
from xsample_jax.objectives.presets import PRESETS
from xsample_jax.objectives.terms import StepValues

GROCO = CASES["GroCo: 2 views, 10 nearest negatives"]
CACR, RBF = CASES["CACR total, Euclidean cost, three views"], CASES["CACR repulsion, RBF cost"]
WHITENED = CASES["WhitenedCSE loss, differentiated through the whitening"]
VIEWS = tuple(map(jnp.float32, (Z1, Z2, Z3)))


def with_slopes(preset, views=VIEWS, scaled=False, **changes):
    """((loss, metrics), gradients in the views) of a preset on raw rows that are the unit rows, in one program.

    scaled: whether the gradient passes the scaling to unit length, as in some published codes.
    """
    objective = dataclasses.replace(PRESETS[preset].objective, **changes)

    def loss(views):
        views = tuple(map(unit_rows, views)) if scaled else views
        blocks = {"image": images(*views, per_row={"raw": lambda z: z})}
        return objective_loss(
            objective, blocks, len(views[0]), objective.temperature, StepValues(key=jax.random.key(0))
        )

    return quick_jit(jax.value_and_grad(loss, has_aux=True))(views)


def norms(slopes):
    return {f"z{number}": float(np.linalg.norm(slope)) for number, slope in enumerate(slopes, 1)}


def test_groco_has_the_gradient_of_the_published_code():
    (value, metrics), slopes = with_slopes("groco", VIEWS[:2], scaled=True)
    assert value == pytest.approx(GROCO["expected"], rel=1e-5)
    assert norms(slopes)["z1"] == pytest.approx(GROCO["also"]["gradient_norm_z1"], rel=1e-4)
    # The golden's margin is that of the anchors of view 0.
    margins = [np.mean(np.sum(Z1 * Z2, axis=1) - np.max(z @ z.T - 9 * np.eye(12), axis=1)) for z in (Z1, Z2)]
    assert margins[0] == pytest.approx(GROCO["also"]["positive_minus_negative"], rel=1e-9)
    assert metrics["positive_margin"] == pytest.approx(np.mean(margins), rel=1e-5)


def network(values, steepness):
    """The relaxed odd-even network by loops over comparators, in numpy: shares [input, place]."""
    values, shares = list(values), np.eye(len(values))
    for layer in range(len(values)):
        for low in range(layer % 2, len(values) - 1, 2):
            alpha = np.arctan(steepness * (values[low + 1] - values[low])) / np.pi + 0.5
            exchange = np.array([[alpha, 1 - alpha], [1 - alpha, alpha]])
            values[low : low + 2] = exchange @ values[low : low + 2]
            shares[:, low : low + 2] = shares[:, low : low + 2] @ exchange.T
    return shares


@pytest.mark.parametrize("count", [7, 4, 1])
def test_the_network_is_that_of_its_comparators(count):
    """A row with fewer inputs has the network of its own size; steep comparators sort."""
    values = np.random.default_rng(count).normal(size=7).astype(np.float32)
    shares = np.asarray(sorting_shares(jnp.asarray(values)[None], jnp.array([count]), 3.0))[0]
    np.testing.assert_allclose(shares[:count, :count], network(values[:count], 3.0), atol=1e-6)
    np.testing.assert_allclose(shares[:count, :count].sum(axis=0), 1, atol=1e-6)
    steep = np.asarray(sorting_shares(jnp.asarray(values)[None], jnp.array([7]), 1e6))[0]
    np.testing.assert_array_equal(steep.argmax(axis=0), values.argsort())


def test_group_order_of_rows_of_all_kinds():
    """A constant changes nothing; a positive that rises does no harm; only the k nearest negatives have a gradient;
    rows without negatives or positives have a value; more positives than are compared: the least similar ones."""
    rng = np.random.default_rng(3)
    logits = jnp.asarray(rng.uniform(-1, 1, (5, 9)), jnp.float32)
    target = jnp.zeros((5, 9)).at[:, :2].set(1.0).at[3].set(1.0).at[4].set(0.0)
    valid = jnp.ones((5, 9), bool).at[2, 5:].set(False)

    def order(s, **options):
        return group_order(s, target, valid, k=4, **options)

    values = quick_jit(order, static_argnames="positives")
    both = quick_jit(jax.value_and_grad(lambda s: order(s).sum()))
    loss, slope = both(logits)
    np.testing.assert_allclose(values(logits + 0.7), values(logits), atol=1e-5)
    np.testing.assert_allclose(values(logits)[3:], 0, atol=1e-6)
    touched = np.asarray(slope[0, 2:] != 0)
    assert set(np.flatnonzero(touched)) == set(np.argsort(-logits[0, 2:])[:4].tolist())
    assert (np.asarray(slope)[:3, :2] < 0).all()
    assert np.isfinite(slope).all()
    assert float(both(logits.at[:3, 0].add(0.3))[0]) < float(loss)
    least = jnp.where(jnp.arange(9) == jnp.argmin(logits[:, :2], axis=1)[:, None], 1.0, 0.0) * (target > 0)
    alone = group_order(logits[:2], least[:2], (valid & ((least > 0) | (target <= 0)))[:2], k=4)
    np.testing.assert_allclose(values(logits, positives=1)[:2], alone, rtol=1e-5)


def test_cacr_has_the_parts_and_gradients_of_the_published_code():
    (value, _), slopes = with_slopes("cacr")
    assert value == pytest.approx(CACR["expected"], rel=1e-5)
    assert norms(slopes) == pytest.approx(CACR["extra"]["grad_norm"], rel=1e-4)
    (pull, _), _ = with_slopes("cacr", terms=PRESETS["cacr"].objective.terms[:1])
    assert pull == pytest.approx(CACR["also"]["attraction"], rel=1e-5)
    (push, _), slopes = with_slopes("cacr_rbf", terms=())
    assert push == pytest.approx(RBF["expected"], rel=1e-5)
    assert norms(slopes) == pytest.approx(RBF["extra"]["grad_norm"], rel=1e-4)
    whole, _ = with_slopes("cacr_rbf")
    assert whole[0] == pytest.approx(CACR["also"]["attraction"] + RBF["expected"], rel=1e-5)


def test_cacr_weighs_far_positives_and_near_negatives():
    """With far = near = 0 the weights are uniform: alignment less the mean distance of negatives; else they are not."""
    squares = np.random.default_rng(0).uniform(0.1, 4, (6, 8))
    target = (np.arange(8) < 3).astype(float) * np.ones((6, 1))
    valid = np.ones((6, 8), bool)

    def by_hand(far, near):
        pull, push = np.exp(far * squares[:, :3]), np.exp(-near * squares[:, 3:])
        pull, push = pull / pull.sum(1, keepdims=True), push / push.sum(1, keepdims=True)
        return (pull * squares[:, :3]).sum(1) - (push * squares[:, 3:]).sum(1)

    for far, near in ((0.0, 0.0), (1.0, 0.9), (3.0, 2.0)):
        got = conditional(jnp.asarray(-squares), jnp.asarray(target), valid, far=far, near=near)
        np.testing.assert_allclose(got, by_hand(far, near), atol=1e-5)
    np.testing.assert_allclose(by_hand(0, 0), squares[:, :3].mean(1) - squares[:, 3:].mean(1))
    flat = np.asarray(near_kernel(*VIEWS[:2], near=0.0))
    distances = 2 - 2 * Z1 @ Z2.T
    off = ~np.eye(12, dtype=bool)
    assert flat == pytest.approx(np.log(np.exp(-2 * distances)[off].mean()), rel=1e-5)
    assert near_kernel(*VIEWS[:2], near=5.0) > flat


def test_whitened_cse_has_the_value_and_gradients_of_its_golden(monkeypatch):
    """The golden has one order for each of its three copies; both terms of the preset are given those of theirs."""
    orders = extra("WhitenedCSE loss, differentiated through the whitening", "permutations")
    given = iter([orders[[0, 1]], orders[[0, 2]]])
    monkeypatch.setattr(feature_losses, "channel_orders", lambda key, width: jnp.asarray(next(given)))
    terms = tuple(
        dataclasses.replace(term, name={**term.name, "temperature": 0.2})
        for term in PRESETS["whitened_cse"].objective.feature_terms
    )
    (value, _), slopes = with_slopes("whitened_cse", feature_terms=terms)
    assert value == pytest.approx(WHITENED["expected"], rel=1e-5)
    assert norms(slopes) == pytest.approx(WHITENED["extra"]["grad_norm"], rel=1e-4)


def test_a_whitened_copy_is_the_published_one_and_has_no_correlation_left():
    name = "WhitenedCSE: one whitened copy (sum of cubes)"
    order = jnp.asarray(extra(name, "permutations")[0])
    rows = whitened(VIEWS[0], order, 4)
    np.testing.assert_allclose(rows, extra(name, "output"), atol=2e-5)
    groups = np.asarray(rows)[:, np.asarray(order)].reshape(12, 4, 4)
    for group in range(4):
        np.testing.assert_allclose(groups[:, group].T @ groups[:, group] / 12, np.eye(4), atol=1e-5)


def test_whitening_survives_collapse_and_can_hold_its_matrices():
    """Rows of rank one have finite values and gradients; without `through` the matrices have no gradient."""
    key, flat = jax.random.key(2), jnp.ones((8, 8)) * jnp.linspace(1, 2, 8)[:, None]
    both = quick_jit(jax.value_and_grad(lambda z: whitened_contrast(z, z, key)))
    for rows in (flat, jnp.ones((8, 8))):
        value, slope = both(rows)
        assert np.isfinite(value)
        assert np.isfinite(slope).all()

    def slope(through):
        contrast = lambda z: whitened_contrast(z, VIEWS[1], key, temperature=1.0, through=through)  # noqa: E731
        return quick_jit(jax.grad(contrast))(VIEWS[0]) * VIEWS[0]

    # A matrix that follows its rows takes the scale of every group away, and with it the gradient along it.
    groups = np.asarray(feature_losses.channel_orders(key, 16)[0]).reshape(4, 4)
    along = {through: np.asarray(slope(through))[:, groups].sum(axis=(0, 2)) for through in (True, False)}
    np.testing.assert_allclose(along[True], 0, atol=1e-5)
    assert np.abs(along[False]).max() > 1e-2
    other = whitened_contrast(*VIEWS[:2], jax.random.key(3))
    assert other != whitened_contrast(*VIEWS[:2], key)


@pytest.mark.parametrize(
    ("term", "field", "words"),
    [
        ({"link": "group_order", "graph": "uniform"}, "graph", "a graph with zeros"),
        ({"link": {"name": "group_order", "k": 0}}, "link.k", "at least 1"),
        ({"link": "pairwise", "negatives": "importance"}, "negatives", "takes a pair or leaves it out"),
        ({"link": "conditional"}, "similarity", "negative_distance"),
        (
            {"link": {"name": "conditional", "part": "pull"}, "similarity": "negative_distance"},
            "link.part",
            "one of both, attraction, repulsion",
        ),
        ({"name": {"name": "whitened_contrast", "width": 0}}, "name.width", "at least 1"),
    ],
)
def test_what_makes_no_sense_is_refused(term, field, words):
    (problem,) = problems(terms=(term,))
    assert problem.field.endswith(field)
    assert words in str(problem)
