"""Sharding rules: what they place where, what they refuse, and that a sharded run is the same run."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from tests.tiny import random_batch, tiny_config, tiny_parts
from xsample_jax.errors import ConfigError
from xsample_jax.sharding import bytes_per_device, make_mesh, parameter_specs

pytestmark = pytest.mark.usefixtures("shallow_vit")

VIT = {"model__encoder": "vit_ti", "model__patch_size": 8}
MEGATRON = (
    {"parameters": r"blocks/.*(qkv|expand)/kernel", "split": ("fsdp", "tensor")},
    {"parameters": r"blocks/.*(qkv|expand)/bias", "split": ("tensor",)},
    {"parameters": r"blocks/.*(attention/out|contract)/kernel", "split": ("tensor", "fsdp")},
    {"parameters": ".*", "split": "largest"},
)


def mesh(fsdp=1, tensor=1):
    return make_mesh(tiny_config(mesh__fsdp=fsdp, mesh__tensor=tensor).mesh, 16, jax.devices())


def test_the_first_rule_that_matches_decides():
    expand = "encoder/blocks/0/mlp/expand/kernel"
    shapes = {expand: (64, 256), "encoder/norm/scale": (64,), "head/out/kernel": (256, 128)}
    rules = (
        {"parameters": "expand/kernel", "split": ("fsdp", "tensor")},
        {"parameters": "^head/", "split": "whole"},
        {"parameters": ".*", "split": "largest"},
    )
    assert parameter_specs(shapes, mesh(2, 2), rules) == {
        expand: PartitionSpec("fsdp", "tensor"),
        "encoder/norm/scale": PartitionSpec(),  # small
        "head/out/kernel": PartitionSpec(),
    }
    assert parameter_specs({"a": (64, 1024)}, mesh(4), rules[2:]) == {"a": PartitionSpec(None, "fsdp")}
    assert parameter_specs({"a": (1023, 1022)}, mesh(4), rules[2:]) == {"a": PartitionSpec()}  # nothing to divide


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (({"parameters": "kernel", "split": "whole"},), "head/out/bias.*a rule for every parameter"),
        (
            ({"parameters": ".*", "split": (None, "fsdp")},),
            r"dimension 1 of head/out/kernel \[6, 9\] is 9, which fsdp",
        ),
        (({"parameters": ".*", "split": ("tensro",)},), "tensro.*an axis of the mesh.*Did you mean tensor"),
        (({"parameters": ".*", "split": ("fsdp", "fsdp")},), "every axis once"),
        (({"parameters": ".*", "split": (None, None, "fsdp")},), r"at most 2 dimensions for head/out/kernel"),
        (({"parameters": ".*", "split": "largset"},), "Did you mean largest"),
        (({"parameters": "(", "split": "whole"},), "a regular expression"),
        (({"pattern": ".*", "split": "whole"},), "keys parameters"),
        (
            ({"parameters": "head/out/kernal", "split": "whole"}, {"parameters": ".*", "split": "whole"}),
            "head/out/kernal.*found in the path of a parameter.*Did you mean head/out/kernel",
        ),
    ],
)
def test_what_does_not_fit_is_named(rules, message):
    with pytest.raises(ConfigError, match=message):
        parameter_specs({"head/out/kernel": (6, 9), "head/out/bias": (9,)}, mesh(2, 2), rules)


def run(config, devices=8, steps=2):
    parts = tiny_parts(config, jax.devices()[:devices])
    state, losses = parts.new_state(), []
    for step in range(steps):
        batch = random_batch(config, step)
        batch = {name: jax.device_put(batch[name], leaf.sharding) for name, leaf in parts.abstract_batch.items()}
        state, metrics = parts.train_step(state, batch)
        losses.append(float(metrics["loss"]))
    return parts, state, losses


def held_by(device, tree):
    """Bytes of the arrays of a tree that lie on one device."""
    shards = [shard for leaf in jax.tree.leaves(tree) for shard in leaf.addressable_shards]
    return sum(shard.data.nbytes for shard in shards if shard.device == device)


@pytest.mark.parametrize(
    "changes",
    [{"mesh__fsdp": 8}, {"mesh__fsdp": 2, "mesh__tensor": 3, "mesh__data": 1, "mesh__rules": MEGATRON}],
    ids=["fsdp", "fsdp and tensor"],
)
def test_a_sharded_run_has_the_same_losses_and_a_part_of_the_state_per_device(changes):
    devices = 8 if "mesh__tensor" not in changes else 6
    config = tiny_config(**VIT, batch_size=24)
    _, whole, expected = run(config, 1)
    parts, state, losses = run(tiny_config(**VIT, batch_size=24, **changes), devices)
    np.testing.assert_allclose(losses, expected, rtol=2e-5)
    total = held_by(jax.devices()[0], whole)
    for device in parts.mesh.devices.flat:
        assert held_by(device, state) < 1.25 * total / devices
    assert bytes_per_device(parts.abstract_state) == held_by(parts.mesh.devices.flat[0], state)


def test_moments_averages_and_teachers_lie_where_their_parameter_lies():
    config = tiny_config(**VIT, mesh__fsdp=2, mesh__tensor=2, mesh__rules=MEGATRON, objective__preset="moco_v3")
    state = tiny_parts(config, jax.devices()).abstract_state
    path = "encoder/blocks/0/mlp/expand/kernel"
    spec = PartitionSpec("fsdp", "tensor")
    assert state.params[path].sharding.spec == spec
    assert state.memory[f"teacher/{path}"].sharding.spec == spec
    moments = [leaf for keys, leaf in jax.tree_util.tree_leaves_with_path(state.opt_state) if path in str(keys[-1:])]
    assert len(moments) == 2
    assert all(leaf.sharding.spec == spec for leaf in moments)
    assert all(math.prod(leaf.shape) > 0 and leaf.dtype == jnp.float32 for leaf in moments)
