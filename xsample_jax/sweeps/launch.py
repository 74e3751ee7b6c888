"""The commands that start the points of a grid elsewhere: the scripts of launch/, one run each."""

import copy
import json
import pathlib
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from xsample_jax.config import config_to_json, load_config, resolve
from xsample_jax.config.saved import changed_keys
from xsample_jax.errors import CheckpointError, ConfigError, Problems, UserError, lookup
from xsample_jax.io.files import EVALUATION, atomic_write
from xsample_jax.io.paths import as_path, file_size
from xsample_jax.io.run_dir import RunFolder
from xsample_jax.sweeps.grid import Point, as_text
from xsample_jax.sweeps.local import state_of, trainer_arguments

LONGEST = 40  # characters of a workload's name


def _script(script: str, action: str | None = None, named: bool = True) -> Callable:
    def command(name: str, options: list[str], trainer: list[str]) -> list[str]:
        own = [f"--name={name}"] if named else []
        return [f"launch/{script}", *([action] if action else []), *own, *options, "--", *trainer]

    return command


KINDS = {
    "shell": lambda name, options, trainer: ["python", "-m", "xsample_jax.main", *trainer],
    "gpu_host": _script("gpu_host.sh", "run", named=False),
    "slurm": lambda name, options, trainer: ["sbatch", f"--job-name={name}", *options, "launch/slurm.sbatch", *trainer],
    "xpk": _script("xpk.sh", "run"),
    "gke": _script("gke.sh", "run"),
    "queued": _script("queued.sh", "create"),
    "babysit": _script("babysit.sh"),
}


def emit(kind: str, points: Sequence[Point], sweep: str, out: str, options: str = "") -> list[str]:
    """One line of shell for each point.

    Args:
      kind: a name of KINDS.
      points: of one grid.
      sweep: its name.
      out: folder or gs://BUCKET/FOLDER; each point has the run folder out/name.
      options: of the launcher, as "--cluster=c --zone=z --project=p --type=v5litepod-16 --image=i".

    Raises ConfigError for an unknown kind, or options where the kind takes none.
    """
    make = lookup(KINDS, kind, "--emit")
    if options and kind == "shell":
        raise ConfigError("--options", options, "none for --emit=shell, which has no launcher")
    lines = []
    for number, point in enumerate(points):
        name = _workload(sweep, number, len(points))
        trainer = trainer_arguments(point, sweep, f"{out.rstrip('/')}/{point.name}")
        lines.append(shlex.join(make(name, shlex.split(options), trainer)))
    return lines


def _workload(sweep: str, number: int, count: int) -> str:
    """A name that every cloud takes: small letters, digits and hyphens, not too long."""
    digits = len(str(count - 1))
    stem = re.sub(r"[^a-z0-9]+", "-", sweep.lower()).strip("-")[: LONGEST - digits - 1].rstrip("-")
    return f"{stem}-{number:0{digits}d}"


# Everything that is wrong with any point of a grid, at once and before the first run starts.


NAMED = 4  # points that a message names


def check_points(points: Sequence[Point], sweep: str, out: str | None = None, data: bool = True) -> dict[str, object]:
    """Returns {name of the point: resolved config}.

    Args:
      points: of one grid.
      sweep: its name.
      out: folder with the run folders, which must be those of these configs; None: do not look.
      data: also open the datasets, and see whether they have what the objectives read.

    Raises Problems: each wrong key, value, combination, dataset or run folder once, with the points that have it.
    """
    found: dict[str, tuple[UserError, list[str]]] = {}
    configs: dict[str, object] = {}
    opened: dict[str, UserError | None] = {}
    prepared: dict[str, Mapping] = {}

    def report(error: UserError, point: Point) -> None:
        for problem in error.problems if isinstance(error, Problems) else (error,):
            found.setdefault(str(problem), (problem, []))[1].append(point.name)

    from xsample_jax.evals.registry import check_metric_names  # its evaluators take seconds, as orbax below

    for point in points:
        try:
            config = _as_trained(load_config(point.config, point.overrides(sweep)), data, prepared)
            configs[point.name] = config
            if out is None or file_size(pathlib.Path(out) / point.name / EVALUATION) is None:  # else it is finished
                check_metric_names(config)
            if out is not None:
                _check_folder(config, RunFolder(pathlib.Path(out) / point.name), data)
        except UserError as error:
            report(error, point)
            continue
        error = _data_problem(config, opened) if data else None
        if error is not None:
            report(error, point)
    if found:
        raise Problems([_naming(problem, names, len(points)) for problem, names in found.values()], f"the grid {sweep}")
    return configs


def _as_trained(config, data: bool, prepared: dict):
    """The config that a run will have: a folder of images is prepared here, once, and not by several runs at once."""
    from xsample_jax.prepare.prepare import prepare_folder

    if config.data.source != "folder" or not data:
        return config
    key = json.dumps([config.data.path, config.data.split, config.data.image_size])
    if key not in prepared:
        prepared[key] = prepare_folder(config).data
    config = copy.deepcopy(config).unlock()
    config.data.update(source=prepared[key].source, path=prepared[key].path)
    return resolve(config)


def _check_folder(config, run: RunFolder, data: bool) -> None:
    """Raises CheckpointError where a run folder is that of another config or, with `data`, has learned from others."""
    from xsample_jax.checkpoint import other_data, started_config  # orbax takes seconds, which `--help` should not cost

    before = started_config(run)
    if before is not None and config.data.source == "folder":  # not looked at: a run trains on records made of it
        config = copy.deepcopy(config).unlock()
        config.data.update(source=before.data.source, path=before.data.path)
    changed_keys(config, before, run.place, allow=False)
    if data and before is not None and (other := other_data(config, run)):
        fix = "Put the data back, or remove the run folder, to train again."
        raise CheckpointError(f"data of {run.place}", other, "the data of today", fix)


def _data_problem(config, opened: dict) -> UserError | None:
    """What is wrong with the data of a config; every dataset is opened once for all that is clustered alike."""
    from xsample_jax.data.dataset import open_for_a_look
    from xsample_jax.data.splits import check_eval_splits
    from xsample_jax.objectives.bank import check_clusters
    from xsample_jax.objectives.from_config import build_objective

    objective, whole = build_objective(config.objective), json.loads(config_to_json(config))
    read = [sorted(objective.requires), whole["objective"]["clusters"], config.model.text.length]
    key = json.dumps([whole["data"], whole["eval"], *read])
    if key not in opened:
        try:
            examples = open_for_a_look(config)
            if objective.clusters:
                check_clusters(objective.clusters, len(examples), len(examples.source.manifest.class_names))
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


# The results of a grid as one table, a row per run: results.parquet and results.csv.


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
        atomic_write(out / name, lambda partial, write=write: write(table, str(partial)))
    return table


def _of_one_type(values: list) -> list:
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} and bool not in kinds:
        return [None if value is None else float(value) for value in values] if float in kinds else values
    if len(kinds) == 1 and kinds <= {str, bool}:
        return values
    return [None if value is None else as_text(value) for value in values]
