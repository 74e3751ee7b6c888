"""The device mesh, how a batch is split over it, and host arrays made global."""

import functools
from collections.abc import Mapping

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from xsample_jax.errors import ConfigError

AXES = ("data", "fsdp", "tensor")


def make_mesh(config_mesh, batch_size: int, devices=None) -> Mesh:
    """A (data, fsdp, tensor) mesh over `devices` (default: all). Axes are Auto: the compiler places the collectives.

    Where the devices are several TPU slices, the data axis runs over the slices first: only the gradient and the loss
    cross the slow network between them.

    Raises ConfigError when the axes do not multiply to the number of devices, slices do not divide the data axis, or
    batch_size does not divide over the devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    data, fsdp, tensor = config_mesh.data, config_mesh.fsdp, config_mesh.tensor
    if data == -1:
        data = max(len(devices) // (fsdp * tensor), 1)
    if data * fsdp * tensor != len(devices):
        raise ConfigError(
            "mesh",
            f"data={config_mesh.data}, fsdp={fsdp}, tensor={tensor}",
            f"axes whose product is the {len(devices)} devices there are",
            "Set --config.mesh.data=-1 and an fsdp (and tensor) that divides the number of devices.",
        )
    if batch_size % len(devices):
        raise ConfigError(
            "batch_size",
            batch_size,
            f"a multiple of the {len(devices)} devices",
            f"Set --config.batch_size={max(batch_size // len(devices), 1) * len(devices)}.",
        )
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if data % slices:
        raise ConfigError(
            "mesh.data",
            data,
            f"a multiple of the {slices} slices: parameters are not split across them",
            "Lower --config.mesh.fsdp or --config.mesh.tensor.",
        )
    return Mesh(_grid(devices, (data, fsdp, tensor), slices), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _grid(devices: list, shape: tuple[int, int, int], slices: int) -> np.ndarray:
    if devices[0].platform == "cpu":
        return np.array(devices).reshape(shape)
    split = {"allow_split_physical_axes": True}  # an fsdp axis of 16 on a torus of 8 x 8, for example
    if slices == 1:
        return mesh_utils.create_device_mesh(shape, devices, **split)
    inside = (shape[0] // slices, *shape[1:])
    return mesh_utils.create_hybrid_device_mesh(inside, (slices, 1, 1), devices, **split)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of a batch are split over all devices, whatever their axis."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def process_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
    """Rows of a global batch that the devices of this process hold, in ascending order: what this process reads.

    With the devices of a TPU slice in the order of its network they need not be one contiguous part.
    """
    rows = np.arange(batch_size)
    places = batch_sharding(mesh).addressable_devices_indices_map((batch_size,))
    return np.unique(np.concatenate([rows[place] for place in places.values()]))


def to_global(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows of a batch (process_rows), as arrays that are global over the mesh."""
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()}


def connect(mesh: Mesh) -> None:
    """One small sum over every axis: the hosts connect, or fail to, before minutes of compiling and not after them.

    On CPUs it has to be now, while the processes are in step: gloo gives up on a peer after 30 seconds.
    """
    if jax.process_count() == 1:
        return
    names = mesh.axis_names
    ones = jax.make_array_from_callback(
        (mesh.size,), NamedSharding(mesh, PartitionSpec(names)), lambda place: np.ones(mesh.size, np.float32)[place]
    )
    groups = [names, *((name,) for name in names if 1 < mesh.shape[name] < mesh.size)]
    for group in groups:
        rest = tuple(name for name in names if name not in group)
        total = jax.shard_map(
            lambda x, over=group: jax.lax.psum(x, over),
            mesh=mesh,
            in_specs=PartitionSpec(names),
            out_specs=PartitionSpec(rest) if rest else PartitionSpec(),
        )
        jax.block_until_ready(jax.jit(total)(ones))


def gather_rows(rows: Mapping[str, np.ndarray | jax.Array], mesh: Mesh) -> dict[str, np.ndarray]:
    """The rows of all processes on every host, in their global order, in one transfer.

    rows: {name: array}, global arrays with rows over the mesh, or this process's rows of a batch (process_rows).
    """
    if jax.process_count() == 1:
        return {name: np.asarray(value) for name, value in jax.device_get(dict(rows)).items()}
    own = {name: value for name, value in rows.items() if isinstance(value, np.ndarray)}
    return jax.device_get(_copy_everywhere(mesh)(dict(rows) | to_global(own, mesh)))


@functools.cache
def _copy_everywhere(mesh: Mesh):
    return jax.jit(lambda arrays: arrays, out_shardings=replicated(mesh))


def fetch_scalars(metrics: Mapping[str, jax.Array]) -> dict[str, float]:
    """The replicated numbers among the metrics as python floats, in one transfer; flags and vectors are left out."""
    numbers = {name: value for name, value in metrics.items() if value.ndim == 0 and value.dtype != bool}
    return {name: float(value) for name, value in jax.device_get(numbers).items()}
