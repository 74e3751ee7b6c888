import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from xsample_jax.errors import ConfigError
from xsample_jax.sharding import batch_sharding, make_mesh, to_global


def mesh(data, fsdp, tensor=1, batch_size=16, devices=8):
    return make_mesh(ConfigDict({"data": data, "fsdp": fsdp, "tensor": tensor}), batch_size, jax.devices()[:devices])


def test_axes_fill_the_devices():
    assert dict(mesh(-1, 1).shape) == {"data": 8, "fsdp": 1, "tensor": 1}
    assert dict(mesh(-1, 4).shape) == {"data": 2, "fsdp": 4, "tensor": 1}
    assert dict(mesh(2, 2, 2).shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    assert dict(mesh(-1, 2, 2).shape) == {"data": 2, "fsdp": 2, "tensor": 2}


def test_axes_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="8 devices"):
        mesh(3, 2)
    with pytest.raises(ConfigError, match=r"multiple of the 8 devices.*batch_size=16"):
        mesh(-1, 1, batch_size=20)


def test_batches_are_split_over_all_devices_in_order():
    two = mesh(2, 2, devices=4)
    rows = np.arange(16).reshape(8, 2)
    array = to_global({"x": rows}, two)["x"]
    assert array.sharding == batch_sharding(two)
    np.testing.assert_array_equal(array, rows)
    np.testing.assert_array_equal(array.addressable_shards[1].data, rows[2:4])
