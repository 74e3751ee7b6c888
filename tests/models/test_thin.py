"""SACL-XD: a network at two widths, physically thin, masked by hand, through the preset.

Devices, resume and the export of a run: test_trajectory.py, together with what else a run keeps.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.config.changed import changed, fields
from tests.models.filled import filled, normal
from tests.objectives.golden_inputs import CASES, Z1, Z2, Z3, images, preset_value
from tests.quick import quick_jit
from tests.tiny import tiny_config
from xsample_jax.encoder import DEMO, load_encoder, thin_of
from xsample_jax.errors import CheckpointError
from xsample_jax.export import export_safetensors
from xsample_jax.models.resnet import ResNet
from xsample_jax.models.thin import SLIM, corners, thin_pass
from xsample_jax.objectives.presets import PRESETS
from xsample_jax.state import define_model, to_flat

SACL = CASES["SACL: cross-correlation of a dense and a slimmed branch"]
OBJECTIVE = PRESETS["sacl_xd"].objective


def arrays_of(model):
    return {path: np.array(value) for path, value in to_flat(nnx.state(model)).items()}


def with_arrays(model, arrays):
    graph, state = nnx.split(model)
    leaves = [jnp.asarray(arrays[path]) for path in to_flat(state)]
    return nnx.merge(graph, jax.tree.unflatten(jax.tree.structure(state), leaves))


@pytest.mark.parametrize("depth", [6, 8])
def test_the_thin_network_is_the_wide_one_with_the_outputs_of_its_norms_masked(shallow, depth):
    """A norm of masked channels has scale and shift 0: with those of the published code, whose convolutions alone are
    masked, the features differ."""
    wide = filled(lambda: ResNet(depth, 8, rngs=nnx.Rngs(0)))
    thin = nnx.eval_shape(lambda: ResNet(depth, 4, rngs=nnx.Rngs(0)))
    shapes = {path: leaf.shape for path, leaf in to_flat(nnx.state(thin)).items()}
    arrays, rng = arrays_of(wide), np.random.default_rng(1)
    moving = {path: value for path, value in arrays.items() if path.endswith(("/mean", "/var"))}
    arrays |= {path: value + 0.3 * rng.random(value.shape, np.float32) for path, value in moving.items()}
    half = {path: len(value) // 2 for path, value in arrays.items() if path.endswith(("/scale", "/bias"))}
    masked = {path: np.where(np.arange(len(arrays[path])) < kept, arrays[path], 0) for path, kept in half.items()}
    pictures, thin = normal(3, (4, 16, 16, 3)), with_arrays(thin, corners(arrays, shapes))
    wide, by_hand = with_arrays(wide, arrays), with_arrays(wide, arrays | masked)
    for mode in ("eval", "train"):
        for model in (thin, wide, by_hand):
            getattr(model, mode)()
        parts = [nnx.split(model) for model in (thin, by_hand, wide)]
        pass_all = quick_jit(lambda x, parts=parts: [nnx.merge(*part, copy=True)(x) for part in parts])
        found, expected, other = map(np.asarray, pass_all(pictures))
        kept = found.shape[1]
        assert kept == expected.shape[1] // 2
        np.testing.assert_allclose(expected[:, :kept], found, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(expected[:, kept:], 0)
        assert np.abs(other[:, :kept] - found).max() > 0.05


class Both(nnx.Module):
    """A ResNet and a head with a batch norm, in the place of the whole model."""

    def __init__(self, rngs):
        self.encoder = ResNet(6, 8, "cifar", rngs=rngs)
        self.head = nnx.Sequential(nnx.Linear(16, 6, rngs=rngs), nnx.BatchNorm(6, rngs=rngs))


def test_the_pass_of_the_thin_network_and_that_of_one_as_wide(shallow):
    model = define_model(Both)
    whole = filled(lambda: Both(nnx.Rngs(0)))
    params, statistics = (to_flat(part) for part in nnx.split(whole, nnx.Param, ...)[1:])
    pictures = normal(3, (4, 8, 8, 3))

    def passes(params):
        found = {}
        for width in (4, 8):
            thin = define_model(lambda rngs, width=width: ResNet(6, width, "cifar", rngs=rngs))
            start = {SLIM + path: jnp.zeros(leaf.shape) for path, leaf in to_flat(thin.statistics).items()}
            network = model.merge(params, statistics, training=True)
            rows, after = thin_pass(thin, network, params, statistics | start, pictures)
            assert after.keys() == start.keys()
            untouched = to_flat(nnx.split(network, nnx.Param, ...)[2])
            found[width] = rows, after, untouched
        return found, network.head(network.encoder(pictures))

    found, of_wide = quick_jit(passes)(params)
    np.testing.assert_allclose(found[8][0], of_wide, rtol=1e-5, atol=1e-5)  # width 1: the same pass
    assert np.abs(np.asarray(found[4][0] - of_wide)).max() > 0.1
    for rows, after, untouched in found.values():
        assert np.isfinite(rows).all()
        assert all(np.abs(value).max() > 0 for value in after.values())
        for path, value in untouched.items():  # the wide network's statistics do not see the thin pass
            np.testing.assert_array_equal(value, statistics[path], err_msg=path)


# The preset.


def blocks_of(wide, thin):
    raw = {"raw": lambda z: z}
    return {"image": images(*wide, per_row=raw), "slim": images(*thin, first_row=99, per_row=raw)}


def barlow(x, y):
    x, y = ((z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5) for z in (x, y))
    c = x.T @ y / len(x)
    off = sum(c[i, j] ** 2 for i in range(len(c)) for j in range(len(c)) if i != j)
    return 0.024 * (sum((c[i, i] - 1) ** 2 for i in range(len(c))) + 0.0051 * off)


def test_the_preset_has_the_published_part_its_gradients_and_its_sum():
    q1, q2, k1, k2 = map(jnp.float32, (Z1, Z2, Z3, Z1[::-1] + 0.2 * Z2))
    whole = quick_jit(
        jax.value_and_grad(
            lambda *rows: preset_value("sacl_xd", blocks_of((rows[0], rows[3]), (rows[2], rows[1]))),
            argnums=(0, 1, 2, 3),
        )
    )
    alone = {"feature_terms": OBJECTIVE.feature_terms[:1]}
    sacl = quick_jit(
        jax.value_and_grad(
            lambda q1, q2: preset_value("sacl_xd", blocks_of((q1, k2), (k1, q2)), **alone), argnums=(0, 1)
        )
    )
    value, slopes = sacl(q1, q2)
    assert value == pytest.approx(SACL["expected"], rel=1e-5)
    for name, slope in zip(("z1", "z2"), slopes, strict=True):
        assert np.linalg.norm(slope) == pytest.approx(SACL["also"][f"gradient_norm_{name}"], rel=1e-4)
    value, slopes = whole(q1, q2, k1, k2)
    q1, q2, k1, k2 = (np.asarray(rows, np.float64) for rows in (q1, q2, k1, k2))
    expected = barlow(q1, q2) + 0.05 * (barlow(q1, k1) + barlow(q2, k2)) / 2
    assert value == pytest.approx(expected, rel=1e-5)
    assert [float(np.abs(slope).max()) > 0 for slope in slopes] == [True, True, False, False]


# Out of a checkpoint.


@pytest.mark.usefixtures("shallow")
def test_the_thin_resnet_of_a_checkpoint_is_written_as_a_thin_one(tmp_path):
    """Its own statistics, the corners of the weights, and a file of its size for other libraries."""
    config = tiny_config(objective__preset="sacl_xd", model__width=16, model__slim=0.25)
    wide = arrays_of(filled(lambda: ResNet(18, 16, "cifar", rngs=nnx.Rngs(0))))
    own = arrays_of(filled(lambda: ResNet(18, 4, "cifar", rngs=nnx.Rngs(0))))
    own = {SLIM + path: value + 0.5 for path, value in own.items() if path.endswith(("/mean", "/var"))}
    thin = thin_of(config, 7, wide | own, "run")
    assert thin.module.stages[1][0].conv2.kernel.shape == (3, 3, 8, 8)
    np.testing.assert_array_equal(thin.module.stages[1][0].norm1.mean[...], np.full(8, 0.5))
    for read in (lambda: thin_of(config, 7, wide, "run"), lambda: load_encoder(DEMO, slim=True)):
        with pytest.raises(CheckpointError, match=r"thin network of.*sacl_xd"):
            read()
    export_safetensors(thin, tmp_path / "thin.safetensors")
    assert (tmp_path / "thin.safetensors").stat().st_size < 0.25 * sum(value.nbytes for value in wide.values())


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"model__encoder": "vit_ti"}, "model.encoder"),
        ({"model__slim": 0.05}, "model.slim"),
        ({"model__slim": 0.0}, "model.slim"),
        ({"model__slim": 1.5}, "model.slim"),
        ({"loss__grad_cache": 2}, "loss.grad_cache"),
        ({"objective__preset": "simclr", "objective__terms": ({"keys": "slim"},)}, "rows.block"),
        ({"objective__terms": ({"name": "barlow_twins"},)}, "objective.slim"),
    ],
)
def test_what_cannot_be_is_refused_by_name(changes, field):
    assert field in fields(changed(**{"objective__preset": "sacl_xd"} | changes))
