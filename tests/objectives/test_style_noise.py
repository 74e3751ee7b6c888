"""Noise on the styles of images: published numbers, who climbs, which rows get which draws.

Devices and resume: test_trajectory.py, together with what else a run keeps.
"""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.config.changed import changed
from tests.objectives.golden_inputs import CASES
from tests.quick import quick_jit
from tests.tiny import tiny_config, tiny_parts
from xsample_jax.config.check import find_problems
from xsample_jax.models.resnet import StyleNoise, disturb, spread_of, styles_of, with_noise
from xsample_jax.objectives.adversary import MOMENTS, UPDATES
from xsample_jax.objectives.style_noise import SPREAD, STYLE, init_styles, make_disturbance, noise_of_rows
from xsample_jax.state import TrainState

GOLDEN = CASES["AdvStyle: adversarial noise of feature statistics"]
MAPS = jnp.asarray(GOLDEN["extra"]["x"], jnp.float32).transpose(0, 2, 3, 1)
DRAWN = jnp.asarray([GOLDEN["extra"]["e1"], GOLDEN["extra"]["e2"]], jnp.float32)
STAGES = (0, 2)
SMALL = {"augment__crop_scale": (), "augment__jitter": 0.0, "augment__gray": 0.0, "objective__preset": "simclr"}
SMALL |= {"batch_size": 8, "model__width": 4, "steps": 4, "model__style_noise__updates": 1}


def test_the_published_numbers_and_the_signs_of_the_gradient():
    styles = styles_of(MAPS)
    spread = spread_of(styles)
    np.testing.assert_allclose(spread, [GOLDEN["also"]["A0"], GOLDEN["also"]["B0"]], rtol=1e-5)
    made = with_noise(MAPS, styles, DRAWN, spread)
    np.testing.assert_allclose(
        made[0].transpose(2, 0, 1).reshape(-1), GOLDEN["also"]["first_row"], rtol=1e-4, atol=1e-6
    )

    def value(spread):
        return jnp.mean(with_noise(MAPS, styles, DRAWN, spread) ** 2)

    assert value(spread) == pytest.approx(GOLDEN["expected"], rel=1e-5)
    reversed_gradient = [GOLDEN["also"][f"reversed_gradient_{name}"] for name in "AB"]
    np.testing.assert_allclose(-jax.grad(value)(spread), reversed_gradient, rtol=1e-4)


def noise(key, spread=None, rows=3):
    return StyleNoise(jax.random.key(key), jax.random.split(jax.random.key(100 + key), rows), STAGES, spread)


def kinds_of(many, spread):
    """Of every key the maps after stage 2, and whether they are as they were."""
    made = jax.vmap(lambda key: disturb(MAPS, noise(0, spread)._replace(key=jax.random.key(key)), 2))(jnp.arange(many))
    return np.asarray(made), np.abs(np.asarray(made) - MAPS).max(axis=(1, 2, 3, 4)) < 1e-4


def test_a_third_of_the_passes_has_each_noise_and_none_of_size_zero_is_none():
    many, zero = 300, {"stage 2": jnp.zeros((2, 4)), "stem": jnp.ones((2, 4))}
    made, calm = kinds_of(many, zero)  # the learned noise is none
    assert calm.mean() == pytest.approx(2 / 3, abs=0.09)
    learned, still = kinds_of(many, {"stage 2": jnp.full((2, 4), 5.0)})
    assert still.mean() == pytest.approx(1 / 3, abs=0.09)
    np.testing.assert_array_equal(made[~calm], learned[~calm])  # that of DSU, whatever is learned
    dsu, still = kinds_of(many, None)
    assert still.mean() == pytest.approx(1 / 2, abs=0.09)
    np.testing.assert_array_equal(made[~calm], dsu[~calm])
    # As the formula says, of the draws of this stage.
    keys, place = noise(0).keys, int(np.flatnonzero(~still)[0])
    drawn = np.stack([jax.random.normal(jax.random.fold_in(key, 2), (2, 4)) for key in keys], axis=1)
    for image in range(3):
        for channel in range(4):
            x = np.asarray(MAPS, np.float64)[:, :, :, channel].reshape(3, 4)
            mean, deviation = x.mean(axis=1), np.sqrt(x.var(axis=1, ddof=1) + 1e-6)
            a, b = (np.sqrt(of.var(ddof=1) + 1e-6) for of in (mean, deviation))
            new_mean = mean[image] + drawn[0, image, channel] * a
            new_deviation = deviation[image] + drawn[1, image, channel] * b
            expected = (x[image] - mean[image]) / deviation[image] * new_deviation + new_mean
            np.testing.assert_allclose(dsu[place][image, :, :, channel].reshape(-1), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(disturb(MAPS, noise(0, zero), 1), MAPS)  # no stage of the noise


def test_maps_of_one_place_are_finite_and_keep_their_type():
    x = jnp.ones((3, 1, 1, 4), jnp.bfloat16)
    total = lambda x, key: jnp.sum(disturb(x, noise(0)._replace(key=key), 2).astype(jnp.float32))  # noqa: E731
    both = quick_jit(jax.value_and_grad(total))
    for key in range(6):
        value, slope = both(x, jax.random.key(key))
        assert np.isfinite(value)
        assert np.isfinite(np.asarray(slope, np.float32)).all()
    assert disturb(x, noise(0), 2).dtype == jnp.bfloat16


def test_draws_are_those_of_the_image_its_copy_and_its_view():
    options, key = types.SimpleNamespace(stages=STAGES), jax.random.key(4)
    ids = jnp.asarray([7, 3, 7, 9])
    rows = jax.random.key_data(noise_of_rows(options, key, {"id": ids}, 2).keys).reshape(4, 2, 2)
    assert len({tuple(row) for row in np.asarray(rows).reshape(8, 2)}) == 8
    order = np.array([3, 1, 0, 2])
    again = jax.random.key_data(noise_of_rows(options, key, {"id": ids[order]}, 2).keys).reshape(4, 2, 2)
    np.testing.assert_array_equal(again, np.asarray(rows)[order])


# The updates against the loss, with a network that only has spreads.


class Stand:
    """In the place of a model: an encoder whose batch has given spreads."""

    def __init__(self, spreads):
        self.encoder = types.SimpleNamespace(spreads=lambda images, stages: spreads)

    def merge(self, params, statistics, training):
        return self


@dataclasses.dataclass(frozen=True)
class Inputs:
    images: jax.Array
    batch: dict
    key: jax.Array
    style: StyleNoise | None = None


def test_the_noise_climbs_what_the_encoder_descends():
    kind = types.SimpleNamespace(kind="adversarial", stages=STAGES, updates=3, rate=0.01)
    config = types.SimpleNamespace(model=types.SimpleNamespace(style_noise=kind), views=2)
    first = {"stem": jnp.full((2, 3), 2.0), "stage 2": jnp.full((2, 5), 4.0)}
    slope = {name: jnp.asarray(np.random.default_rng(0).normal(size=x.shape), jnp.float32) for name, x in first.items()}
    seen = []

    def loss_of(params, statistics, inputs):
        seen.append(inputs.style)
        return sum(jnp.sum(slope[name] * value) for name, value in inputs.style.spread.items()), None

    memory = init_styles(kind, (3, 9, 5))
    assert {name: value.shape for name, value in memory.items() if SPREAD in name and MOMENTS not in name} == {
        f"{STYLE}{SPREAD}stem": (2, 3),
        f"{STYLE}{SPREAD}stage 2": (2, 5),
    }
    inputs = Inputs(jnp.zeros((4, 1)), {"id": jnp.arange(2)}, jax.random.key(1))
    state = TrainState(jnp.zeros((), jnp.int32), {}, {}, (), memory, {})
    new_inputs, new, found = make_disturbance(config, Stand(first), loss_of)(state, inputs)
    assert int(new[STYLE + UPDATES]) == 3
    # A slope that stays the same moves Adam without momentum by its rate in every update.
    for name, value in first.items():
        expected = value + 0.03 * jnp.sign(slope[name])
        np.testing.assert_allclose(new[f"{STYLE}{SPREAD}{name}"], expected, rtol=1e-4)
        np.testing.assert_array_equal(new_inputs.style.spread[name], new[f"{STYLE}{SPREAD}{name}"])
    both = np.concatenate([new[f"{STYLE}{SPREAD}{name}"] for name in first], axis=1)
    assert found["style_mean_norm"] == pytest.approx(np.linalg.norm(both[0]), rel=1e-5)
    assert found["style_deviation_norm"] == pytest.approx(np.linalg.norm(both[1]), rel=1e-5)
    keys = [tuple(np.asarray(jax.random.key_data(style.key))) for style in (*seen, new_inputs.style)]
    assert len(set(keys)) == 4  # every pass has draws of its own
    other = Stand({name: value + 100 for name, value in first.items()})
    again = make_disturbance(config, other, loss_of)(dataclasses.replace(state, memory=new), inputs)[1]
    assert float(again[f"{STYLE}{SPREAD}stem"].max()) < 3  # no batch but the first one is begun from


# In a network and a step.


@pytest.mark.usefixtures("shallow_resnet18")
def test_a_resnet_has_the_noise_after_its_stages_and_evaluation_has_none():
    config = tiny_config(**SMALL | {"model__style_noise__kind": "adversarial", "model__style_noise__stages": STAGES})
    parts, plain = (tiny_parts(one, jax.devices()[:1]) for one in (config, tiny_config(**SMALL)))
    state, metrics = jax.eval_shape(parts.train_step, parts.abstract_state, parts.abstract_batch)
    assert jax.tree.structure(state) == jax.tree.structure(parts.abstract_state)
    assert {"style_mean_norm", "style_deviation_norm"} <= set(metrics)
    assert parts.model.evaluation == plain.model.evaluation
    assert parts.abstract_state.params.keys() == plain.abstract_state.params.keys()
    assert parts.abstract_state.statistics.keys() == plain.abstract_state.statistics.keys()
    assert not [name for name in plain.abstract_state.memory if name.startswith(STYLE)]
    encoder, pictures = parts.model.build(nnx.Rngs(0)).encoder, jax.random.normal(jax.random.key(0), (3, 8, 8, 3))
    encoder.eval()
    spread = {"stem": jnp.ones((2, 4)), "stage 2": jnp.ones((2, 8))}

    def features(images):
        x = disturb(encoder.stem(images), noise(1, spread), 0)
        for number, ((block,), given) in enumerate(zip(encoder.stages, (None, noise(1, spread)), strict=True), 1):
            x = block(x) if given is None else disturb(block(x), given, number)
        clean = encoder.stages[1][0](encoder.stages[0][0](encoder.stem(images)))
        found = encoder(images, noise(1, spread)), x.mean(axis=(1, 2)), encoder(images), clean
        return *found, encoder.spreads(images, STAGES)["stage 2"]

    found, expected, without, clean, start = quick_jit(features)(pictures)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert np.abs(found - without).max() > 0.1
    means = np.asarray(clean, np.float64).mean(axis=(1, 2))
    np.testing.assert_allclose(without, means, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(start[0], np.sqrt(means.var(axis=0, ddof=1) + 1e-6), rtol=1e-3, atol=1e-5)


# Bad input.


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("model.style_noise.kind", {"model__style_noise__kind": "soft"}),
        ("model.style_noise.kind", {"model__encoder": "vit_ti", "model__patch_size": 8}),
        ("model.style_noise.kind", {"objective__preset": "pixpro"}),
        ("model.style_noise.kind", {"objective__preset": "coca"}),
        ("model.style_noise.stages", {"model__style_noise__stages": (5,)}),
        ("model.style_noise.stages", {"model__style_noise__stages": ()}),
        ("model.style_noise.stages", {"model__style_noise__stages": (2, 1)}),
        ("model.style_noise.updates", {"model__style_noise__updates": 0}),
        ("model.style_noise.rate", {"model__style_noise__rate": 0.0}),
        ("loss.grad_cache", {"loss__grad_cache": 2}),
        ("objective.generator.kind", {"objective__generator__kind": "hard"}),
    ],
)
def test_what_cannot_be_is_refused_by_name(field, changes):
    config = changed(**{"model__style_noise__kind": "adversarial"} | changes)
    assert field in [problem.field for problem in find_problems(config)]
