"""Tables and figures of a grid for a Markdown page: its objectives, and what each change of a key does to them.

    python -m xsample_jax.tools.results_page --grid=configs/ablations/results.py --runs=runs/results \
        --out=docs/notes/results.md --summary=README.md

Runs that are not finished are left out, and counted. The page has them between the lines `<!-- results -->` and
`<!-- /results -->`, the figures beside it; --summary has one table and the figure of it.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from xsample_jax.tools.cli import local_path, program, run_cli


def run(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog=program("results_page"), description=__doc__.split("\n")[0])
    parser.add_argument("--grid", required=True, metavar="FILE[:ARG]", help="a grid that changes one key at a time")
    parser.add_argument("--runs", required=True, type=local_path, help="where tools.sweep put its runs")
    parser.add_argument("--out", required=True, type=local_path, help="Markdown file; its figures are put beside it")
    parser.add_argument("--summary", type=local_path, help="another Markdown file, for one table and figure")
    parser.add_argument("--baseline", default="simclr", help="objective that the others are compared with")
    parser.add_argument("--metrics", nargs="+", help="of figures and tables of changes (default: the headlines)")
    chosen = parser.parse_args(arguments)
    from xsample_jax.reports.results_page import SUMMARY, finished, objectives_of, page_markdown, summary_markdown
    from xsample_jax.reports.style import insert
    from xsample_jax.sweeps.grid import changes, read_grid

    metrics = chosen.metrics or list(SUMMARY)
    _, points = read_grid(chosen.grid)
    changes(points)
    done = finished(points, chosen.runs)
    panels = chosen.out.with_suffix("")
    panels.parent.mkdir(parents=True, exist_ok=True)
    page = page_markdown(done, len(points), chosen.runs, chosen.baseline, panels, metrics)
    insert(chosen.out, "results", page)
    if chosen.summary:
        objectives = objectives_of(done, chosen.runs)
        where = os.path.relpath(panels, chosen.summary.parent)
        text = summary_markdown(objectives, objectives[chosen.baseline], where, metrics)
        insert(chosen.summary, "results", text)
    print(f"{len(done)} of {len(points)} runs: {chosen.out}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    return run_cli(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
