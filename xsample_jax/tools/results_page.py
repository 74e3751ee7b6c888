"""Tables and figures of a grid for a Markdown page: its objectives, and what each change of a key does to them.

    python -m xsample_jax.tools.results_page --grid=configs/ablations/results.py --runs=runs/results \
        --out=docs/notes/results.md --summary=README.md
    python -m xsample_jax.tools.results_page --grid=configs/studies/evidence.py:both --results=results \
        --baseline=xclr --out=docs/notes/evidence.md

--runs reads run folders; --results the small files that stay, for which neither runs nor data are needed. Unfinished
runs are left out, and counted. The results go between the lines `<!-- results -->` and
`<!-- /results -->`, the figures beside the page; --summary gets one table and its figure.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial

from xsample_jax.tools.cli import check_apart, local_path, out_file, program, run_cli


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=program("results_page"), description=__doc__.split("\n")[0])
    parser.add_argument("--grid", required=True, metavar="FILE[:ARG]", help="a grid that changes one key at a time")
    parser.add_argument("--runs", type=local_path, help="where tools.sweep put its runs")
    parser.add_argument("--results", type=local_path, help="where tools.sweep --results put the results that stay")
    parser.add_argument(
        "--out",
        required=True,
        type=partial(out_file, parents=True),
        help="Markdown file; its figures are put beside it",
    )
    parser.add_argument("--summary", type=out_file, help="another Markdown file, for one table and figure")
    parser.add_argument("--baseline", default="simclr", help="objective that the others are compared with")
    parser.add_argument("--metrics", nargs="+", help="of figures and tables of changes (default: the headlines)")
    return parser


def run(arguments: Sequence[str]) -> int:
    parser = make_parser()
    chosen = parser.parse_args(arguments)
    if (chosen.runs is None) == (chosen.results is None):
        parser.error("give one of --runs and --results")
    check_apart(chosen, outs=("out", "summary"))
    from xsample_jax.reports.results_page import (
        SUMMARY,
        kept_runs,
        objectives_of,
        page_figures,
        page_markdown,
        runs_of,
        with_metrics,
    )
    from xsample_jax.reports.results_page import summary_markdown as summary
    from xsample_jax.reports.study_page import main_settings, study_figures, study_markdown
    from xsample_jax.reports.style import check_figures, check_markers, file_name, insert
    from xsample_jax.sweeps.grid import changes, read_grid, read_protocol

    for page in filter(None, (chosen.out, chosen.summary)):
        check_markers(page, "results")
    metrics = chosen.metrics or list(read_protocol(chosen.grid).headlines) or list(SUMMARY)
    _, points = read_grid(chosen.grid)
    several = len(main_settings(points)) > 1
    if not several:
        changes(points)
    panels = chosen.out.with_name(file_name(chosen.out.stem))
    check_figures(chosen.out, (study_figures if several else page_figures)(points, panels.name))
    runs = runs_of(points, chosen.runs) if chosen.runs else kept_runs(points, chosen.results, chosen.grid)
    panels.parent.mkdir(parents=True, exist_ok=True)
    make = study_markdown if several else page_markdown
    insert(chosen.out, "results", make(points, runs, chosen.baseline, panels, metrics))
    if chosen.summary:
        objectives, _ = with_metrics(objectives_of(points, runs), metrics)
        where = os.path.relpath(panels, chosen.summary.parent)
        insert(chosen.summary, "results", summary(objectives, objectives[chosen.baseline], where, metrics))
    print(f"{len(runs)} of {len(points)} runs: {chosen.out}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    return run_cli(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
