"""Fine-tuning: what is frozen costs nothing and stays as it is, and rates fall from layer to layer."""

import jax
import numpy as np
import optax
import pytest

from tests.tiny import random_batch, tiny_config, tiny_parts
from xsample_jax.config import find_problems
from xsample_jax.errors import ConfigError, Problems
from xsample_jax.models.param_groups import ParamGroups, check_rules, layer_depths
from xsample_jax.optim import make_optimizer

FROZEN = ({"parameters": "^encoder/", "freeze": True},)
NAMES = (
    "encoder/embedding/kernel", "encoder/position", "encoder/blocks/0/mlp/kernel", "encoder/blocks/1/mlp/kernel",
    "encoder/blocks/10/norm1/scale", "encoder/norm/scale", "head/out/kernel", "text/blocks/0/mlp/kernel",
)  # fmt: skip


def test_layers_are_counted_from_the_first_block_to_the_end():
    assert list(layer_depths(NAMES).values()) == [0, 0, 1, 2, 3, 4, 4, 4]
    resnet = ("encoder/stem/kernel", "encoder/stages/0/1/conv1/kernel", "encoder/stages/0/0/conv1/kernel",
              "encoder/stages/1/0/conv1/kernel", "head/out/kernel")  # fmt: skip
    assert list(layer_depths(resnet).values()) == [0, 2, 1, 3, 4]
    convnext = ("encoder/stem/map/kernel", "encoder/stages/0/blocks/0/norm/bias", "encoder/stages/0/blocks/1/norm/bias",
                "encoder/stages/1/downsample/norm/bias", "encoder/stages/1/blocks/0/norm/bias",
                "encoder/norm/bias")  # fmt: skip
    assert list(layer_depths(convnext).values()) == [0, 1, 2, 3, 3, 4]


def test_rates_are_products_of_rule_and_layer():
    groups = ParamGroups(({"parameters": "mlp", "rate": 10.0}, {"parameters": "blocks/1/", "rate": 3.0}), 0.5)
    assert list(groups.rate_factors(NAMES).values()) == [0.0625, 0.0625, 1.25, 2.5, 0.5, 1.0, 1.0, 10.0]
    assert groups.decay_factors == (1.0,)


@pytest.mark.parametrize("name", ["adamw", "sgd", "lars"])
def test_the_update_of_a_parameter_has_its_rate_and_decay(name):
    """Against the same optimizer on one parameter, with another rate and decay in the config."""
    rng = np.random.default_rng(0)
    params = {f"{part}/kernel": rng.normal(size=(4, 6)).astype(np.float32) for part in ("a", "b", "c")}
    gradients = {path: rng.normal(size=(4, 6)).astype(np.float32) for path in params}
    rules = ({"parameters": "^a", "rate": 0.1, "decay": 5}, {"parameters": "^b", "decay": 0.0})
    of = {"a/kernel": (0.1, 5.0), "b/kernel": (1.0, 0.0), "c/kernel": (1.0, 1.0)}

    def after(config, params):
        optimizer, _ = make_optimizer(config, 4)
        state = optimizer.init(params)
        for _ in range(2):
            updates, state = optimizer.update(gradients_of(params), state, params)
            params = optax.apply_updates(params, updates)
        return params

    gradients_of = lambda params: {path: gradients[path] for path in params}  # noqa: E731
    plain = {"optimizer__name": name, "optimizer__warmup": 0.0, "optimizer__schedule": "linear"}
    together = after(tiny_config(**plain, optimizer__weight_decay=0.2, optimizer__rules=rules), params)
    for path, (rate, decay) in of.items():
        alone = tiny_config(**plain, optimizer__weight_decay=0.2 * decay, optimizer__learning_rate=1e-3 * rate)
        expected = after(alone, {path: params[path]})[path] - params[path]
        np.testing.assert_allclose(together[path] - params[path], expected, rtol=1e-2, atol=1e-7, err_msg=path)


@pytest.mark.usefixtures("shallow_resnet18")
def test_a_frozen_encoder_stays_as_it_is_and_costs_no_state():
    """Its batch norms use their running statistics, as in an evaluation, and leave them as they are."""
    config = tiny_config(optimizer__rules=FROZEN, optimizer__learning_rate=0.1, batch_size=8)
    parts = tiny_parts(config, jax.devices()[:1])
    state = parts.new_state()
    before = jax.device_get(state)
    held = [keys for keys, _ in jax.tree_util.tree_leaves_with_path(state.opt_state) if "encoder/" in str(keys)]
    assert held == []
    heads = sum(value.size for path, value in before.params.items() if not path.startswith("encoder/"))
    assert sum(leaf.size for leaf in jax.tree.leaves(state.opt_state)) < 2 * heads + 10
    batch = random_batch(config)
    for _ in range(2):
        state, metrics = parts.train_step(state, {name: batch[name] for name in parts.abstract_batch})
    after = jax.device_get(state)
    for part in ("params", "statistics"):
        for path, value in getattr(before, part).items():
            same = np.array_equal(value, getattr(after, part)[path])
            assert same == path.startswith("encoder/"), path
    assert np.isfinite(metrics["loss"])
    norms = dict(zip(sorted(after.params), metrics["gradient_norms"], strict=True))
    assert {path for path, norm in norms.items() if norm == 0} == {p for p in norms if p.startswith("encoder/")}
    encoder = parts.model.merge(after.params, after.statistics, training=True).encoder
    images = np.random.default_rng(0).normal(size=(3, 32, 32, 3)).astype(np.float32)
    evaluated = parts.model.merge(after.params, after.statistics, training=False).encoder
    np.testing.assert_array_equal(encoder(images), evaluated(images))


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (({"parameters": "("},), "one or more of freeze, rate, decay"),
        (({"parameters": "(", "rate": 1.0},), "a regular expression"),
        (({"parameters": "a", "frezee": True},), "Did you mean freeze"),
        (({"parameters": "a", "freeze": 1},), "True or False"),
        (({"parameters": "a", "rate": -1},), "a factor from 0"),
        (({"parameters": "a", "decay": "x"},), "a factor from 0"),
        (({"parameters": "a", "freeze": True, "rate": 2.0},), "no rate and no decay"),
    ],
)
def test_wrong_rules_are_named(rules, message):
    config = tiny_config().copy_and_resolve_references().unlock()
    config.optimizer.rules = rules
    (problem,) = find_problems(config)
    assert message in str(problem)


def test_rules_that_decide_nothing_or_everything_are_refused():
    unused = ({"parameters": "^encoder/", "freeze": True}, {"parameters": "encoder/nrom", "rate": 0.1})
    with pytest.raises(ConfigError, match=r"rules\[1\].*encoder/nrom.*Did you mean encoder/norm/scale"):
        check_rules(ParamGroups(unused), NAMES)
    with pytest.raises(ConfigError, match="left to train"):
        check_rules(ParamGroups(({"parameters": ".*", "freeze": True},)), NAMES)
    with pytest.raises((ConfigError, Problems), match="enocder"):
        _ = tiny_parts(tiny_config(optimizer__rules=({"parameters": "enocder", "freeze": True},)),
                       jax.devices()[:1]).abstract_state  # fmt: skip
