"""A Markdown table of series, a row each: the mean of some metrics, and the paired difference to another series."""

from collections.abc import Sequence

from xsample_jax.evals.catalogue import Metric
from xsample_jax.evals.intervals import paired_difference
from xsample_jax.tools.markdown import row, rule
from xsample_jax.tools.series import Series

Pair = tuple[Series, Series | None]
ARROWS = {1: " ↑", -1: " ↓", 0: ""}
READING = "Mean over seeds; in brackets the paired difference to {}, in points, with its 95% bootstrap interval over "
READING += "concepts and seeds, bold where it excludes zero."


def difference_table(rows: Sequence[Pair], metrics: Sequence[Metric]) -> str:
    """One row per (series, what it is compared with or None), named by the series, with its number of seeds."""
    heads = ["", "seeds", *(metric.title + ARROWS[metric.direction] for metric in metrics)]
    lines = [row(heads), rule(len(heads) - 1)]
    for series, base in rows:
        cells = [_cell(series, base, metric) for metric in metrics]
        lines.append(row([series.name, str(len(series.runs)), *cells]))
    return "\n".join(lines)


def _cell(series: Series, base: Series | None, metric: Metric) -> str:
    mean = metric.text(series.metrics[metric.name])
    if base is None or base is series:
        return mean
    interval = paired_difference(series.scores(metric.name), base.scores(metric.name))
    middle, low, high = (metric.text(value, signed=True) for value in (interval.mean, interval.low, interval.high))
    return f"{mean} ({f'**{middle}**' if interval.excludes_zero else middle} [{low}, {high}])"
