"""The fixed reweighting head (arXiv 2403.11391): golden with the preset supcon, closed form, config."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives.golden_inputs import CASES, LABELS, Z1, Z2
from tests.quick import quick_jit
from tests.tiny import tiny_config, tiny_parts
from xsample_jax.errors import ConfigError
from xsample_jax.models.heads import ReweightingHead, unit_rows
from xsample_jax.objectives.blocks import image_block
from xsample_jax.objectives.objective import objective_loss
from xsample_jax.objectives.presets import PRESETS


def of_rows(first, second):
    """SupCon at tau = 0.5 on what a head of kappa = 1.05 makes of two views [12, 16]."""
    z = unit_rows(ReweightingHead(16, 1.05)(jnp.stack([first, second], axis=1).reshape(24, 16)))
    block = image_block(z, {"id": jnp.arange(12), "label": jnp.asarray(LABELS)}, 2)
    return objective_loss(PRESETS["supcon"].objective, {"image": block}, 12, 0.5)[0]


def test_reweighting_head_gives_the_golden_with_the_preset_supcon():
    golden = CASES["Fixed reweighting head, kappa 1.05, SupCon"]
    loss, slopes = quick_jit(jax.value_and_grad(of_rows, (0, 1)))(jnp.float32(Z1), jnp.float32(Z2))
    assert loss == pytest.approx(golden["expected"], rel=1e-5)
    for slope, name in zip(slopes, ("z1", "z2"), strict=True):
        assert np.linalg.norm(slope) == pytest.approx(golden["extra"]["grad_norm"][name], rel=1e-4)


def test_reweighting_head_scales_the_gradient_of_a_feature_as_the_feature():
    """The closed form of arXiv 2403.11391: dL/dh_d = kappa^-d dL/dz_d; a factor that underflows is an exact 0."""
    head, x = ReweightingHead(6, 3.0), jax.random.normal(jax.random.key(0), (4, 6))
    value = lambda z: jnp.sum(jnp.sin(z) * jnp.arange(1.0, 5.0)[:, None])  # noqa: E731
    factors = 3.0 ** -np.arange(6)
    np.testing.assert_allclose(head(x), x * factors, rtol=1e-5)
    np.testing.assert_allclose(jax.grad(lambda h: value(head(h)))(x), jax.grad(value)(head(x)) * factors, rtol=1e-5)
    np.testing.assert_array_equal(ReweightingHead(6, 1.0)(x), x)
    wide = np.asarray(ReweightingHead(4096, 1.05)(jnp.ones((1, 4096))))
    assert np.isfinite(wide).all()
    assert wide[0, -1] == 0


@pytest.mark.usefixtures("linear_encoder")
def test_a_config_with_kappa_has_the_features_for_its_embedding():
    config = tiny_config(model__head__kappa=1.05, model__head__dim=4, objective__preset="simclr")
    parts = tiny_parts(config, jax.devices()[:1])
    assert not [name for name in parts.abstract_state.params if name.startswith("head/")]
    state, _ = jax.eval_shape(parts.train_step, parts.abstract_state, parts.abstract_batch)
    assert state.params.keys() == parts.abstract_state.params.keys()
    wrong = tiny_parts(tiny_config(model__head__kappa=1.05, model__head__dim=8), jax.devices()[:1])
    with pytest.raises(ConfigError, match=r"model\.head\.dim=4"):
        _ = wrong.abstract_state
