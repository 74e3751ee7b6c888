"""Where arrays live: the device mesh, the shardings of batch and state, and host arrays made global."""

import math
from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from xsample_jax.errors import ConfigError

# Parameters below this many elements stay whole on every device: gathering them costs more than keeping them.
SMALLEST_SHARDED = 2**14


def make_mesh(config_mesh, batch_size: int, devices=None) -> Mesh:
    """A (data, fsdp) mesh over `devices` (default: all). Axes are Auto: the compiler places the collectives.

    Raises ConfigError when the axes do not multiply to the number of devices, or batch_size does not divide over them.
    """
    devices = list(jax.devices() if devices is None else devices)
    data, fsdp = config_mesh.data, config_mesh.fsdp
    if data == -1:
        data = max(len(devices) // fsdp, 1)
    if data * fsdp != len(devices):
        raise ConfigError(
            "mesh",
            f"data={config_mesh.data}, fsdp={fsdp}",
            f"axes whose product is the {len(devices)} devices there are",
            "Set --config.mesh.data=-1 and an fsdp that divides the number of devices.",
        )
    if batch_size % len(devices):
        raise ConfigError(
            "batch_size",
            batch_size,
            f"a multiple of the {len(devices)} devices",
            f"Set --config.batch_size={max(batch_size // len(devices), 1) * len(devices)}.",
        )
    if devices[0].platform == "cpu":
        grid = np.array(devices).reshape(data, fsdp)
        return Mesh(grid, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    return jax.make_mesh((data, fsdp), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2, devices=devices)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch are split over all devices, whatever their axis."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def state_shardings(abstract_state, mesh: Mesh):
    """Sharding of every leaf: its largest dimension that the fsdp axis divides is split; small leaves stay whole.

    Optimiser moments have the shapes of their parameters and so land beside them.
    """
    fsdp = mesh.shape["fsdp"]

    def place(leaf) -> NamedSharding:
        dims = [axis for axis, size in enumerate(leaf.shape) if size % fsdp == 0]
        if fsdp == 1 or math.prod(leaf.shape) < SMALLEST_SHARDED or not dims:
            return replicated(mesh)
        axis = max(dims, key=lambda i: leaf.shape[i])
        return NamedSharding(mesh, PartitionSpec(*([None] * axis), "fsdp"))

    return jax.tree.map(place, abstract_state)


def to_global(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's share of a batch, as arrays that are global over the mesh."""
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()}


def fetch_scalars(metrics: Mapping[str, jax.Array]) -> dict[str, float]:
    """Replicated scalars as python floats, in one transfer."""
    return {name: float(value) for name, value in jax.device_get(dict(metrics)).items()}
