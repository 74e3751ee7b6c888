"""The results of a grid as one table, a row per run: results.parquet and results.csv."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from xsample_jax.data.whole_file import write_whole
from xsample_jax.storage.paths import as_path
from xsample_jax.sweeps.grid import Point, as_text
from xsample_jax.sweeps.state import state_of

PARQUET, CSV = "results.parquet", "results.csv"


def results_table(points: Sequence[Point], out: str | Path) -> pa.Table:
    """One row per point: run, folder, status, step, config, the values that differ, then the numbers.

    Values of the config keep their type where the whole column has one (and are text where not); numbers of the last
    logged training step are "train/NAME", those of the final evaluation "eval/NAME", null where a run has none.
    """
    keys = list(dict.fromkeys(key for point in points for key in point.values))
    states = [state_of(as_path(out) / point.name) for point in points]
    columns: dict[str, list] = {
        "run": [point.name for point in points],
        "folder": [str(as_path(out) / point.name) for point in points],
        "status": [state.status for state in states],
        "step": [state.step for state in states],
        "config": [point.config for point in points],
    }
    columns |= {key: _of_one_type([point.values.get(key) for point in points]) for key in keys}
    for prefix, numbers in (
        ("train", [state.training for state in states]),
        ("eval", [state.evaluation for state in states]),
    ):
        names = sorted({name for found in numbers for name, value in found.items() if isinstance(value, int | float)})
        for name in names:
            if name != "step" and not (prefix == "train" and name.startswith("eval/")):
                values = [found.get(name) for found in numbers]
                columns[f"{prefix}/{name}"] = [None if value is None else float(value) for value in values]
    return pa.table(columns)


def write_results(points: Sequence[Point], out: str | Path) -> pa.Table:
    """Writes the table into `out`, each file whole or not at all, and returns it."""
    table, out = results_table(points, out), as_path(out)
    out.mkdir(parents=True, exist_ok=True)
    for name, write in ((PARQUET, pa.parquet.write_table), (CSV, pa.csv.write_csv)):
        write_whole(out / name, lambda partial, write=write: write(table, str(partial)))
    return table


def _of_one_type(values: list) -> list:
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} and bool not in kinds:
        return [None if value is None else float(value) for value in values] if float in kinds else values
    if len(kinds) == 1 and kinds <= {str, bool}:
        return values
    return [None if value is None else as_text(value) for value in values]
