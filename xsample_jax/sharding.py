"""The device mesh, how a batch is split over it, and host arrays made global."""

import functools
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from xsample_jax.errors import ConfigError, Problems, did_you_mean

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


def warm_up_collectives(mesh: Mesh) -> None:
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


# Which array is split over which axes of the mesh: the first rule whose pattern is found in a parameter's path.
#
# A rule is a dict {"parameters": regex, "split": ...}, in config.mesh.rules. What it can say:
#
#     "whole"           a copy on every device
#     "largest"         the largest dimension that the fsdp axis divides is split over it; small parameters stay whole
#     (axis, ...)       one axis name, tuple of names or None for each dimension, as in a PartitionSpec
#
# Optimizer moments, averages and a teacher's weights are placed like their parameter.


# Parameters below this many elements stay whole under "largest": gathering them costs more than keeping them.
SMALLEST_SHARDED = 2**14
WHOLE, LARGEST = "whole", "largest"
ROWS_OF_ALL = "bank/"  # entries of the memory with a row for every image (objectives/bank.py): split over all devices


def state_shardings(abstract_state, mesh: Mesh, rules: Sequence[Mapping]):
    """The sharding of every array of a TrainState.

    Raises Problems (a ConfigError) that names every parameter without a rule, every dimension that its axes do not
    divide, and every rule that no parameter matches.
    """
    specs = parameter_specs({path: leaf.shape for path, leaf in abstract_state.params.items()}, mesh, rules)

    def place(keys, leaf) -> NamedSharding:
        path = _parameter_of(keys, specs)
        if path is not None and abstract_state.params[path].shape == leaf.shape:
            return NamedSharding(mesh, specs[path])
        if any(str(getattr(entry, "key", "")).startswith(ROWS_OF_ALL) for entry in keys):
            return NamedSharding(mesh, PartitionSpec(row_axes(leaf.shape[0], mesh)))
        return NamedSharding(mesh, largest_split(leaf.shape, mesh))  # a queue, a number of every image

    return jax.tree_util.tree_map_with_path(place, abstract_state)


def parameter_specs(
    shapes: Mapping[str, tuple[int, ...]], mesh: Mesh, rules: Sequence[Mapping]
) -> dict[str, PartitionSpec]:
    """The PartitionSpec of every parameter. Raises Problems as `state_shardings` does."""
    problems, specs, used = list(find_rule_problems(rules)), {}, set()
    if problems:
        raise Problems(problems, "the sharding rules")
    for path, shape in shapes.items():
        number = next((n for n, rule in enumerate(rules) if re.search(rule["parameters"], path)), None)
        if number is None:
            fix = 'End the rules with {"parameters": ".*", "split": "largest"}, or with "whole".'
            problems.append(ConfigError("mesh.rules", path, "a rule for every parameter; none matches this one", fix))
            continue
        used.add(number)
        split = rules[number]["split"]
        if split in (WHOLE, LARGEST):
            specs[path] = largest_split(shape, mesh) if split == LARGEST else PartitionSpec()
            continue
        found = list(_find_misfits(f"mesh.rules[{number}]", path, shape, split, mesh))
        problems += found
        if not found:
            specs[path] = PartitionSpec(*(tuple(axes) if isinstance(axes, list) else axes for axes in split))
    for number in sorted(set(range(len(rules))) - used):
        pattern = rules[number]["parameters"]
        if pattern == ".*":  # what is left, if anything
            continue
        expected = "a pattern that is found in the path of a parameter which no earlier rule takes"
        problems.append(ConfigError(f"mesh.rules[{number}]", pattern, expected, did_you_mean(pattern, shapes)))
    if problems:
        raise Problems(problems, "the sharding rules")
    return specs


def find_rule_problems(rules: Sequence[Mapping]) -> Iterator[ConfigError]:
    """What is wrong with rules whatever the model and the mesh."""
    for number, rule in enumerate(rules):
        field = f"mesh.rules[{number}]"
        if set(rule) != {"parameters", "split"}:
            yield ConfigError(field, dict(rule), "a dict with the keys parameters (a regex) and split")
            continue
        try:
            re.compile(rule["parameters"])
        except (re.error, TypeError, OverflowError, RecursionError) as error:
            yield ConfigError(f"{field}.parameters", rule["parameters"], f"a regular expression ({error})")
        split = rule["split"]
        if not isinstance(split, tuple | list) and split not in (WHOLE, LARGEST):
            expected = f"{WHOLE}, {LARGEST}, or an axis name (or None) for every dimension"
            yield ConfigError(f"{field}.split", split, expected, did_you_mean(str(split), (WHOLE, LARGEST)))
        elif not isinstance(split, str) and not all(map(_is_axes, split)):
            yield ConfigError(f"{field}.split", split, "an axis name, names or None for every dimension")


def _is_axes(entry) -> bool:
    names = entry if isinstance(entry, tuple | list) else (entry,)
    return entry is None or all(isinstance(name, str) for name in names)


def largest_split(shape: Sequence[int], mesh: Mesh) -> PartitionSpec:
    """The largest dimension that the fsdp axis divides split over it; small arrays and those without one are whole."""
    fsdp = mesh.shape["fsdp"]
    dims = [dim for dim, size in enumerate(shape) if size % fsdp == 0]
    if fsdp == 1 or math.prod(shape) < SMALLEST_SHARDED or not dims:
        return PartitionSpec()
    dim = max(dims, key=lambda d: shape[d])
    return PartitionSpec(*[None] * dim, "fsdp")


def row_axes(rows: int, mesh: Mesh) -> tuple[str, ...]:
    """The axes over which `rows` rows are split: all of them, or those with the most devices that divide the rows."""
    chosen = [axes for count in range(len(AXES) + 1) for axes in itertools.combinations(AXES, count)]
    devices = {axes: math.prod(mesh.shape[name] for name in axes) for axes in chosen}
    return max((axes for axes in chosen if rows % devices[axes] == 0), key=lambda axes: (devices[axes], len(axes)))


def bytes_per_device(tree) -> int:
    """Bytes that one device holds of arrays (or shapes) that carry their shardings."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _parameter_of(keys, specs: Mapping[str, PartitionSpec]) -> str | None:
    """The path of the parameter that a leaf of the state belongs to: one of its keys, perhaps behind a prefix."""
    for entry in keys:
        name = str(getattr(entry, "key", ""))
        for path in (name, name.partition("/")[2]):
            if path in specs:
                return path
    return None


def _find_misfits(field: str, path: str, shape: Sequence[int], split, mesh: Mesh) -> Iterator[ConfigError]:
    if len(split) > len(shape):
        expected = f"at most {len(shape)} dimensions for {path}, whose shape is {list(shape)}"
        yield ConfigError(f"{field}.split", tuple(split), expected)
        return
    used = []
    for dim, axes in enumerate(split):
        names = () if axes is None else (axes,) if isinstance(axes, str) else tuple(axes)
        unknown = [name for name in names if name not in mesh.shape]
        for name in unknown:
            yield ConfigError(f"{field}.split", name, "an axis of the mesh", did_you_mean(str(name), mesh.shape))
        twice = [name for name in names if name in used]
        for name in twice:
            yield ConfigError(f"{field}.split", tuple(split), f"every axis once ({name} comes twice)")
        used += names
        devices = math.prod(mesh.shape[name] for name in names if name in mesh.shape)
        if not unknown and shape[dim] % devices:
            yield ConfigError(
                f"{field}.split",
                tuple(split),
                f"dimensions that their axes divide: dimension {dim} of {path} {list(shape)} is {shape[dim]}, "
                f"which {' x '.join(names)} = {devices} devices do not divide",
                "Put a rule for this parameter in front, or change the mesh.",
            )
