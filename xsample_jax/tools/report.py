"""One self-contained HTML page about one or several runs; runs that differ in their seed only are one series.

    python -m xsample_jax.tools.report RUN... --out=report.html [--baseline=simclr]

Reads run folders (see `runs.py`), needs neither their data nor their models. Every figure is also written as PNG to
<out>_figures beside the page.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial

from xsample_jax.tools.cli import out_page, program, run_cli


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=program("report"), description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", help="run folders, in the order of the columns")
    parser.add_argument(
        "--out",
        type=partial(out_page, parents=True),
        default="report.html",
        help="HTML file to write (default: %(default)s)",
    )
    parser.add_argument("--baseline", help="series or preset that the others are compared with (default: SimCLR)")
    return parser


def run(arguments: Sequence[str]) -> None:
    chosen = make_parser().parse_args(arguments)
    from xsample_jax.reports.report import write_report

    print(write_report(chosen.runs, chosen.out, chosen.baseline))


def main(arguments: Sequence[str] | None = None) -> int:
    return run_cli(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
