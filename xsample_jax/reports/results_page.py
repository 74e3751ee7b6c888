"""Tables and figures of a grid for a Markdown page: its objectives, and what each change of a key does to them."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from xsample_jax.config.load import load_config
from xsample_jax.errors import DataError
from xsample_jax.evals.catalog import Metric, describe, in_order
from xsample_jax.evals.metrics import Interval, bootstrap, paired_difference
from xsample_jax.graphs.targets import parts_of
from xsample_jax.io.console import say
from xsample_jax.io.files import CONFIG
from xsample_jax.objectives.presets import PRESETS
from xsample_jax.registry import name_of
from xsample_jax.reports.report import difference_rows, verdicts
from xsample_jax.reports.results_table import results_markdown
from xsample_jax.reports.runs import Run, Series, load_runs, read_config, runs_of_results, unit_of
from xsample_jax.reports.style import Panel, color, draw_panel, row, rule
from xsample_jax.sweeps.grid import Point, changes, objective_of, unchanged
from xsample_jax.sweeps.kept import other_config
from xsample_jax.sweeps.local import FINISHED, state_of

# A Markdown table of series, a row each: the mean of some metrics, and the paired difference to another series.


Pair = tuple[Series, Series | None]
ARROWS = {1: " ↑", -1: " ↓", 0: ""}
DIFFERENCES = (
    "Mean over seeds; in brackets the paired difference to {}, in points, with its 95% bootstrap interval over "
)
DIFFERENCES += "{} and seeds, bold where it excludes zero; with one seed on a side nothing is bold."


def difference_table(rows: Sequence[Pair], metrics: Sequence[Metric]) -> str:
    """One row per (series, what it is compared with or None), named by the series, with its number of seeds."""
    heads = ["", "seeds", *(metric.title + ARROWS[metric.direction] for metric in metrics)]
    lines = [row(heads), rule(len(heads) - 1)]
    for series, base in rows:
        cells = [_cell(series, base, metric) for metric in metrics]
        lines.append(row([series.name + " †" * series.outdated, str(len(series.runs)), *cells]))
    return "\n".join(lines)


def _cell(series: Series, base: Series | None, metric: Metric) -> str:
    mean = metric.text(series.metrics[metric.name])
    if base is None or base is series:
        return mean
    interval = paired_difference(series.scores(metric.name), base.scores(metric.name))
    middle, low, high = (metric.text(value, signed=True) for value in (interval.mean, interval.low, interval.high))
    return f"{mean} ({f'**{middle}**' if interval.clear else middle} [{low}, {high}])"


# Figures of a grid: how far each objective is from a baseline, and how a changed key moves the metrics.


def forest(series: Sequence[Series], base: Series, metrics: Sequence[Metric], folder: Path, name: str) -> Panel:
    """A panel per metric, a line per series: the paired difference to `base` with its 95% interval."""
    others = [one for one in series if one is not base]

    def draw(figure, theme):
        for metric, axes in zip(metrics, figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0], strict=True):
            for place, one in enumerate(others):
                _interval(axes, paired_difference(one.scores(metric.name), base.scores(metric.name)), place, metric)
            axes.axvline(0, color=theme.muted, linewidth=1)
            axes.set_yticks(range(len(others)), [one.name for one in others])
            axes.set_ylim(len(others) - 0.5, -0.5)
            axes.grid(axis="y", visible=False)
            axes.set_title(textwrap.fill(metric.title, 26), fontsize=9.5)
            axes.set_xlabel("points" if metric.percent else "")

    unit = unit_of([run for one in series for run in one.runs])
    caption = f"Difference to {base.name}, paired over {unit}, with 95% intervals over {unit} and seeds."
    size = (2.5 * len(metrics), 1.1 + 0.24 * len(others))
    return draw_panel(folder, name, f"Against {base.name}", caption, draw, size=size)


def _interval(axes, interval: Interval, place: int, metric: Metric) -> None:
    scale = 100 if metric.percent else 1
    axes.plot([scale * interval.low, scale * interval.high], [place, place], color=color(place))
    filled = {"markerfacecolor": color(place) if interval.clear else axes.get_facecolor()}
    axes.plot(scale * interval.mean, place, "o", markersize=5, color=color(place), **filled)


def response(
    key: str, lines: Mapping[str, Mapping[object, Series]], metrics: Sequence[Metric], folder: Path, name: str
) -> Panel:
    """A panel per metric: its mean and 95% interval against the values of a key, a color per objective.

    Args:
      lines: objective -> {value of the key: series}; numbers are put in order and joined, words stand side by side.
    """
    values = list(dict.fromkeys(value for line in lines.values() for value in line))
    numbers = [value for value in values if isinstance(value, int | float)]
    ordered = len(numbers) >= len(values) - 1  # beside numbers at most None: no limit, the last place
    values = sorted(numbers) + [value for value in values if value not in numbers]

    def draw(figure, theme):
        (panels,) = figure.subplots(1, len(metrics), squeeze=False)
        for metric, axes in zip(metrics, panels, strict=True):
            scale = 100 if metric.percent else 1
            for place, (objective, line) in enumerate(lines.items()):
                shift = 0.5 * ((place + 0.5) / len(lines) - 0.5)
                there = [value for value in values if value in line]
                found = [bootstrap(line[value].scores(metric.name)) for value in there]
                x = np.array([values.index(value) for value in there]) + shift
                style = "o-" if ordered else "o"
                label = objective if axes is panels[0] else None
                axes.plot(x, [scale * one.mean for one in found], style, markersize=4, color=color(place), label=label)
                low, high = ([scale * getattr(one, end) for one in found] for end in ("low", "high"))
                axes.vlines(x, low, high, color=color(place), alpha=0.6)
            axes.set_xticks(range(len(values)), [as_word(value) for value in values], fontsize=8)
            axes.set_xlim(-0.5, len(values) - 0.5)
            if not ordered:
                axes.tick_params(axis="x", rotation=30)
            axes.grid(axis="x", visible=False)
            axes.set_title(textwrap.fill(metric.title, 26), fontsize=9.5)
            axes.yaxis.set_major_formatter("{x:.3g}%" if metric.percent else "{x:.3g}")
        figure.supxlabel(key, fontsize=9.5, color=theme.muted)
        if len(lines) > 1:
            figure.legend(loc="outside upper center", ncols=len(lines), fontsize=9)

    unit = unit_of([run for line in lines.values() for one in line.values() for run in one.runs])
    caption = f"{key}: means over seeds with 95% intervals over {unit} and seeds."
    return draw_panel(folder, name, key, caption, draw, size=(2.6 * len(metrics), 3.0))


def as_word(value: object) -> str:
    return "unchanged" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


SUMMARY = ("subgroup/knn", "group/probe", "few_shot/5/subgroup", "retrieval/twemoji_to_noto")


def finished(points: Sequence[Point], runs: Path) -> list[Point]:
    """The points whose runs below `runs` are finished. A run of another config than its point's is left out, and said.

    Raises DataError: none is, or the config of one is damaged.
    """
    done, others = [], []
    for point in points:
        if state_of(runs / point.name).status == FINISHED:
            found = {"config": read_config(runs / point.name / CONFIG)}
            (others if other_config(found, load_config(point.config, point.overrides("page"))) else done).append(point)
    if others:
        names = ", ".join(point.name for point in others[:3]) + ", ..." * (len(others) > 3)
        say(f"warning: runs of another config than the grid's, left out: {len(others)} ({names})", error=True)
    if not done:
        raise DataError("--runs", str(runs), "at least one finished run of the grid", "Run tools.sweep --run first.")
    return done


def runs_of(points: Sequence[Point], runs: Path) -> dict[str, Run]:
    """{name of a point: its run} of those that are finished; raises DataError: none is."""
    done = finished(points, runs)
    return dict(zip([point.name for point in done], load_runs([runs / point.name for point in done]), strict=True))


def kept_runs(points: Sequence[Point], results: Path, grid: str) -> dict[str, Run]:
    """{name of a point: its run} of those that have a result that stays; raises DataError: none has."""
    found = runs_of_results(results, grid, points)
    if not found:
        fix = "Run tools.sweep --run --results=FOLDER first."
        raise DataError("--results", str(results), "at least one result of the grid", fix)
    return found


Runs = Mapping[str, Run]  # by the name of their point


def objectives_of(points: Sequence[Point], runs: Runs) -> dict[str, Series]:
    """{objective: its runs without a change}; points without a run are left out."""
    levels = {name: series_of(name, seeds, runs) for name, seeds in unchanged(points).items()}
    return {name: series for name, series in levels.items() if series.runs}


def responses_of(points: Sequence[Point], runs: Runs) -> dict[str, dict[str, dict[object, Series]]]:
    """{key: {objective: {value: series}}}, first the runs without a change; not for an objective that has none yet."""
    levels = objectives_of(points, runs)
    found = {}
    for key, by_objective in changes([point for point in points if objective_of(point) in levels]).items():
        found[key] = {}
        for name, values in by_objective.items():
            level = levels[name]
            line = {level_value(level, key): level}
            changed = {value: series_of(name, seeds, runs) for value, seeds in values.items()}
            found[key][name] = line | {value: series for value, series in changed.items() if series.runs}
    return found


def level_value(level: Series, key: str) -> object:
    """What `key` is in runs that do not change it: the config's value, or what the objective has where that is None."""
    value, (section, name) = level.config.get(key), key.rsplit(".", 1)
    if value is not None or section != "objective" or level.objective not in PRESETS:
        return value
    objective = PRESETS[level.objective].objective
    if name != "graph":
        return getattr(objective, name, None)
    sources = {name_of(part.source) for term in objective.terms for part in parts_of(term.graph)}
    return sources.pop() if len(sources) == 1 else None


def series_of(name: str, points: Sequence[Point], runs: Runs) -> Series:
    """The series of the points that have a run, which may be none."""
    return Series(name, tuple(runs[point.name] for point in points if point.name in runs))


def with_metrics(objectives: Mapping[str, Series], names: Iterable[str]) -> tuple[dict[str, Series], list[str]]:
    """(those whose runs all have these metrics, the names of the others: classes of their own, or other images)."""
    lacking = [name for name, one in objectives.items() if any(set(names) - run.examples.keys() for run in one.runs)]
    return {name: one for name, one in objectives.items() if name not in lacking}, lacking


def _named(name: str, value: object, series: Series) -> Series:
    return Series(f"{name}, {as_word(value)}", series.runs)


def summary_markdown(
    objectives: Mapping[str, Series], base: Series, figure: str, names: Sequence[str] = SUMMARY
) -> str:
    """One table, and the figure that `page_markdown` has drawn."""
    metrics = [describe(name) for name in names]
    table = difference_table([(one, base) for one in objectives.values()], metrics)
    reading = DIFFERENCES.format(base.name, _unit(objectives.values()))
    return f"{_image(figure, f'Differences to {base.name}')}\n\n{table}\n\n{reading}"


def page_markdown(
    points: Sequence[Point],
    runs: Runs,
    base: str,
    figures: Path,
    names: Sequence[str] = SUMMARY,
) -> str:
    """The page's generated part; draws its figures, whose names begin with the path `figures`.

    Args:
      points: of the grid; those without a run are counted.
      base: objective that the others are compared with.
      names: metrics of the figures and of the tables of changes; the table of objectives has all.

    Raises DataError: no finished run of the objective `base`.
    """
    finished = objectives_of(points, runs)
    if base not in finished:
        raise DataError("--baseline", base, f"an objective with a finished run: {', '.join(finished)}")
    objectives, others = with_metrics(finished, names)
    if base in others:
        there = finished[base].runs[0].examples
        raise DataError("--metrics", [name for name in names if name not in there], f"some of {', '.join(there)}")
    metrics = [describe(name) for name in names]
    few = len(objectives) <= MOST_COLUMNS  # the rows of many show their differences, the best first
    if not few:
        best = lambda name: -(metrics[0].direction or 1) * objectives[name].metrics[names[0]]  # noqa: E731
        objectives = {name: objectives[name] for name in sorted(objectives, key=best)}
    series, level = list(objectives.values()), objectives[base]
    every = in_order(level.runs[0].examples)
    said = [*(f"- {one}" for one in verdicts(series, level, difference_rows(series, level, every))), ""] if few else []
    lines = [
        f"{len(runs)} of {len(points)} runs of the grid are finished.{said_of_code(runs.values())}",
        *(["", f"Evaluated otherwise, and not compared here: {', '.join(others)}."] if others else []),
        "",
        "## Objectives",
        "",
        _image(forest(series, level, metrics, figures.parent, figures.name).name, f"Differences to {base}"),
        "",
        *said,
        _table_of(objectives, base, metrics, every),
    ]
    answers = responses_of(points, runs)
    for key, by_objective in answers.items():
        name = f"{figures.name}-{word_of(key, answers)}"
        table = []
        for objective, line in by_objective.items():
            first, *changed = line.items()
            table += [(_named(objective, *first), None)]
            table += [(_named(objective, *one), first[1]) for one in changed]
        lines += ["", f"## `{key}`", "", _image(response(key, by_objective, metrics, figures.parent, name).name, key)]
        lines += [
            "",
            difference_table(table, metrics),
            "",
            DIFFERENCES.format("the first row of the objective", _unit(series)),
        ]
    return "\n".join(lines)


def page_figures(points: Sequence[Point], stem: str) -> list[str]:
    """The names of the figures that `page_markdown` may draw of a grid, all of which begin with `stem`."""
    words = {word for point in points for key in point.values for word in (key, key.rpartition(".")[2])}
    return [stem, *(f"{stem}-{word}" for word in sorted(words))]


def word_of(key: str, keys: Iterable[str]) -> str:
    """The last word of a dotted key, or the whole key where another one of `keys` ends in the same word."""
    last = key.rpartition(".")[2]
    return last if [other.rpartition(".")[2] for other in keys].count(last) == 1 else key


def said_of_code(runs: Iterable[Run]) -> str:
    """A sentence about the runs that other code than today's has made; "" where there are none."""
    runs = list(runs)
    older = sum(run.outdated for run in runs)
    if not older:
        return ""
    return f" {older} of them (marked †) are of other code than today's, or of code that was not recorded."


MOST_COLUMNS = 12  # objectives that fit beside each other


def _table_of(objectives: Mapping[str, Series], base: str, metrics: Sequence[Metric], every: Sequence[Metric]) -> str:
    """All metrics with a column for each objective; of many objectives a row for each with the metrics asked for."""
    if len(objectives) <= MOST_COLUMNS:
        columns = {name: one.runs for name, one in objectives.items()}
        return results_markdown(columns, base, [metric.name for metric in every])
    table = difference_table([(one, objectives[base]) for one in objectives.values()], metrics)
    return f"{table}\n\n{DIFFERENCES.format(base, _unit(objectives.values()))}"


def _unit(series: Iterable[Series]) -> str:
    return unit_of([run for one in series for run in one.runs])


def _image(name: str, alt: str) -> str:
    return f"![{alt}]({name}.png)"
