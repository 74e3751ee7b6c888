"""Runs a grid of configs: prints it, trains it here, or prints the commands that start it elsewhere.

    python -m xsample_jax.tools.sweep --grid=configs/ablations/temperature.py --out=runs/temperature
    python -m xsample_jax.tools.sweep --grid=... --out=runs/temperature --run --jobs=2
    python -m xsample_jax.tools.sweep --grid=... --out=/shared/temperature --emit=slurm --options='--gpus-per-node=1'
    python -m xsample_jax.tools.sweep --grid=... --out=runs/temperature --collect

All problems of all points are reported before anything starts. --run skips what is finished and resumes what was
stopped. Results are in OUT/results.parquet and OUT/results.csv. More: docs/sweeps.md.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from xsample_jax.errors import FAILED, REQUEUE, ConfigError
from xsample_jax.tools.cli import local_path, program, run_cli


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
    environment = dict(os.environ)
    os.environ["JAX_PLATFORMS"] = "cpu"  # of this process, which must not take the accelerators from its runs
    from xsample_jax.sweeps.grid import read_grid
    from xsample_jax.sweeps.launch import check_points, emit, write_results
    from xsample_jax.sweeps.local import Stopped, run_points, state_of

    name, points = read_grid(flags.grid)
    here = "://" not in flags.out
    if here:
        flags.out = str(local_path(flags.out))
    if not here and not flags.emit:
        raise ConfigError("--out", flags.out, "a folder of this machine, unless with --emit", "Mount the bucket.")
    check_points(points, name, flags.out if here else None, data=here and not flags.no_data)
    if flags.emit:
        print("\n".join(emit(flags.emit, points, name, flags.out, flags.options)))
        return 0
    if flags.collect:
        table = write_results(points, flags.out)
        print(f"{table.num_rows} runs in {flags.out}/results.parquet and results.csv")
        return 0
    if not flags.run:
        for point in points:
            state = state_of(os.path.join(flags.out, point.name))
            print(f"{state.status:8}  step {state.step:<7} {point.name}")
        print(f"{len(points)} runs of {name}; --run trains them here, --emit=KIND prints launch commands")
        return 0
    gpus = [gpu for gpu in flags.gpus.split(",") if gpu]
    try:
        failed = run_points(points, name, flags.out, flags.jobs if not gpus else len(gpus), gpus, environment)
    except Stopped:
        print("stopped; the same command continues from here", file=sys.stderr)
        return REQUEUE
    finally:
        write_results(points, flags.out)
    print(f"{len(points) - len(failed)} of {len(points)} runs finished: {flags.out}/results.parquet and results.csv")
    return FAILED if failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    return run_cli(sweep, arguments)


if __name__ == "__main__":
    sys.exit(main())
