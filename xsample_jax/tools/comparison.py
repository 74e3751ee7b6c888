"""Evaluation tables of the report: every series' metrics with intervals, and differences to a baseline."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from xsample_jax.errors import DataError
from xsample_jax.evals.catalogue import HEADLINES, Metric, in_order
from xsample_jax.evals.intervals import Interval, bootstrap, paired_difference
from xsample_jax.tools.series import Series


@dataclasses.dataclass(frozen=True)
class Cell:
    """One number of a table as text.

    Attributes:
      text, low, high: empty where there is nothing; low and high also without an interval.
      best: of the values of a row: the best mean, and its paired differences to all others exclude zero.
      ahead: the best mean, but not separated from all others.
      clear: of the differences: the interval excludes zero.
      interval: in units of the metric.
    """

    text: str = ""
    low: str = ""
    high: str = ""
    best: bool = False
    ahead: bool = False
    clear: bool = False
    interval: Interval | None = None


@dataclasses.dataclass(frozen=True)
class Row:
    metric: Metric
    cells: Sequence[Cell]


def evaluation_rows(series: Sequence[Series]) -> list[Row]:
    """One row per metric, one cell per series; the best of a row is marked where there are several."""
    rows = []
    for metric in in_order(dict.fromkeys(name for one in series for name in one.metrics)):
        values = np.array([one.metrics.get(metric.name, np.nan) for one in series])
        first, separated = None, False
        if metric.direction and np.isfinite(values).sum() > 1:
            first = int(np.nanargmax(metric.direction * values))
            others = [one for one, value in zip(series, values) if one is not series[first] and np.isfinite(value)]
            separated = all(_separated(metric, series[first], other) for other in others)
        cells = []
        for place, (one, value) in enumerate(zip(series, values, strict=True)):
            if not np.isfinite(value):
                cells.append(Cell())
                continue
            scores, low, high, interval = one.scores(metric.name), "", "", None
            if scores:
                interval = bootstrap(scores)
                low, high = metric.text(interval.low), metric.text(interval.high)
            # What prints alike is equally far ahead.
            ahead = first is not None and not separated and metric.text(value) == metric.text(values[first])
            cells.append(Cell(metric.text(value), low, high, separated and place == first, ahead, interval=interval))
        rows.append(Row(metric, cells))
    return rows


def _separated(metric: Metric, one: Series, other: Series) -> bool:
    """Whether the 95% interval of the paired difference excludes zero; without examples nothing is separated."""
    difference = _paired(metric, one, other)
    return difference is not None and difference.excludes_zero


def _paired(metric: Metric, one: Series, other: Series) -> Interval | None:
    ours, theirs = one.scores(metric.name), other.scores(metric.name)
    if not ours or not theirs:
        return None
    try:
        return paired_difference(ours, theirs)
    except DataError:
        return None  # Evaluated on other concepts: nothing can be said.


def difference_rows(series: Sequence[Series], baseline: Series, metrics: Sequence[Metric]) -> list[Row]:
    """One row per metric, one cell per series but the baseline: series minus baseline, paired over concepts."""
    rows = []
    for metric in metrics:
        cells = [_difference(one, baseline, metric) for one in series if one is not baseline]
        if any(cell.text for cell in cells):
            rows.append(Row(metric, cells))
    return rows


def _difference(one: Series, baseline: Series, metric: Metric) -> Cell:
    interval = _paired(metric, one, baseline)
    if interval is None:
        return Cell()
    text, low, high = (metric.text(value, signed=True) for value in (interval.mean, interval.low, interval.high))
    return Cell(text, low, high, clear=interval.excludes_zero, interval=interval)


def headlines(rows: Sequence[Row]) -> list[Row]:
    """Returns the rows a summary shows, in the order of the catalogue."""
    by_name = {row.metric.name: row for row in rows}
    return [by_name[name] for name in HEADLINES if name in by_name]


def verdicts(series: Sequence[Series], baseline: Series, rows: Sequence[Row]) -> list[str]:
    """One sentence per series: on how many metrics its difference to the baseline excludes zero, and which way."""
    sentences = []
    for place, one in enumerate(one for one in series if one is not baseline):
        cells = [(row.metric, row.cells[place]) for row in rows if row.cells[place].text]
        if not cells:
            continue
        better = sum(cell.clear and metric.direction * cell.interval.mean > 0 for metric, cell in cells)
        worse = sum(cell.clear and metric.direction * cell.interval.mean < 0 for metric, cell in cells)
        unclear = sum(not cell.clear for _, cell in cells)
        neither = len(cells) - better - worse - unclear
        other = f"different on {neither} that {'have' if neither > 1 else 'has'} no better side, " if neither else ""
        sentences.append(
            f"{one.name} against {baseline.name}: better on {better} of {len(cells)} metrics, worse on {worse}, "
            f"{other}not separated on {unclear}."
        )
    return sentences
