"""Every preset: its loss and gradient on any number of devices and on unusual input; test_configs.py trains it."""

import jax
import numpy as np
import pytest
from jax.extend.core import jaxpr_as_fun
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tests.objectives import synthetic
from tests.quick import COMPILER_OPTIONS
from xsample_jax.objectives.blocks import image_block
from xsample_jax.objectives.objective import objective_loss
from xsample_jax.objectives.presets import PRESETS


def test_every_preset_says_what_it_is():
    for name, preset in PRESETS.items():
        assert preset.formula, name
        assert preset.source, name


def traced(objective, inputs):
    """The loss and gradient as a program that is traced once and compiled for any number of devices."""

    def loss_and_gradient(inputs):
        (loss, _), gradient = synthetic.loss_and_gradient(objective, inputs)
        return loss, gradient

    jaxpr, shapes = jax.make_jaxpr(loss_and_gradient, return_shape=True)(inputs)
    evaluate, structure = jaxpr_as_fun(jaxpr), jax.tree.structure(shapes)
    return lambda inputs: jax.tree.unflatten(structure, evaluate(*jax.tree.leaves(inputs)))


def compiled(loss_and_gradient, inputs, devices):
    """The loss and gradient, with all rows split over devices, as a function that returns host arrays."""
    mesh = jax.make_mesh((devices,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices])

    def sharding(leaf):
        rows = PartitionSpec("data") if np.ndim(leaf) and len(leaf) % devices == 0 else PartitionSpec()
        return NamedSharding(mesh, rows)

    shardings = jax.tree.map(sharding, inputs)
    program = jax.jit(loss_and_gradient, in_shardings=(shardings,), compiler_options=COMPILER_OPTIONS)
    return lambda given: jax.device_get(program(jax.device_put(given, shardings)))


# On eight devices an image has one to itself; with several on each of two, one preset of every kind.
ON_TWO = ("xclr", "simclr", "clip", "moco", "swav", "sogclr", "swalip", "pixpro", "prototypical", "vicreg", "mochi")


@pytest.mark.parametrize("preset", PRESETS)
def test_devices_do_not_matter_and_collapse_and_empty_queues_are_survived(preset):
    objective = synthetic.small(PRESETS[preset].objective)
    inputs = synthetic.inputs_of(objective, queued=10 if objective.queue else 0)
    function = traced(objective, inputs)
    on_one = compiled(function, inputs, 1)
    loss, gradient = on_one(inputs)
    assert np.isfinite(loss)
    assert np.abs(gradient["images"]).max() > 0
    for devices in (2, 8) if preset in ON_TWO else (8,):
        other, other_gradient = compiled(function, inputs, devices)(inputs)
        assert other == pytest.approx(loss, rel=1e-6, abs=1e-6)  # abs: of CACR, a difference of larger sums
        largest = max(np.abs(leaf).max() for leaf in gradient.values())
        for name, leaf in gradient.items():
            np.testing.assert_allclose(other_gradient[name], leaf, atol=1e-6 * largest, rtol=1e-5, err_msg=name)
    unusual = {"collapsed": synthetic.inputs_of(objective, collapsed=True, queued=10 if objective.queue else 0)}
    if objective.queue:
        unusual["empty queue"] = synthetic.inputs_of(objective, queued=0)
    for name, given in unusual.items():
        value, slopes = on_one(given)
        assert np.isfinite(value), name
        assert all(np.isfinite(leaf).all() for leaf in slopes.values()), name


def test_vicreg_asks_unit_rows_for_nothing_that_they_cannot_have():
    """Rows in all directions are its optimum: the hinge on the standard deviation is met, no dimensions correlate."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(4096, 32)).astype(np.float32)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    block = image_block(np.repeat(z, 2, axis=0), {"id": np.arange(4096)}, 2)
    collapsed = image_block(np.tile(z[:1], (8192, 1)), {"id": np.arange(4096)}, 2)
    loss, at_one_point = (
        float(objective_loss(PRESETS["vicreg"].objective, {"image": rows}, 4096, 1.0)[0]) for rows in (block, collapsed)
    )
    assert 0 <= loss < 0.5
    assert at_one_point > 24
