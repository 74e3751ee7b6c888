"""What is kept between steps, simulated in numpy: queue, teacher, moving averages, temperatures of single images."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives import synthetic
from tests.quick import quick_jit
from xsample_jax.graphs.targets import Graph
from xsample_jax.objectives.blocks import image_block, key_block
from xsample_jax.objectives.learned_state import (
    UNSEEN,
    OwnTemperature,
    cool_temperatures,
    init_memory,
    move_teacher,
    nearest,
    push,
    queue_block,
    recall,
    teacher_params,
)
from xsample_jax.objectives.objective import Objective, objective_loss
from xsample_jax.objectives.presets import PRESETS
from xsample_jax.objectives.terms import Term

PUBLISHED = OwnTemperature()
GAMMA, CLIP, MOMENTUM = PUBLISHED.gamma, PUBLISHED.clip, PUBLISHED.momentum
RNG = np.random.default_rng(11)
START = RNG.bit_generator.state
SIDE = {"label": jax.ShapeDtypeStruct((4,), jnp.int32)}


@pytest.fixture(autouse=True)
def _same_numbers_whichever_tests_run():
    RNG.bit_generator.state = START


def unit(*shape):
    x = RNG.normal(size=shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


# The queue.


def test_the_queue_is_first_in_first_out():
    memory = init_memory(Objective((Term(),), 0.1, queue=5), {}, 3, 10, SIDE)
    assert not memory["queue/filled"].any()
    remembered, number = [], 0
    for count in (2, 2, 2, 7, 2):
        z, label = RNG.normal(size=(count, 3)), np.arange(number, number + count)
        number += count
        memory |= push(memory, key_block(jnp.asarray(z), label=jnp.asarray(label)))
        kept = min(count, 5)  # of a batch that is larger than the queue, the first ones
        remembered = (remembered + list(zip(label[:kept], z[:kept])))[-5:]
        filled = np.asarray(memory["queue/filled"])
        assert filled.sum() == len(remembered)
        order = np.argsort(memory["queue/label"][filled])
        np.testing.assert_array_equal(memory["queue/label"][filled][order], [label for label, _ in remembered])
        np.testing.assert_allclose(memory["queue/z"][filled][order], [z for _, z in remembered], rtol=1e-6)


def test_the_queue_block_is_masked_where_it_is_not_filled_and_is_nobodys_row():
    memory = init_memory(Objective((Term(),), 0.1, queue=5), {}, 3, 10, SIDE)
    memory |= push(memory, key_block(jnp.asarray(unit(2, 3)), label=jnp.asarray([4, 7])))
    block = queue_block(memory)
    np.testing.assert_array_equal(block["filled"], [True, True, False, False, False])
    np.testing.assert_array_equal(block["label"][:2], [4, 7])
    np.testing.assert_array_equal(block["teacher"], block["z"])
    assert set(np.asarray(block["id"])) == set(np.asarray(block["row"])) == {-1}


def test_the_queue_keeps_the_teachers_first_views_and_the_loss_reads_them_one_step_later():
    objective = synthetic.small(PRESETS["moco"].objective)
    step = quick_jit(lambda inputs: synthetic.loss_of(objective, inputs))
    memory, history = synthetic.inputs_of(objective)["memory"], []
    for number in range(4):
        inputs = synthetic.inputs_of(objective, number) | {"memory": memory}
        loss, (_, memory) = step(inputs)
        z = inputs["trained"]["images"] / np.linalg.norm(inputs["trained"]["images"], axis=1, keepdims=True)
        teacher = inputs["batch"]["teacher_image"]
        teacher = teacher / np.linalg.norm(teacher, axis=1, keepdims=True)
        past = np.concatenate([np.zeros((0, 8)), *history[-2:]])  # 16 places, 8 images a step
        rows = []
        for view, other in ((0, 1), (1, 0)):
            own = np.sum(z[view::2] * teacher[other::2], axis=1) / 0.2
            queue = np.exp(z[view::2] @ past.T / 0.2).sum(axis=1)  # other keys of the batch do not compete (A5 b)
            rows += list(np.log(np.exp(own) + queue) - own)
        assert float(loss) == pytest.approx(np.mean(rows), rel=1e-5, abs=1e-6)
        history.append(teacher[::2])
        expected = np.concatenate(history[-2:]) if number != 2 else np.concatenate([history[2], history[1]])
        if number in (1, 2):
            np.testing.assert_allclose(memory["queue/z"], expected, rtol=1e-5, atol=1e-6)


def test_without_a_teacher_the_queue_keeps_the_students_rows_without_gradient():
    objective = Objective((Term(),), 0.1, queue=6)
    memory = init_memory(objective, {}, 4, 10, {})

    def kept(z):
        blocks = {"image": image_block(z, {"id": jnp.arange(3)}, 2)}
        return recall(objective, blocks, memory, {"id": jnp.arange(3)}, 0.1)[1]["queue/z"]

    z = jnp.asarray(unit(6, 4), jnp.float32)
    np.testing.assert_array_equal(kept(z)[:3], z[::2])
    np.testing.assert_array_equal(jax.grad(lambda z: kept(z).sum())(z), 0)


# The teacher.


def test_the_teacher_is_an_exponential_average_of_the_parameters():
    history = [{"encoder/w": RNG.normal(size=3), "objective/log_scale": np.float64(number)} for number in range(6)]
    objective = Objective((Term(),), 0.1, teacher=0.9)
    memory = init_memory(objective, {k: jnp.asarray(v) for k, v in history[0].items()}, 4, 10, {})
    assert set(teacher_params(memory)) == {"encoder/w"}  # what the objective learns has no teacher
    for params in history[1:]:
        memory |= move_teacher(memory, params, 0.9)
    shares = [0.9**5, *(0.1 * 0.9 ** (5 - step) for step in range(1, 6))]
    assert sum(shares) == pytest.approx(1)
    expected = sum(share * params["encoder/w"] for share, params in zip(shares, history))
    np.testing.assert_allclose(teacher_params(memory)["encoder/w"], expected, rtol=1e-5)


# Moving averages of denominators (SogCLR) and temperatures of single images (iSogCLR).

BATCHES = [[0, 1, 2, 3], [2, 5, 3, 4], [3, 0, 5, 1]]  # places in the split; images come back
DATA = 6


def negatives(i):
    return [k for k in range(8) if k // 2 != i // 2]


def run(objective, z, index, memory):
    """(loss, gradient, memory) of a step on four images with two views, in float64."""

    def loss_of(z, memory):
        per_image = {"id": 10 + jnp.asarray(index)}
        blocks = {"image": image_block(z, per_image, 2)}
        batch = {"id": per_image["id"], "index": jnp.asarray(index)}
        blocks, new = recall(objective, blocks, memory, batch, objective.temperature)
        return objective_loss(objective, blocks, 4, objective.temperature)[0], new

    memory = {name: jnp.asarray(value, jnp.float64) for name, value in memory.items()}
    (loss, new), gradient = quick_jit(jax.value_and_grad(loss_of, has_aux=True))(z, memory)
    return float(loss), np.asarray(gradient), {name: np.asarray(value) for name, value in new.items()}


def finite_difference(function, z, places):
    found = []
    for place in places:
        step = np.zeros_like(z)
        step[place] = 1e-5
        found.append((function(z + step) - function(z - step)) / 2e-5)
    return found


PLACES = [(0, 0), (1, 2), (4, 1), (7, 3)]


def test_sogclr_is_its_numpy_simulation_over_three_steps():
    objective, tau = PRESETS["sogclr"].objective, 0.1
    average, memory = np.full(DATA, np.nan), init_memory(objective, {}, 4, DATA, {})
    for index in BATCHES:
        z = unit(8, 4)

        def mean_negative(z):
            s = z @ z.T / tau
            return np.array([np.mean([np.exp(s[i, k]) for k in negatives(i)]) for i in range(8)])

        now = mean_negative(z)
        for place, image in enumerate(index):
            own = now[2 * place : 2 * place + 2].mean()
            average[image] = own if np.isnan(average[image]) else (1 - GAMMA) * average[image] + GAMMA * own
        ratio = now / np.repeat(average[index], 2)  # a constant for the gradient

        def loss(z):
            total = [tau * (ratio[i] * np.log(6 * mean_negative(z)[i]) - z[i] @ z[i ^ 1] / tau) for i in range(8)]  # noqa: B023
            return np.mean(total)

        with jax.enable_x64(True):
            got, gradient, memory = run(objective, jnp.asarray(z), index, memory)
        seen = ~np.isnan(average)
        np.testing.assert_allclose(memory["image/log_average"][seen], np.log(average[seen]), rtol=1e-5)
        assert (memory["image/log_average"][~seen] == UNSEEN).all()
        assert got == pytest.approx(loss(z), rel=1e-5)
        expected = finite_difference(loss, z, PLACES)
        np.testing.assert_allclose([gradient[place] for place in PLACES], expected, rtol=1e-5, atol=1e-6)
    assert np.abs(ratio - 1).max() > 0.1  # an average that is only this batch would not pass


@pytest.mark.parametrize("source", ["uniform", "label"])
def test_the_average_is_over_the_negatives_of_the_term_whatever_its_graph(source):
    """Positives among other images are in the denominator of SogCLR, so they count in its mean too."""
    (term,) = PRESETS["sogclr"].objective.terms
    objective = dataclasses.replace(
        PRESETS["sogclr"].objective, terms=(dataclasses.replace(term, graph=Graph(source)),)
    )
    z, index = unit(8, 4), BATCHES[0]
    block = image_block(jnp.asarray(z), {"id": jnp.asarray(index), "label": jnp.asarray([1, 1, 1, 2])}, 2)
    batch = {"id": jnp.asarray(index), "index": jnp.asarray(index)}
    _, new = recall(objective, {"image": block}, init_memory(objective, {}, 4, DATA, {}), batch, 0.1)
    means = np.array([np.mean([np.exp(z[i] @ z[k] / 0.1) for k in negatives(i)]) for i in range(8)])
    expected = np.log(means.reshape(4, 2).mean(axis=1))
    np.testing.assert_allclose(new["image/log_average"][jnp.asarray(index)], expected, rtol=1e-4)


def test_sogclr_whose_average_is_its_own_denominator_has_the_gradient_of_dcl():
    z = unit(8, 4)
    with jax.enable_x64(True):
        objective = PRESETS["sogclr"].objective
        # One view's mean is the average of an image only if both views have the same: two equal views.
        z[1::2] = z[::2]
        _, gradient, _ = run(objective, jnp.asarray(z), BATCHES[0], init_memory(objective, {}, 4, DATA, {}))
        _, dcl, _ = run(PRESETS["dcl"].objective, jnp.asarray(z), BATCHES[0], {})
    np.testing.assert_allclose(gradient, 0.1 * dcl, rtol=1e-6, atol=1e-9)


def gaps(z, place, tau=1.0):
    """h_k / tau of the negatives of both views of an image."""
    return np.array([(z[i] @ z[k] - z[i] @ z[i ^ 1]) / tau for i in (2 * place, 2 * place + 1) for k in negatives(i)])


def isogclr(**constants):
    return dataclasses.replace(PRESETS["isogclr"].objective, memory={"name": "temperature", **constants})


def test_isogclr_is_its_numpy_simulation_over_three_steps():
    """faults A5 (c): the velocity keeps a tenth of its old value, as in the published code; constants are settable."""
    rho = 1.5  # with the published 6 and so few negatives every slope would be clipped
    objective = isogclr(rho=rho)
    average, tau, velocity = np.full(DATA, np.nan), np.full(DATA, 0.07), np.zeros(DATA)
    memory = init_memory(objective, {}, 4, DATA, {})
    unclipped = 0
    for index in BATCHES:
        z, old = unit(8, 4), tau.copy()
        for place, image in enumerate(index):
            h = gaps(z, place, old[image])
            own = np.mean(np.exp(h))
            average[image] = own if np.isnan(average[image]) else (1 - GAMMA) * average[image] + GAMMA * own
            slope = np.log(average[image]) + rho - np.sum(np.exp(h) / np.exp(h).sum() * h)
            unclipped += abs(slope) < CLIP
            velocity[image] = 0.1 * velocity[image] + 0.9 * np.clip(slope, -CLIP, CLIP)
            tau[image] = np.clip(tau[image] - PUBLISHED.step * velocity[image], 0.05, 1.0)
        anchor = np.repeat(old[index], 2)

        def mean_gap(z):
            s = z @ z.T
            rows = [[np.exp((s[i, k] - s[i, i ^ 1]) / anchor[i]) for k in negatives(i)] for i in range(8)]  # noqa: B023
            return np.mean(rows, axis=1)

        weight = anchor * mean_gap(z) / np.repeat(average[index], 2)

        def loss(z):
            return np.mean(weight * np.log(6 * mean_gap(z)))  # noqa: B023

        with jax.enable_x64(True):
            got, gradient, memory = run(objective, jnp.asarray(z), index, memory)
        np.testing.assert_allclose(memory["image/temperature"], tau, rtol=1e-6)
        np.testing.assert_allclose(memory["image/velocity"], velocity, rtol=1e-4, atol=1e-7)
        assert got == pytest.approx(loss(z), rel=1e-4)
        expected = finite_difference(loss, z, PLACES)
        np.testing.assert_allclose([gradient[place] for place in PLACES], expected, rtol=1e-4, atol=1e-5)
    assert unclipped > 6


def slope_of(z, tau, rho):
    """The slope that the first step takes at a temperature."""
    objective = isogclr(rho=rho)
    memory = init_memory(objective, {}, 4, DATA, {}) | {"image/temperature": jnp.full(DATA, tau, jnp.float32)}
    with jax.enable_x64(True):
        _, _, new = run(objective, jnp.asarray(z), BATCHES[0], memory)
    return new["image/velocity"][:4] / MOMENTUM


@pytest.mark.parametrize("tau", [0.06, 0.3])
def test_the_slope_of_a_temperature_is_that_of_its_robust_objective(tau):
    """d/d tau of tau log mean_k e^{h_k / tau} + tau rho by finite differences; the average is this batch's mean."""
    z, rho = unit(8, 4), 1.0

    def robust(place, tau):
        return tau * np.log(np.mean(np.exp(gaps(z, place, tau)))) + tau * rho

    expected = [(robust(place, tau + 1e-6) - robust(place, tau - 1e-6)) / 2e-6 for place in range(4)]
    assert np.abs(expected).max() < CLIP
    np.testing.assert_allclose(slope_of(z, tau, rho), expected, rtol=1e-4)


def test_slopes_and_temperatures_stay_in_their_ranges():
    np.testing.assert_allclose(slope_of(unit(8, 4), 0.5, 100.0), CLIP)
    index = jnp.arange(2)
    for start, slope, end in ((1.0 - 1e-5, -100.0, 1.0), (0.05 + 1e-5, 100.0, 0.05)):
        memory = {"image/temperature": jnp.full(3, start), "image/velocity": jnp.zeros(3)}
        new = cool_temperatures(memory, index, jnp.full(2, slope), PUBLISHED)
        np.testing.assert_allclose(new["image/temperature"], [end, end, start], rtol=1e-6)
        np.testing.assert_allclose(new["image/velocity"][:2], MOMENTUM * np.sign(slope) * CLIP, rtol=1e-6)


def test_what_a_memory_is_made_of():
    params = {"encoder/w": jnp.ones(3)}
    assert init_memory(PRESETS["xclr"].objective, params, 4, 10, SIDE) == {}
    memory = init_memory(PRESETS["isogclr"].objective, params, 4, 10, SIDE)
    assert {name: value.shape for name, value in memory.items()} == {
        "image/log_average": (10,),
        "image/temperature": (10,),
        "image/velocity": (10,),
    }
    np.testing.assert_allclose(memory["image/temperature"], 0.07)
    memory = init_memory(synthetic.small(PRESETS["moco"].objective), params, 4, 10, SIDE)
    assert {"teacher/encoder/w", "queue/z", "queue/filled", "queue/next", "queue/label"} == set(memory)
    # The teacher is a copy: the state is donated, and one buffer cannot be given away twice.
    assert memory["teacher/encoder/w"] is not params["encoder/w"]


def test_the_nearest_entry_of_the_queue_is_found_among_the_filled_ones():
    rng = np.random.default_rng(0)
    entries, z = (rng.normal(size=(count, 4)) for count in (6, 3))
    entries[4] = z[1]  # the most similar of all, but not filled
    filled = np.array([True, True, True, True, False, False])
    memory = {"queue/z": jnp.asarray(entries), "queue/filled": jnp.asarray(filled)}
    expected = [entries[max(range(4), key=lambda k: entries[k] @ row)] for row in z]
    np.testing.assert_allclose(nearest(memory, jnp.asarray(z)), expected, rtol=1e-6)
    empty = memory | {"queue/filled": jnp.zeros(6, bool)}
    np.testing.assert_allclose(nearest(empty, jnp.asarray(z)), z, rtol=1e-6)
    gradient = jax.grad(lambda x: nearest(memory, x).sum())(jnp.asarray(z))
    assert not np.any(gradient)
