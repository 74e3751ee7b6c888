"""Evaluation tables of the report: every run's metrics with intervals, and differences to a baseline."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from xsample_jax.errors import DataError
from xsample_jax.evals.catalogue import HEADLINES, Metric, in_order
from xsample_jax.evals.intervals import Interval, bootstrap, paired_difference
from xsample_jax.tools.runs import Run


@dataclasses.dataclass(frozen=True)
class Cell:
    """One number of a table as text; `low`, `high` are empty without an interval; `interval` in units of the metric."""

    text: str = ""
    low: str = ""
    high: str = ""
    best: bool = False
    clear: bool = False
    interval: Interval | None = None


@dataclasses.dataclass(frozen=True)
class Row:
    metric: Metric
    cells: Sequence[Cell]


def evaluation_rows(runs: Sequence[Run]) -> list[Row]:
    """One row per metric, one cell per run; the best of a row is marked where there are several runs."""
    rows = []
    for metric in in_order(dict.fromkeys(name for run in runs for name in run.metrics)):
        values = [run.metrics.get(metric.name, np.nan) for run in runs]
        best = set()
        if metric.direction and np.isfinite(values).sum() > 1:
            signed = metric.direction * np.array(values)
            # What prints alike is equally good.
            best = {
                place for place, v in enumerate(values) if metric.text(v) == metric.text(values[np.nanargmax(signed)])
            }
        cells = []
        for place, (run, value) in enumerate(zip(runs, values, strict=True)):
            if not np.isfinite(value):
                cells.append(Cell())
            elif metric.name in run.examples:
                interval = bootstrap([run.examples[metric.name]])
                low, high = metric.text(interval.low), metric.text(interval.high)
                cells.append(Cell(metric.text(value), low, high, place in best, interval=interval))
            else:
                cells.append(Cell(metric.text(value), best=place in best))
        rows.append(Row(metric, cells))
    return rows


def difference_rows(runs: Sequence[Run], baseline: Run, metrics: Sequence[Metric]) -> list[Row]:
    """One row per metric, one cell per run but the baseline: run minus baseline, paired over concepts."""
    rows = []
    for metric in metrics:
        cells = [_difference(run, baseline, metric) for run in runs if run is not baseline]
        if any(cell.text for cell in cells):
            rows.append(Row(metric, cells))
    return rows


def _difference(run: Run, baseline: Run, metric: Metric) -> Cell:
    if metric.name not in run.examples or metric.name not in baseline.examples:
        return Cell()
    try:
        interval = paired_difference([run.examples[metric.name]], [baseline.examples[metric.name]])
    except DataError:
        return Cell()  # Evaluated on other concepts: the table says so by leaving the cell empty.
    text, low, high = (metric.text(value, signed=True) for value in (interval.mean, interval.low, interval.high))
    return Cell(text, low, high, clear=interval.excludes_zero, interval=interval)


def headlines(rows: Sequence[Row]) -> list[Row]:
    """Returns the rows a summary shows, in the order of the catalogue."""
    by_name = {row.metric.name: row for row in rows}
    return [by_name[name] for name in HEADLINES if name in by_name]


def verdicts(runs: Sequence[Run], baseline: Run, rows: Sequence[Row]) -> list[str]:
    """One sentence per run: on how many of the metrics its difference to the baseline excludes zero, and which way."""
    sentences = []
    for place, run in enumerate(run for run in runs if run is not baseline):
        cells = [(row.metric, row.cells[place]) for row in rows if row.cells[place].text]
        if not cells:
            continue
        better = sum(cell.clear and metric.direction * cell.interval.mean > 0 for metric, cell in cells)
        worse = sum(cell.clear and metric.direction * cell.interval.mean < 0 for metric, cell in cells)
        sentences.append(
            f"{run.name} against {baseline.name}: better on {better} of {len(cells)} metrics, worse on {worse}, "
            f"not separated on {len(cells) - better - worse}."
        )
    return sentences
