"""Every rule for row weights against numpy, and that no gradient flows through them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xsample_jax.graphs.targets import Graph
from xsample_jax.objectives.blocks import image_block
from xsample_jax.objectives.objective import Objective, objective_loss
from xsample_jax.objectives.row_weights import WEIGHTS, WeightInputs
from xsample_jax.objectives.terms import Term

RNG = np.random.default_rng(4)
ROWS, KEYS, TAU = 5, 7, 0.2
COSINE = RNG.uniform(-1, 1, (ROWS, KEYS))
LOGITS = COSINE / TAU
TARGET = np.zeros((ROWS, KEYS))
TARGET[np.arange(ROWS), np.arange(ROWS)] = 1
WEIGHT = (RNG.uniform(size=(ROWS, KEYS)) < 0.8).astype(float)
WEIGHT[np.arange(ROWS), np.arange(ROWS)] = 1
NEGATIVE = WEIGHT * (TARGET == 0)
U = {"log_average": RNG.normal(size=ROWS), "anchor_temperature": RNG.uniform(0.05, 0.5, ROWS)}
U["weight"] = np.array([0.5, 2, 1, 1, 0.5])
U["id"] = np.array([0, 0, 1, 1, 1])


def probability(i, tau=TAU):
    e = np.exp(COSINE[i] / tau)
    return e[i] / np.sum(WEIGHT[i] * e)


def mean_negative(i):
    """Z_i: with the negatives alone in the denominator."""
    return np.sum(NEGATIVE[i] * np.exp(LOGITS[i])) / NEGATIVE[i].sum()


def near_positive(i):
    e = np.exp([COSINE[j, j] / 0.5 for j in range(ROWS)])
    return 2 - ROWS * e[i] / e.sum()


def by_loss(i):
    """The upper half of the losses weighs alike; three times the weight of the smallest, for r = 1 / log 3."""
    losses = [-np.log(probability(j)) for j in range(ROWS)]
    h = 2 * (np.array(losses) - min(losses)) / (max(losses) - min(losses)) - 1
    powers = 3 ** np.minimum(h + 1, 1)
    return ROWS * powers[i] / powers.sum()


def far_views(i):
    """By the squared distance to the positive, among the anchors of one image; 1 on average."""
    own = [j for j in range(ROWS) if U["id"][j] == U["id"][i]]
    e = {j: np.exp((2 - 2 * COSINE[j, j]) / TAU) for j in own}
    return len(own) * e[i] / sum(e.values())


CASES = {
    "far_views": ({}, WEIGHT, far_views),
    "focal": ({"gamma": 0.7}, WEIGHT, lambda i: (1 - probability(i)) ** 0.7),
    "inverse_one_minus_p": ({}, WEIGHT, lambda i: 1 / (1 - probability(i))),
    "dual_temperature": (
        {"cold": 0.1, "warm": 0.8},
        WEIGHT,
        lambda i: (1 - probability(i, 0.8)) / (1 - probability(i, 0.1)),
    ),
    "near_positive": ({}, WEIGHT, near_positive),
    "by_loss": ({"r": 1 / np.log(3)}, WEIGHT, by_loss),
    "recorded": ({}, WEIGHT, lambda i: 1 / U["weight"][i]),
    "moving_average": ({}, NEGATIVE, lambda i: mean_negative(i) / np.exp(U["log_average"][i])),
    "moving_average_gap": (
        {},
        NEGATIVE,
        lambda i: U["anchor_temperature"][i] * mean_negative(i) / np.exp(LOGITS[i, i] + U["log_average"][i]),
    ),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_rule_against_numpy(name):
    options, weight, expected = CASES[name]
    log_denominator = np.log(np.sum(weight * np.exp(LOGITS), axis=1, keepdims=True))
    given = (jnp.asarray(x) for x in (LOGITS, TARGET, weight, log_denominator))
    u = {key: jnp.asarray(value) for key, value in U.items()}
    got = WEIGHTS[name](WeightInputs(*given, u, TAU, 0.5), **options)
    np.testing.assert_allclose(got, [expected(i) for i in range(ROWS)], rtol=1e-4)


def test_weights_stay_finite_on_rows_that_are_all_solved_or_far_from_their_average():
    logits = jnp.asarray(100 * TARGET - 100 * (1 - TARGET))
    average = {"log_average": jnp.full(ROWS, -1e3), "anchor_temperature": jnp.full(ROWS, 0.1)}
    average |= {"weight": jnp.full(ROWS, 1e-6), "id": jnp.asarray(U["id"])}
    for name, (options, weight, _) in CASES.items():
        log_denominator = jax.nn.logsumexp(logits, axis=1, keepdims=True)
        given = (jnp.asarray(x) for x in (logits, TARGET, weight, log_denominator))
        got = WEIGHTS[name](WeightInputs(*given, average, TAU, 0.5), **options)
        assert np.isfinite(got).all(), name


@pytest.mark.parametrize("slot", ["row_weight", "attraction", "repulsion"])
def test_no_gradient_through_weights(slot):
    """The gradient is that of the loss with the weights as constants."""
    z = RNG.normal(size=(6, 4))
    z /= np.linalg.norm(z, axis=1, keepdims=True)

    def loss(z, weight):
        objective = Objective((Term(Graph(), **{slot: weight}),), TAU)
        return objective_loss(objective, {"image": image_block(z, {"id": jnp.arange(3)}, 2)}, 3, TAU)[0]

    def numpy_gradient(scale):
        """d/dz of mean_i [r_i log sum_k e^S_ik - a_i S_ii+] times w_i, S = z z' / tau, written out."""
        w, a, r = (scale if slot == name else np.ones(6) for name in ("row_weight", "attraction", "repulsion"))
        e = np.exp(z @ z.T / TAU) * ~np.eye(6, dtype=bool)
        twin = np.eye(6)[np.arange(6) ^ 1]
        of_logits = (w * r)[:, None] * e / e.sum(axis=1, keepdims=True) - (w * a)[:, None] * twin
        return (of_logits + of_logits.T) @ z / TAU / 6

    e = np.exp(z @ z.T / TAU) * ~np.eye(6, dtype=bool)
    p = np.array([e[i, i ^ 1] / e[i].sum() for i in range(6)])
    got = jax.jit(jax.grad(loss), static_argnums=1)(jnp.asarray(z, jnp.float32), "inverse_one_minus_p")
    np.testing.assert_allclose(got, numpy_gradient(1 / (1 - p)), rtol=1e-3, atol=1e-5)
