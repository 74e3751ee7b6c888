"""The results of many runs as Markdown: mean over seeds, 95% interval, paired difference to a baseline.

    python -m xsample_jax.tools.results_table RUN... [--out=page.md --out=another.md] [--baseline=simclr]

Runs that share --by (default: the objective; else a config key such as name) are the seeds of one column. With --out
the tables go between the lines `<!-- results -->` and `<!-- /results -->` of each file, else to the screen.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence

from xsample_jax.errors import DataError, UserError
from xsample_jax.evals.catalogue import HEADLINES, Metric, describe
from xsample_jax.evals.intervals import Scores, bootstrap, paired_difference
from xsample_jax.tools.markdown import insert, row, rule
from xsample_jax.tools.runs import Run, load_runs


def group_runs(runs: Sequence[Run], by: str | None = None) -> dict[str, list[Run]]:
    """Returns column name -> runs, in order of first appearance; `by` is a dotted config key, None: the objective."""
    columns: dict[str, list[Run]] = {}
    for run in runs:
        columns.setdefault(run.objective if by is None else str(run.config.get(by)), []).append(run)
    return columns


def results_markdown(
    columns: Mapping[str, Sequence[Run]], baseline: str | None = None, metrics: Sequence[str] = HEADLINES
) -> str:
    """Returns the Markdown of two tables: values, and differences to the baseline column.

    Args:
      columns: name -> its seeds.
      baseline: a column; None: "simclr" where there is one, else no second table.
      metrics: rows; those that some run lacks are left out.

    Raises:
      DataError: an unknown baseline; no common metric; seeds twice; runs evaluated on different concepts.
    """
    runs = [run for seeds in columns.values() for run in seeds]
    shown = [describe(name) for name in metrics if all(name in run.examples for run in runs)]
    if not shown:
        lacking = next((run for run in runs if not run.examples), runs[0])
        raise DataError(
            "metrics", list(metrics), "a metric that all runs have", f"Look at evaluation.npz in {lacking.folder}."
        )
    for name, seeds in columns.items():
        numbers = [run.config.get("seed") for run in seeds]
        if len(set(numbers)) < len(numbers):
            raise DataError(
                f"seeds of {name}", numbers, "each seed once", "Give --by a config key that tells the runs apart."
            )
    if baseline is None:
        baseline = "simclr" if "simclr" in columns else None
    elif baseline not in columns:
        raise DataError("baseline", baseline, f"one of {', '.join(columns)}")

    lines = [row(["", *(f"{name} ({_seeds(len(seeds))})" for name, seeds in columns.items())]), rule(len(columns))]
    lines += [_values(metric, list(columns.values())) for metric in shown]
    lines += [
        "",
        "Accuracies in percent. Mean over seeds; in brackets the 95% bootstrap interval over concepts"
        + (" and seeds" if any(len(seeds) > 1 for seeds in columns.values()) else "")
        + "; bold: best mean of the row.",
    ]
    others = {name: seeds for name, seeds in columns.items() if name != baseline}
    if baseline is not None and others:
        lines += ["", row([f"minus {baseline}", *others]), rule(len(others))]
        lines += [_differences(metric, list(others.values()), columns[baseline]) for metric in shown]
        lines += ["", "Differences in points, paired over the same concepts; bold: the 95% interval excludes zero."]
    return "\n".join(lines)


def _values(metric: Metric, columns: Sequence[Sequence[Run]]) -> str:
    intervals = [bootstrap(_scores(metric, seeds)) for seeds in columns]
    best = max(intervals, key=lambda interval: (metric.direction or 1) * interval.mean)
    cells = []
    for interval in intervals:
        mean = metric.text(interval.mean)
        bold = metric.direction and len(intervals) > 1 and mean == metric.text(best.mean)
        cells.append(f"{_bold(mean) if bold else mean} [{metric.text(interval.low)}, {metric.text(interval.high)}]")
    arrow = {1: " ↑", -1: " ↓", 0: ""}[metric.direction]
    return row([metric.title + arrow, *cells])


def _differences(metric: Metric, columns: Sequence[Sequence[Run]], baseline: Sequence[Run]) -> str:
    cells = []
    for seeds in columns:
        interval = paired_difference(_scores(metric, seeds), _scores(metric, baseline))
        mean, low, high = (metric.text(value, signed=True) for value in (interval.mean, interval.low, interval.high))
        cells.append(f"{_bold(mean) if interval.excludes_zero else mean} [{low}, {high}]")
    return row([metric.title, *cells])


def _scores(metric: Metric, seeds: Sequence[Run]) -> list[Scores]:
    return [run.examples[metric.name] for run in seeds]


def _seeds(count: int) -> str:
    return f"{count} seed{'s' if count > 1 else ''}"


def _bold(text: str) -> str:
    return f"**{text}**"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m xsample_jax.tools.results_table", description=__doc__.split("\n")[0]
    )
    parser.add_argument("runs", nargs="+", help="run folders; the order of their objectives is that of the columns")
    parser.add_argument("--out", action="append", default=[], help="Markdown file with the markers; may be repeated")
    parser.add_argument("--baseline", help="column that the others are compared with (default: simclr)")
    parser.add_argument("--by", help="config key whose value names the column (default: the objective)")
    parser.add_argument(
        "--metrics", nargs="+", default=list(HEADLINES), help="metrics to show (default: the headlines)"
    )
    chosen = parser.parse_args(arguments)
    try:
        columns = group_runs(load_runs(chosen.runs), chosen.by)
        markdown = results_markdown(columns, chosen.baseline, chosen.metrics)
        for path in chosen.out:
            insert(path, "results", markdown)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    print(markdown)
    return 0


if __name__ == "__main__":
    sys.exit(main())
