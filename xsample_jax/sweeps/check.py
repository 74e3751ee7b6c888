"""Everything that is wrong with any point of a grid, at once and before the first run starts."""

import json
import pathlib
from collections.abc import Sequence

from xsample_jax.config import config_to_json, load_config
from xsample_jax.errors import Problems, UserError
from xsample_jax.faults.same_run import changed_keys
from xsample_jax.sweeps.grid import Point

NAMED = 4  # points that a message names


def check_points(points: Sequence[Point], sweep: str, out: str | None = None, data: bool = True) -> dict[str, object]:
    """Returns {name of the point: resolved config}.

    Args:
      points: of one grid.
      sweep: its name.
      out: folder with the run folders, which must be those of these configs; None: do not look.
      data: also open the data sets, and see whether they have what the objectives read.

    Raises Problems: each wrong key, value, combination, data set or run folder once, with the points that have it.
    """
    found: dict[str, tuple[UserError, list[str]]] = {}
    configs: dict[str, object] = {}
    opened: dict[str, UserError | None] = {}

    def report(error: UserError, point: Point) -> None:
        for problem in error.problems if isinstance(error, Problems) else (error,):
            found.setdefault(str(problem), (problem, []))[1].append(point.name)

    for point in points:
        try:
            config = configs[point.name] = load_config(point.config, point.overrides(sweep))
            if out is not None:
                changed_keys(config, pathlib.Path(out) / point.name, allow=False)
        except UserError as error:
            report(error, point)
            continue
        error = _data_problem(config, opened) if data else None
        if error is not None:
            report(error, point)
    if found:
        raise Problems([_naming(problem, names, len(points)) for problem, names in found.values()], f"the grid {sweep}")
    return configs


def _data_problem(config, opened: dict) -> UserError | None:
    """What is wrong with the data of a config; every data set is opened once."""
    from xsample_jax.assemble import check_eval_splits
    from xsample_jax.examples import open_for_a_look
    from xsample_jax.objectives.build import build_objective

    fields = build_objective(config.objective).requires
    whole = json.loads(config_to_json(config))
    key = json.dumps([whole["data"], whole["eval"], sorted(fields), config.model.text.length])
    if key not in opened:
        try:
            open_for_a_look(config)
            check_eval_splits(config)
            opened[key] = None
        except UserError as error:
            opened[key] = error
    return opened[key]


def _naming(problem: UserError, names: list[str], count: int) -> UserError:
    """The same problem, saying where it is."""
    if len(names) == count:
        where = "all points"
    else:
        where = "; ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
    return type(problem)(f"[{where}] {problem.field}", problem.value, problem.expected, problem.fix)
