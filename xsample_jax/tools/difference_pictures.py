"""Pictures of a grid: how far each objective is from a baseline, and how a changed key moves the metrics."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from xsample_jax.evals.catalogue import Metric
from xsample_jax.evals.intervals import Interval, bootstrap, paired_difference
from xsample_jax.tools.figure_style import Picture, colour, picture
from xsample_jax.tools.series import Series


def forest(series: Sequence[Series], base: Series, metrics: Sequence[Metric], folder: Path, name: str) -> Picture:
    """A panel per metric, a line per series: the paired difference to `base` with its 95% interval."""
    others = [one for one in series if one is not base]

    def draw(figure, theme):
        for metric, axes in zip(metrics, figure.subplots(1, len(metrics), sharey=True), strict=True):
            for place, one in enumerate(others):
                _interval(axes, paired_difference(one.scores(metric.name), base.scores(metric.name)), place, metric)
            axes.axvline(0, color=theme.muted, linewidth=1)
            axes.set_yticks(range(len(others)), [one.name for one in others])
            axes.set_ylim(len(others) - 0.5, -0.5)
            axes.grid(axis="y", visible=False)
            axes.set_title(metric.title, fontsize=9.5)
            axes.set_xlabel("points" if metric.percent else "")

    caption = f"Difference to {base.name}, paired over concepts, with 95% intervals over concepts and seeds."
    size = (2.5 * len(metrics), 0.9 + 0.24 * len(others))
    return picture(folder, name, f"Against {base.name}", caption, draw, fit=True, size=size)


def _interval(axes, interval: Interval, place: int, metric: Metric) -> None:
    scale = 100 if metric.percent else 1
    axes.plot([scale * interval.low, scale * interval.high], [place, place], color=colour(place))
    filled = {"markerfacecolor": colour(place) if interval.excludes_zero else axes.get_facecolor()}
    axes.plot(scale * interval.mean, place, "o", markersize=5, color=colour(place), **filled)


def response(
    key: str, lines: Mapping[str, Mapping[object, Series]], metrics: Sequence[Metric], folder: Path, name: str
) -> Picture:
    """A panel per metric: its mean and 95% interval against the values of a key, a colour per objective.

    Args:
      lines: objective -> {value of the key: series}; numbers are put in order and joined, words stand side by side.
    """
    values = list(dict.fromkeys(value for line in lines.values() for value in line))
    numbers = [value for value in values if isinstance(value, int | float)]
    ordered = len(numbers) >= len(values) - 1  # beside numbers at most None: no limit, the last place
    values = sorted(numbers) + [value for value in values if value not in numbers]

    def draw(figure, theme):
        panels = figure.subplots(1, len(metrics))
        for metric, axes in zip(metrics, panels, strict=True):
            scale = 100 if metric.percent else 1
            for place, (objective, line) in enumerate(lines.items()):
                shift = 0.5 * ((place + 0.5) / len(lines) - 0.5)
                there = [value for value in values if value in line]
                found = [bootstrap(line[value].scores(metric.name)) for value in there]
                x = np.array([values.index(value) for value in there]) + shift
                style = "o-" if ordered else "o"
                label = objective if axes is panels[0] else None
                axes.plot(x, [scale * one.mean for one in found], style, markersize=4, color=colour(place), label=label)
                low, high = ([scale * getattr(one, end) for one in found] for end in ("low", "high"))
                axes.vlines(x, low, high, color=colour(place), alpha=0.6)
            axes.set_xticks(range(len(values)), [as_word(value) for value in values], fontsize=8)
            axes.set_xlim(-0.5, len(values) - 0.5)
            if not ordered:
                axes.tick_params(axis="x", rotation=30)
            axes.grid(axis="x", visible=False)
            axes.set_title(metric.title, fontsize=9.5)
            axes.yaxis.set_major_formatter("{x:.3g}%" if metric.percent else "{x:.3g}")
        figure.supxlabel(key, fontsize=9.5, color=theme.muted)
        if len(lines) > 1:
            figure.legend(loc="outside upper center", ncols=len(lines), fontsize=9)

    caption = f"{key}: means over seeds with 95% intervals over concepts and seeds."
    return picture(folder, name, key, caption, draw, fit=True, size=(2.6 * len(metrics), 3.0))


def as_word(value: object) -> str:
    return "unchanged" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
