"""Rows of a split on the devices: a large set is spread over all of them, a small one stays on one."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

SMALL = 2**22  # numbers; below this the devices would wait for each other longer than they compute


def on_devices(rows: np.ndarray, small: int = SMALL) -> jax.Array:
    """Rows [n, ...] on the devices, followed by as many rows of zeros as their number asks for.

    A large array is split by rows over all devices of all processes, which all call this with the same rows; of a small
    one every process keeps a copy of its own.
    """
    if rows.size <= small:
        return jax.device_put(rows, SingleDeviceSharding(jax.local_devices()[0]))
    devices = jax.devices()
    mesh = Mesh(np.array(devices), ("rows",), axis_types=(AxisType.Auto,))
    padded = np.pad(rows, [(0, -len(rows) % len(devices))] + [(0, 0)] * (rows.ndim - 1))
    return jax.make_array_from_callback(
        padded.shape, NamedSharding(mesh, PartitionSpec("rows")), lambda place: padded[place]
    )


def everywhere(rows: jax.Array):
    """The sharding for results of a program over these rows: whole on every device that has some of them."""
    if isinstance(rows.sharding, NamedSharding):
        return NamedSharding(rows.sharding.mesh, PartitionSpec())
    return rows.sharding
