"""What a grid changes, one key at a time, against the runs of it that change nothing but the seed."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from xsample_jax.errors import ConfigError
from xsample_jax.sweeps.grid import Point

Seeds = list[Point]


def unchanged(points: Sequence[Point]) -> dict[str, Seeds]:
    """{objective: points without a change}, in order of first appearance; see objective_of."""
    levels: dict[str, Seeds] = {}
    for point in points:
        if not _changed(point):
            levels.setdefault(objective_of(point), []).append(point)
    return levels


def changes(points: Sequence[Point]) -> dict[str, dict[str, dict[object, Seeds]]]:
    """{key: {objective: {value: points}}} of all points that change a key.

    Raises ConfigError: a point changes two keys, or one of an objective that has no point without a change.
    """
    levels = unchanged(points)
    found: dict[str, dict[str, dict[object, Seeds]]] = {}
    for point in points:
        keys = _changed(point)
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


def _changed(point: Point) -> Mapping[str, object]:
    return {key: value for key, value in point.values.items() if key != "seed"}


def objective_of(point: Point) -> str:
    """The tag of a point, or the name of its config where a grid has one config only."""
    return point.tag or Path(point.config).stem
