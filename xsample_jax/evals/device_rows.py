"""Rows of a split on the devices: a large set is spread over all of them, a small one stays on one."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

SMALL = 2**22  # numbers; below this the devices would wait for each other longer than they compute


def on_devices(rows: np.ndarray, small: int = SMALL, blocks: int = 1) -> jax.Array:
    """Rows [n, ...] on the devices, followed by as many rows of zeros as make each of them hold `blocks` equal parts.

    A large array is split by rows over all devices of all processes, which all call this with the same rows; of a small
    one every process keeps a copy of its own.
    """
    devices = jax.devices() if rows.size > small else jax.local_devices()[:1]
    short = -len(rows) % (len(devices) * blocks)
    padded = np.pad(rows, [(0, short)] + [(0, 0)] * (rows.ndim - 1)) if short else rows
    if rows.size <= small:
        return jax.device_put(padded, SingleDeviceSharding(devices[0]))
    mesh = Mesh(np.array(devices), ("rows",), axis_types=(AxisType.Auto,))
    return jax.make_array_from_callback(
        padded.shape, NamedSharding(mesh, PartitionSpec("rows")), lambda place: padded[place]
    )


def everywhere(rows: jax.Array):
    """The sharding for results of a program over these rows: whole on every device that has some of them."""
    if isinstance(rows.sharding, NamedSharding):
        return NamedSharding(rows.sharding.mesh, PartitionSpec())
    return rows.sharding


def in_blocks(rows: jax.Array, devices: int, blocks: int) -> jax.Array:
    """[n, ...] -> [blocks, devices, n / (blocks * devices), ...]: every device keeps its rows, in as many parts.

    For a scan over the first axis, in which all devices take part in every step. Inside jit; `n` is a multiple of both.
    """
    return jnp.swapaxes(rows.reshape(devices, blocks, -1, *rows.shape[1:]), 0, 1)
