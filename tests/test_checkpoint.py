"""Checkpoints: bit-equal onto any mesh, the newest never lost, mismatches explained."""

import jax
import numpy as np
import pytest

from tests.tiny import tiny_config, tiny_parts
from xsample_jax.checkpoint import Checkpoints
from xsample_jax.errors import CheckpointError
from xsample_jax.state import Progress

pytestmark = pytest.mark.usefixtures("shallow_resnet18")


def options(config, **changes):
    with config.unlocked():
        config.checkpoint.update(changes)
    return config.checkpoint


def assert_same(a, b):
    for path, (x, y) in enumerate(zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)):
        np.testing.assert_array_equal(x, y, err_msg=str(path))


@pytest.mark.parametrize(("devices", "fsdp"), [(1, 1), (4, 1), (4, 4), (8, 2)])
def test_restored_onto_other_devices_bit_for_bit(tmp_path, devices, fsdp):
    config = tiny_config(model__width=32, model__head__hidden=(256,))
    saved_parts = tiny_parts(config, jax.devices()[:2])
    state = saved_parts.new_state()
    checkpoints = Checkpoints(tmp_path, config.checkpoint)
    checkpoints.save(state, Progress(7, 7 * 16), "{}")
    checkpoints.wait()
    parts = tiny_parts(
        tiny_config(model__width=32, model__head__hidden=(256,), mesh__fsdp=fsdp), jax.devices()[:devices]
    )
    restored, progress = checkpoints.restore(parts.abstract_state)
    checkpoints.close()
    assert progress == Progress(7, 112)
    assert_same(restored, state)
    for got, wanted in zip(jax.tree.leaves(restored), jax.tree.leaves(parts.abstract_state), strict=True):
        assert got.sharding == wanted.sharding


def test_keeps_the_newest_and_the_best(tmp_path):
    config = tiny_config()
    parts = tiny_parts(config, jax.devices()[:1])
    checkpoints = Checkpoints(tmp_path, options(config, metric="knn", keep_latest=2, keep_best=1))
    state = parts.new_state()
    for step, score in enumerate((0.1, 0.9, 0.3, 0.2, 0.25), start=1):
        checkpoints.save(state, Progress(step), "{}", {"knn": score})
        checkpoints.wait()
    kept = sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit())
    checkpoints.close()
    assert kept == [2, 4, 5]


def test_another_model_is_refused_with_a_reason(tmp_path):
    parts = tiny_parts(tiny_config(), jax.devices()[:1])
    checkpoints = Checkpoints(tmp_path, tiny_config().checkpoint)
    checkpoints.save(parts.new_state(), Progress(1, 16), "{}")
    checkpoints.wait()
    other = tiny_parts(tiny_config(model__head__dim=24), jax.devices()[:1])
    with pytest.raises(CheckpointError, match=r"step 1.*config\.json"):
        checkpoints.restore(other.abstract_state)
    checkpoints.close()
