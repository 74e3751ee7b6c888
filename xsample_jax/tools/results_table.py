"""The results of many runs as Markdown: mean over seeds, 95% interval, paired difference to a baseline.

    python -m xsample_jax.tools.results_table RUN... [--out=page.md --out=another.md] [--baseline=simclr]

Runs that share --by (default: the objective; else a config key such as name) are the seeds of one column. With --out
the tables go between the lines `<!-- results -->` and `<!-- /results -->` of each file, else to the screen.
"""

import argparse
import sys
from collections.abc import Sequence

from xsample_jax.tools.cli import out_file, program, run_cli


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=program("results_table"), description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", help="run folders; the order of their objectives is that of the columns")
    parser.add_argument(
        "--out",
        action="append",
        default=[],
        type=out_file,
        metavar="FILE",
        help="Markdown file with the markers; may be repeated",
    )
    parser.add_argument("--baseline", help="column that the others are compared with (default: simclr)")
    parser.add_argument("--by", help="config key whose value names the column (default: the objective)")
    parser.add_argument("--metrics", nargs="+", help="metrics to show (default: the headlines)")
    return parser


def run(arguments: Sequence[str]) -> int:
    chosen = make_parser().parse_args(arguments)
    from xsample_jax.evals.catalog import HEADLINES
    from xsample_jax.reports.results_table import group_runs, results_markdown
    from xsample_jax.reports.runs import load_runs
    from xsample_jax.reports.style import check_markers, insert

    for path in chosen.out:
        check_markers(path, "results")
    columns = group_runs(load_runs(chosen.runs), chosen.by)
    markdown = results_markdown(columns, chosen.baseline, chosen.metrics or list(HEADLINES))
    for path in chosen.out:
        insert(path, "results", markdown)
    print(markdown)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    return run_cli(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
