"""Rows of the bank of all images as keys: instance discrimination, and InterCLR with its bank."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tests.objectives.golden_inputs import images
from tests.objectives.test_bank import bank_of, unit
from tests.objectives.test_build import build, problems
from tests.quick import quick_jit
from tests.tiny import tiny_config
from xsample_jax.errors import ConfigError
from xsample_jax.objectives.bank import ASSIGNED, ROWS, Bank, Clusters, bank_block
from xsample_jax.objectives.blocks import Rows
from xsample_jax.objectives.from_config import find_problems, needed_views
from xsample_jax.objectives.objective import objective_loss
from xsample_jax.objectives.presets import PRESETS
from xsample_jax.objectives.terms import Term

KEY, SEEN, WIDTH = jax.random.key(4), 40, 8
RNG = np.random.default_rng(0)
Z = unit(RNG.normal(size=(SEEN, WIDTH))).astype(np.float32)
INDEX = np.array([3, 50, 17, 9, 51, 0])  # 50 and 51: no step has seen them
TODAY = unit(RNG.normal(size=(6, WIDTH))).astype(np.float32)
INSTANCE = PRESETS["instance_discrimination"].objective


@pytest.mark.parametrize("keys", [0, 300, 4096])
def test_keys_are_rows_of_the_bank_once_each_and_those_of_the_batch(keys):
    memory = {ROWS: bank_of(Z), ASSIGNED: jnp.full((4096, 1), -1).at[:SEEN, 0].set(jnp.arange(SEEN) % 5)}
    clusters = Clusters((5,))
    block = quick_jit(
        lambda index, z: bank_block(Bank(keys=keys), memory, (index, z), KEY, clusters),
    )(jnp.asarray(INDEX), jnp.asarray(TODAY))
    block = {name: np.asarray(value) for name, value in block.items()}
    filled, index = block["filled"], block["index"]
    assert len(filled) == (6 + keys if keys == 300 else 4096)
    if keys == 300:
        assert filled[:6].all()
        assert not np.isin(index[6:][filled[6:]], INDEX).any()
        assert (index[6:][filled[6:]] < SEEN).all()
        assert len(np.unique(index[6:])) > 250  # of 4096, and not the same ones again and again
    else:
        assert sorted(index[filled]) == sorted({*range(SEEN), 50, 51})
    for row in np.flatnonzero(filled):
        own = np.flatnonzero(index[row] == INDEX)
        expected = Z[index[row]] if index[row] < SEEN else TODAY[own[0]]
        np.testing.assert_allclose(block["z"][row], expected, atol=1e-6)
        assert block["cluster"][row, 0] == (index[row] % 5 if index[row] < SEEN else 4096 + index[row])


def test_instance_discrimination_is_the_softmax_over_the_rows_of_a_bank():
    """A double loop; an image that was not seen yet is attracted by itself and pushed by the others."""
    memory = {ROWS: bank_of(Z)}

    def loss(today):
        z = today / jnp.linalg.norm(today, axis=1, keepdims=True)
        given = images(z, index=INDEX, label=np.zeros(6, int), id=np.arange(6))
        block = bank_block(Bank(keys=0), memory, (jnp.asarray(INDEX), z), KEY, None)
        return objective_loss(INSTANCE, {"image": given, "bank": block}, 6, INSTANCE.temperature)[0]

    value, slope = quick_jit(jax.value_and_grad(loss))(jnp.asarray(TODAY))
    bank = {i: Z[i] for i in range(SEEN)} | {50: TODAY[1], 51: TODAY[4]}
    rows = []
    for z, i in zip(TODAY, INDEX, strict=True):
        logits = {k: float(z @ row) / 0.07 for k, row in bank.items()}
        rows.append(np.log(sum(np.exp(s) for s in logits.values())) - logits[i])
    assert value == pytest.approx(np.mean(rows), rel=1e-5)
    assert np.isfinite(slope).all()
    assert (np.linalg.norm(slope, axis=1) > 1e-6).all()
    assert needed_views(INSTANCE) == 1


def test_rows_are_drawn_among_the_images_there_are():
    """A bank has more rows, as devices must divide them."""
    bank, given = Bank(keys=300, images=SEEN), (jnp.asarray(INDEX), jnp.asarray(TODAY))
    block = bank_block(bank, {ROWS: bank_of(Z)}, given, KEY, None)
    drawn = np.asarray(block["index"])[6:]
    assert set(drawn) == set(range(SEEN))
    np.testing.assert_array_equal(np.asarray(block["filled"])[6:], ~np.isin(drawn, INDEX))


@pytest.mark.parametrize("keys", [0, 300])
def test_the_keys_of_a_bank_that_is_split_over_8_devices_are_the_same(keys):
    """They are drawn from the key of the step: devices are not asked which rows they have."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    given = {ROWS: bank_of(Z), "index": jnp.asarray(np.append(INDEX, [7, 8])), "z": jnp.tile(TODAY[:2], (4, 1))}

    def block(given):
        return bank_block(Bank(keys=keys), {ROWS: given[ROWS]}, (given["index"], given["z"]), KEY, None)

    split = jax.device_put(given, NamedSharding(mesh, PartitionSpec("data")))
    one, other = quick_jit(block)(given), quick_jit(block)(split)
    assert len(split[ROWS].addressable_shards[0].data) == 512
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)


def test_config_values_change_what_a_preset_has_and_mistakes_are_named():
    made = build(preset="interclr_bank", clusters={"k": (), "every": 7, "iterations": 20}, bank={"keys": 0})
    assert (made.clusters, made.bank) == (Clusters((500,), every=7), Bank())
    assert build(preset="interclr_bank", clusters={"k": (9,)}).clusters == Clusters((9,))
    (problem,) = problems(preset="pcl", clusters={"k": (4,)}, bank={"keys": 64})
    assert (problem.field, "instance_discrimination" in str(problem)) == ("objective.bank.keys", True)
    with pytest.raises(ConfigError, match=r"data\.side\[0\]\.name"):
        tiny_config(objective__preset="interclr_bank", data__side=({"name": "cluster", "file": "a.npz"},))
    (problem,) = problems(preset="simclr", terms=({"graph": "same_record", "keys": "bank"},))
    assert "a preset that has one: instance_discrimination" in str(problem)
    against = dataclasses.replace(INSTANCE, terms=(Term(keys=Rows("bank")), *INSTANCE.terms))
    assert any("keys among which an anchor has a positive" in str(found) for found in find_problems(against))
    clusters = dataclasses.replace(PRESETS["interclr_bank"].objective, clusters=None)
    assert any("objective.clusters.k" in str(found) for found in find_problems(clusters))
