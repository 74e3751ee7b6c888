"""Runs a grid of configs: prints it, trains it here, or prints the commands that start it elsewhere.

    python -m xsample_jax.tools.sweep --grid=configs/ablations/temperature.py --out=runs/temperature
    python -m xsample_jax.tools.sweep --grid=... --out=runs/temperature --run --jobs=2
    python -m xsample_jax.tools.sweep --grid=... --out=/shared/temperature --emit=slurm --options='--gpus-per-node=1'
    python -m xsample_jax.tools.sweep --grid=... --out=runs/temperature --collect
    python -m xsample_jax.tools.sweep --grid=... --out=runs/temperature --run --results=results

All problems of all points are reported before anything starts. --run skips what is finished and resumes what was
stopped. Results are in OUT/results.parquet and OUT/results.csv; with --results every finished run is evaluated as the
grid says and leaves one small file, and a point that has one is not run again. More: docs/sweeps.md.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from xsample_jax.errors import FAILED, REQUEUE, ConfigError
from xsample_jax.tools.cli import check_out, local_path, program, run_cli


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program("sweep"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--grid", required=True, metavar="FILE[:ARG]", help="python file with get_grid(arg)")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="each run has the folder OUT/NAME")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--print", action="store_true", help="list the runs and how far they are (the default)")
    what.add_argument("--run", action="store_true", help="train them on this machine")
    what.add_argument("--emit", metavar="KIND", help="print launch commands: shell, gpu_host, slurm, xpk, gke, queued, "
                      "babysit")  # fmt: skip
    what.add_argument("--collect", action="store_true", help="only write the results of the runs finished so far")
    what.add_argument(
        "--keep", metavar="NAME", help="with --results: only evaluate this finished run, and write its file"
    )
    parser.add_argument("--sampler", choices=("optuna",), help="with --run: search the get_space(arg) of the file")
    parser.add_argument("--trials", type=int, default=20, help="of the search, finished ones included (default 20)")
    parser.add_argument("--metric", help="of the evaluation, that the search makes better, as label/knn")
    parser.add_argument("--results", metavar="FOLDER", help="where the small file of every finished run is and stays")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once, as far as memory goes (default 1)")
    parser.add_argument("--gpus", default="", help="with --run: GPUs, as 0,1,2,3; each run has one for itself")
    parser.add_argument("--options", default="", help="with --emit: options of the launcher, in quotes")
    parser.add_argument("--no_data", action="store_true", help="do not open the datasets (they are elsewhere)")
    return parser


def sweep(arguments: Sequence[str] | None = None) -> int:
    """Does what the command line says and returns the exit code."""
    flags = make_parser().parse_args(arguments)
    if flags.jobs < 1:
        raise ConfigError("--jobs", flags.jobs, "at least 1")
    if flags.keep and not flags.results:
        raise ConfigError("--keep", flags.keep, "nothing without --results", "Add --results=results.")
    if flags.results and (flags.emit or flags.collect):
        fix = "Once the run folders are here, --run --results evaluates them."
        raise ConfigError("--results", flags.results, "nothing beside --emit and --collect", fix)
    check_folders(flags)
    environment = dict(os.environ)
    if flags.sampler or flags.metric:
        return search_here(flags, environment)
    if not flags.keep:
        os.environ["JAX_PLATFORMS"] = "cpu"  # of this process, which must not take the accelerators from its runs
    from xsample_jax.sweeps.grid import read_grid
    from xsample_jax.sweeps.launch import check_points, emit, write_results
    from xsample_jax.sweeps.local import state_of

    name, points = read_grid(flags.grid)
    here = "://" not in flags.out
    if here:
        flags.out = str(local_path(flags.out))
    if not here and not flags.emit:
        raise ConfigError("--out", flags.out, "a folder of this machine, unless with --emit", "Mount the bucket.")
    if flags.keep:
        points = [point for point in points if point.name == flags.keep]
        if not points:
            raise ConfigError(
                "--keep", flags.keep, "the name of a point of the grid", "Without --keep they are listed."
            )
    configs = check_points(points, name, flags.out if here else None, data=here and not flags.no_data)
    if flags.keep:
        keep_one(flags, configs, points[0])
    elif flags.emit:
        print("\n".join(emit(flags.emit, points, name, flags.out, flags.options)))
    elif flags.collect:
        table = write_results(points, flags.out)
        print(f"{table.num_rows} runs in {flags.out}/results.parquet and results.csv")
    elif flags.run:
        return run_here(flags, configs, points, name, environment)
    else:
        keep = open_results(flags, configs)
        for point in points:
            state = state_of(os.path.join(flags.out, point.name))
            status = "kept" if keep is not None and keep.done(point) else state.status
            print(f"{status:8}  step {state.step:<7} {point.name}")
        print(f"{len(points)} runs of {name}; --run trains them here, --emit=KIND prints launch commands")
    return 0


def check_folders(flags: argparse.Namespace) -> None:
    """ConfigError where what is asked for could not write its results; a list and --emit write nothing here."""
    if (flags.run or flags.collect or flags.keep) and "://" not in flags.out:
        check_out(local_path(flags.out), folder=True, field="--out")
    if flags.results:
        check_out(local_path(flags.results), folder=True, field="--results")


def open_results(flags: argparse.Namespace, configs: dict):
    """Where results stay (a Keep); None without --results."""
    from xsample_jax.sweeps.kept import Keep

    return Keep(flags.grid, Path(flags.out), local_path(flags.results), configs) if flags.results else None


def run_here(flags: argparse.Namespace, configs: dict, points: list, name: str, environment: dict) -> int:
    """Trains the points on this machine and returns the exit code."""
    from xsample_jax.sweeps.launch import write_results
    from xsample_jax.sweeps.local import Stopped, Workers, run_points

    keep = open_results(flags, configs)
    gpus = [gpu for gpu in flags.gpus.split(",") if gpu]
    jobs = len(gpus) or flags.jobs
    try:
        failed = run_points(points, name, flags.out, Workers(jobs, gpus, environment), keep=keep)
    except Stopped:
        print("stopped; the same command continues from here", file=sys.stderr)
        return REQUEUE
    finally:
        write_results(points, flags.out)
    print(f"{len(points) - len(failed)} of {len(points)} runs finished: {flags.out}/results.parquet and results.csv")
    return FAILED if failed else 0


def search_here(flags: argparse.Namespace, environment: dict) -> int:
    """Runs the trials of a search on this machine and returns the exit code."""
    if not (flags.sampler and flags.metric and flags.run) or flags.results or flags.trials < 1:
        given = f"--sampler={flags.sampler} --metric={flags.metric} --trials={flags.trials}"
        expected = "with --run and a metric, at least one trial, and without --results"
        raise ConfigError("--sampler", given, expected, "Give --sampler=optuna --metric=label/knn --trials=20 --run.")
    os.environ["JAX_PLATFORMS"] = "cpu"
    from xsample_jax.sweeps.launch import check_points, write_results
    from xsample_jax.sweeps.local import Stopped, Workers
    from xsample_jax.sweeps.search import (
        check_metric,
        count_failed,
        edge_points,
        open_study,
        points_of,
        read_space,
        search,
    )

    space = read_space(flags.grid)
    out = local_path(flags.out)
    study = open_study(out, flags.metric, space)  # also says that optuna is missing, before data is opened
    for config in check_points(edge_points(space), space.name, None, data=not flags.no_data).values():
        check_metric(flags.metric, config)
    gpus = [gpu for gpu in flags.gpus.split(",") if gpu]
    try:
        search(study, space, out, flags.trials, Workers(len(gpus) or flags.jobs, gpus, environment))
    except Stopped:
        print("stopped; the same command continues from here", file=sys.stderr)
        return REQUEUE
    finally:
        write_results(points_of(study, space), flags.out)
    trials, failed = len(points_of(study, space)), count_failed(study, space)
    print(f"{trials} runs, {failed} failed: {out}/results.parquet and results.csv")
    return FAILED if failed else 0


def keep_one(flags: argparse.Namespace, configs: dict, point) -> None:
    """Evaluates one finished run and writes its file."""
    from xsample_jax.sweeps.grid import read_protocol
    from xsample_jax.sweeps.kept import keep_result

    print(keep_result(open_results(flags, configs), point, read_protocol(flags.grid)))


def main(arguments: Sequence[str] | None = None) -> int:
    return run_cli(sweep, arguments)


if __name__ == "__main__":
    sys.exit(main())
