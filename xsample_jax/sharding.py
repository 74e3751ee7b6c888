"""Which array is split over which axes of the mesh: the first rule whose pattern is found in a parameter's path.

A rule is a dict {"parameters": regex, "split": ...}, in config.mesh.rules. What it can say:

    "whole"           a copy on every device
    "largest"         the largest dimension that the fsdp axis divides is split over it; small parameters stay whole
    (axis, ...)       one axis name, tuple of names or None for each dimension, as in a PartitionSpec

Optimiser moments, averages and a teacher's weights lie where their parameter lies.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from xsample_jax.errors import ConfigError, Problems, did_you_mean

# Parameters below this many elements stay whole under "largest": gathering them costs more than keeping them.
SMALLEST_SHARDED = 2**14
WHOLE, LARGEST = "whole", "largest"


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
        except (re.error, TypeError) as error:
            yield ConfigError(f"{field}.parameters", rule["parameters"], f"a regular expression ({error})")
        split = rule["split"]
        if not isinstance(split, tuple | list) and split not in (WHOLE, LARGEST):
            expected = f"{WHOLE}, {LARGEST}, or an axis name (or None) for every dimension"
            yield ConfigError(f"{field}.split", split, expected, did_you_mean(str(split), (WHOLE, LARGEST)))


def largest_split(shape: Sequence[int], mesh: Mesh) -> PartitionSpec:
    """The largest dimension that the fsdp axis divides split over it; small arrays and those without one are whole."""
    fsdp = mesh.shape["fsdp"]
    dims = [dim for dim, size in enumerate(shape) if size % fsdp == 0]
    if fsdp == 1 or math.prod(shape) < SMALLEST_SHARDED or not dims:
        return PartitionSpec()
    dim = max(dims, key=lambda d: shape[d])
    return PartitionSpec(*[None] * dim, "fsdp")


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
