"""Averages the weights of runs of one architecture into a run folder that evaluate, export and init_from read.

    python -m xsample_jax.tools.soup runs/a runs/b runs/c --out=runs/soup
    python -m xsample_jax.tools.evaluate --run=runs/soup --evals=knn,logistic

It helps if the runs have one starting point (fine-tuning, the end of one training); the average of runs from different
seeds does not work. More: docs/weights.md.
"""

import argparse
import sys
from collections.abc import Sequence

from xsample_jax.tools.cli import out_folder, program, run_cli


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program("soup"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="RUN or RUN/checkpoints/STEP, two or more")
    parser.add_argument("--out", required=True, type=out_folder, metavar="FOLDER", help="the run folder to write")
    return parser


def run(arguments: Sequence[str]) -> None:
    chosen = make_parser().parse_args(arguments)
    from xsample_jax.export import write_soup

    print("\n".join(write_soup(chosen.runs, chosen.out)))


def main(arguments: Sequence[str] | None = None) -> int:
    return run_cli(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
