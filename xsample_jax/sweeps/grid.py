"""A grid: runs that differ in a few values of their config. configs/ablations/*.py return one from get_grid(arg)."""

import dataclasses
import inspect
import itertools
import pathlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from xsample_jax.config.load import file_error, find_config, import_file
from xsample_jax.errors import ConfigError, UserError


@dataclasses.dataclass(frozen=True)
class Point:
    """One run of a grid.

    Attributes:
      config: file of its config, with the variant: "configs/quickstart.py:simclr".
      values: {dotted key: value} on top of it.
      tag: in words what tells its config from the others of the grid; "" where all have the same.
    """

    config: str
    values: Mapping[str, object]
    tag: str = ""

    @property
    def name(self) -> str:
        """What differs, as a name for a folder: "simclr,target_temperature=0.1,seed=0"."""
        leaves = [key.rpartition(".")[2] for key in self.values]
        parts = [
            f"{leaf if leaves.count(leaf) == 1 else key}={_word(value)}"
            for key, leaf, value in zip(self.values, leaves, self.values.values(), strict=True)
        ]
        return ",".join([self.tag] * bool(self.tag) + parts) or "run"

    def overrides(self, sweep: str) -> list[str]:
        """The values as the command line of the trainer takes them; the run is called sweep/name."""
        values = {**self.values, "name": f"{sweep}/{self.name}"}
        return [f"--config.{key}={as_text(value)}" for key, value in values.items()]


def grid(
    config: str | pathlib.Path | Mapping[str, str | pathlib.Path],
    axes: Mapping[str | tuple[str, ...], Sequence],
) -> list[Point]:
    """All combinations of the values of `axes` on a config, or on each of several {tag: config}; the last axis fastest.

    An axis is a dotted key with its values, or several keys that change together, ("a", "b"): [(1, 2), (3, 4)]. Grids
    are lists: `grid(...) + grid(...)` is one too.
    """
    configs = config if isinstance(config, Mapping) else {"": config}
    points = []
    for tag, file in configs.items():
        for combination in itertools.product(*axes.values()):
            values = {}
            for keys, value in zip(axes, combination, strict=True):
                values |= {keys: value} if isinstance(keys, str) else dict(zip(keys, value, strict=True))
            points.append(Point(str(file), values, tag))
    return points


# What a study measures on its finished runs, written in its file before any of them is trained.


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One call of the evaluators on a finished run.

    Attributes:
      name: of it, as "emoji". evals: names of evaluators. target: what probes predict; None: the default of the data.
      overrides: `--config.KEY=VALUE` of the data that is evaluated on.
      keep: how the names of the metrics begin that are kept; (): all are.
    """

    name: str
    evals: tuple[str, ...]
    overrides: tuple[str, ...] = ()
    target: str | None = None
    keep: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Protocol:
    """Attributes:
    headlines: metrics that conclusions are drawn from, chosen before the runs; others are shown, and decide nothing.
    evaluations: of every finished run, beside its own; no two have a metric of one name.
    """

    headlines: tuple[str, ...] = ()
    evaluations: tuple[Evaluation, ...] = ()


def read_protocol(file: str) -> Protocol:
    """What get_protocol(arg) of the file of a grid returns; an empty one where it has no such function.

    Raises ConfigError: the function fails, or returns something else.
    """
    path, argument = find_config(file, "--grid")
    get_protocol = getattr(import_file(path, "--grid"), "get_protocol", None)
    if get_protocol is None:
        return Protocol()
    try:
        protocol = get_protocol(argument)
    except UserError:
        raise
    except Exception as error:
        raise file_error(path, error) from error
    if not isinstance(protocol, Protocol):
        raise ConfigError(f"get_protocol of {path}", protocol, "a Protocol", "See configs/studies/evidence.py.")
    return protocol


def read_grid(file: str) -> tuple[str, list[Point]]:
    """(name of the grid, its points) of `path.py`, `path.py:argument` or the name of one, as ablations/temperature.

    Raises ConfigError: no such file, no get_grid, an exception in it, no points, or two of the same name.
    """
    path, argument = find_config(file, "--grid")
    module = import_file(path, "--grid")
    get_grid = getattr(module, "get_grid", None)
    example = "See configs/ablations/temperature.py."
    if not callable(get_grid):
        raise ConfigError(str(path), "no get_grid", "a function get_grid(arg) that returns grid(...)", example)
    try:
        points = get_grid(argument) if inspect.signature(get_grid).parameters else get_grid()
    except UserError:
        raise
    except Exception as error:
        raise file_error(path, error) from error
    if not points or not all(isinstance(point, Point) for point in points):
        raise ConfigError(f"get_grid of {path}", points, "the points that grid(...) makes", example)
    names = [point.name for point in points]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"get_grid of {path}", twice[:5], "points with names of their own", "Tag their configs.")
    points = [dataclasses.replace(point, config=from_here(point.config)) for point in points]
    return "-".join([path.stem, *filter(None, argument.split(","))]), points


def from_here(config: str) -> str:
    """A path as it is typed in this folder, which elsewhere is another one."""
    here = f"{pathlib.Path.cwd()}/"
    return config.removeprefix(here)


def as_text(value: object) -> str:
    """A value as config/load.py reads it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list) and not any(isinstance(part, dict) for part in value):
        return f"({','.join(as_text(part) for part in value)})"
    return repr(value) if isinstance(value, float | tuple | list) else str(value)


def _word(value: object) -> str:
    """A value as a part of a file name."""
    if isinstance(value, str) and "/" in value:
        value = pathlib.Path(value).name
    text = f"{value:g}" if isinstance(value, float) else as_text(value)
    return re.sub(r"[^A-Za-z0-9_.+-]+", "-", text).strip("-").lower() or "none"


# What a grid changes, one key at a time, against the runs of it that change nothing but the seed.


Seeds = list[Point]


def unchanged(points: Sequence[Point]) -> dict[str, Seeds]:
    """{objective: points without a change}, in order of first appearance; see objective_of.

    A value that all points of a grid share is not a change.
    """
    levels: dict[str, Seeds] = {}
    shared = _shared(points)
    for point in points:
        if not _changed(point, shared):
            levels.setdefault(objective_of(point), []).append(point)
    return levels


def changes(points: Sequence[Point]) -> dict[str, dict[str, dict[object, Seeds]]]:
    """{key: {objective: {value: points}}} of all points that change a key.

    Raises ConfigError: a point changes two keys, or one of an objective that has no point without a change.
    """
    levels = unchanged(points)
    found: dict[str, dict[str, dict[object, Seeds]]] = {}
    shared = _shared(points)
    for point in points:
        keys = _changed(point, shared)
        if len(keys) > 1 or (keys and objective_of(point) not in levels):
            raise ConfigError(
                f"point {point.name}",
                list(keys),
                "one change at a time, and a point of the same objective without it",
                "See configs/ablations/results.py.",
            )
        for key, value in keys.items():
            found.setdefault(key, {}).setdefault(objective_of(point), {}).setdefault(value, []).append(point)
    return found


def _shared(points: Sequence[Point]) -> frozenset[str]:
    """Keys that all points of a grid of several configs set to one value."""
    if len({point.config for point in points}) < 2:
        return frozenset()
    first = points[0].values
    return frozenset(key for key in first if all(point.values.get(key) == first[key] for point in points))


def _changed(point: Point, shared: frozenset[str]) -> Mapping[str, object]:
    return {key: value for key, value in point.values.items() if key != "seed" and key not in shared}


def objective_of(point: Point) -> str:
    """The tag of a point, or the name of its config where a grid has one config only."""
    return point.tag or Path(point.config).stem
