"""Tables and pictures of a grid for a Markdown page: its objectives, and what each change of a key does to them.

    python -m xsample_jax.tools.results_page --grid=configs/ablations/results.py --runs=runs/results \
        --out=docs/notes/results.md --summary=README.md

Runs that are not finished are left out, and counted. The page has them between the lines `<!-- results -->` and
`<!-- /results -->`, the pictures beside it; --summary has one table and the picture of it.
"""

import argparse
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from xsample_jax.errors import DataError
from xsample_jax.evals.catalog import HEADLINES, Metric, describe, in_order
from xsample_jax.evals.facts import READING, TITLES
from xsample_jax.evals.metrics import Interval, Scores, bootstrap, paired_difference
from xsample_jax.graphs.targets import parts_of
from xsample_jax.objectives.presets import PRESETS
from xsample_jax.registry import name_of
from xsample_jax.reports.report import difference_rows, verdicts
from xsample_jax.reports.runs import Run, Series, load_runs, unit_of
from xsample_jax.reports.style import Picture, color, insert, picture, row, rule
from xsample_jax.sweeps.grid import Point, changes, objective_of, read_grid, unchanged
from xsample_jax.sweeps.local import FINISHED, state_of
from xsample_jax.tools.cli import run_cli

# The results of many runs as Markdown: mean over seeds, 95% interval, paired difference to a baseline.
#
#     python -m xsample_jax.tools.results_table RUN... [--out=page.md --out=another.md] [--baseline=simclr]
#
# Runs that share --by (default: the objective; else a config key such as name) are the seeds of one column. With --out
# the tables go between the lines `<!-- results -->` and `<!-- /results -->` of each file, else to the screen.


def group_runs(runs: Sequence[Run], by: str | None = None) -> dict[str, list[Run]]:
    """Returns column name -> runs, in order of first appearance; `by` is a dotted config key, None: the objective."""
    columns: dict[str, list[Run]] = {}
    for run in runs:
        columns.setdefault(run.objective if by is None else str(run.config.get(by)), []).append(run)
    return columns


def results_markdown(
    columns: Mapping[str, Sequence[Run]], baseline: str | None = None, metrics: Sequence[str] = HEADLINES
) -> str:
    """Returns the Markdown of two tables: values beside chance and baselines, and differences to the baseline column.

    Args:
      columns: name -> its seeds.
      baseline: a column; None: "simclr" where there is one, else no second table.
      metrics: rows; those that some run lacks are left out.

    Raises:
      DataError: an unknown baseline; no common metric; seeds twice; runs evaluated on different images.
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

    known = ["classes", "chance"] if any(run.facts for run in runs) else []
    levels = ["n", *known, *(name for name in TITLES if any(_baseline(run, name) for run in runs))]
    heads = [
        *(TITLES.get(name, name) for name in levels),
        *(f"{n} ({_seeds(len(seeds))})" for n, seeds in columns.items()),
    ]
    lines = [row(["", *heads]), rule(len(heads))]
    lines += [_values(metric, list(columns.values()), levels) for metric in shown]
    unit = unit_of(runs)
    several = " and seeds" if any(len(seeds) > 1 for seeds in columns.values()) else ""
    lines += [
        "",
        f"Accuracies in percent. Mean over seeds; in brackets the 95% bootstrap interval over {unit}{several}. Bold: "
        f"the best of the row, where the 95% interval of its paired difference to every other column, over {unit} and "
        f"seeds, excludes zero. {READING}{_one_seed(columns)}",
        *(f"Note: {note}" for note in dict.fromkeys(note for run in runs for note in run.notes)),
    ]
    others = {name: seeds for name, seeds in columns.items() if name != baseline}
    if baseline is not None and others:
        lines += ["", row([f"minus {baseline}", *others]), rule(len(others))]
        lines += [_differences(metric, list(others.values()), columns[baseline]) for metric in shown]
        said = f"Differences in points, paired over the same {unit}; bold: the 95% interval over {unit} and seeds "
        lines += ["", f"{said}excludes zero.{_one_seed(columns)}"]
    return "\n".join(lines)


def _values(metric: Metric, columns: Sequence[Sequence[Run]], levels: Sequence[str]) -> str:
    intervals = [bootstrap(_scores(metric, seeds)) for seeds in columns]
    best = max(range(len(columns)), key=lambda place: (metric.direction or 1) * intervals[place].mean)
    others = [seeds for place, seeds in enumerate(columns) if place != best]
    clear = others and all(paired_difference(_scores(metric, columns[best]), _scores(metric, o)).clear for o in others)
    cells = [_level(metric, [run for seeds in columns for run in seeds], name) for name in levels]
    for place, interval in enumerate(intervals):
        mean = metric.text(interval.mean)
        bold = metric.direction and clear and place == best
        cells.append(f"{_bold(mean) if bold else mean} [{metric.text(interval.low)}, {metric.text(interval.high)}]")
    arrow = {1: " ↑", -1: " ↓", 0: ""}[metric.direction]
    return row([metric.title + arrow, *cells])


def _level(metric: Metric, runs: Sequence[Run], name: str) -> str:
    """One of n, classes, chance (of the first run that says it) or a baseline (mean over runs) as a cell."""
    facts = [run.facts[metric.name] for run in runs if metric.name in run.facts]
    if name == "n":
        return f"{len(runs[0].examples[metric.name].values):,}"
    found = [one["baselines"].get(name) if name in TITLES else one.get(name) for one in facts]
    found = [value for value in found if value is not None]
    if not found:
        return "–"
    return f"{found[0]:,}" if name == "classes" else metric.text(float(np.mean(found if name in TITLES else found[:1])))


def _baseline(run: Run, name: str) -> bool:
    return any(name in facts.get("baselines", {}) for facts in run.facts.values())


def _one_seed(columns: Mapping[str, Sequence[Run]]) -> str:
    single = [name for name, seeds in columns.items() if len(seeds) == 1]
    if not single or len(columns) < 2:
        return ""
    return f" One seed of {', '.join(single)}: the spread between seeds is not known, so no difference to it is bold."


def _differences(metric: Metric, columns: Sequence[Sequence[Run]], baseline: Sequence[Run]) -> str:
    cells = []
    for seeds in columns:
        interval = paired_difference(_scores(metric, seeds), _scores(metric, baseline))
        mean, low, high = (metric.text(value, signed=True) for value in (interval.mean, interval.low, interval.high))
        cells.append(f"{_bold(mean) if interval.clear else mean} [{low}, {high}]")
    return row([metric.title, *cells])


def _scores(metric: Metric, seeds: Sequence[Run]) -> list[Scores]:
    return [run.examples[metric.name] for run in seeds]


def _seeds(count: int) -> str:
    return f"{count} seed{'s' if count > 1 else ''}"


def _bold(text: str) -> str:
    return f"**{text}**"


def main_table(arguments: Sequence[str] | None = None) -> int:
    return run_cli(run_table, arguments)


def run_table(arguments: Sequence[str]) -> int:
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
    columns = group_runs(load_runs(chosen.runs), chosen.by)
    markdown = results_markdown(columns, chosen.baseline, chosen.metrics)
    for path in chosen.out:
        insert(path, "results", markdown)
    print(markdown)
    return 0


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
        lines.append(row([series.name, str(len(series.runs)), *cells]))
    return "\n".join(lines)


def _cell(series: Series, base: Series | None, metric: Metric) -> str:
    mean = metric.text(series.metrics[metric.name])
    if base is None or base is series:
        return mean
    interval = paired_difference(series.scores(metric.name), base.scores(metric.name))
    middle, low, high = (metric.text(value, signed=True) for value in (interval.mean, interval.low, interval.high))
    return f"{mean} ({f'**{middle}**' if interval.clear else middle} [{low}, {high}])"


# Pictures of a grid: how far each objective is from a baseline, and how a changed key moves the metrics.


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

    unit = unit_of([run for one in series for run in one.runs])
    caption = f"Difference to {base.name}, paired over {unit}, with 95% intervals over {unit} and seeds."
    size = (2.5 * len(metrics), 0.9 + 0.24 * len(others))
    return picture(folder, name, f"Against {base.name}", caption, draw, fit=True, size=size)


def _interval(axes, interval: Interval, place: int, metric: Metric) -> None:
    scale = 100 if metric.percent else 1
    axes.plot([scale * interval.low, scale * interval.high], [place, place], color=color(place))
    filled = {"markerfacecolor": color(place) if interval.clear else axes.get_facecolor()}
    axes.plot(scale * interval.mean, place, "o", markersize=5, color=color(place), **filled)


def response(
    key: str, lines: Mapping[str, Mapping[object, Series]], metrics: Sequence[Metric], folder: Path, name: str
) -> Picture:
    """A panel per metric: its mean and 95% interval against the values of a key, a color per objective.

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
                axes.plot(x, [scale * one.mean for one in found], style, markersize=4, color=color(place), label=label)
                low, high = ([scale * getattr(one, end) for one in found] for end in ("low", "high"))
                axes.vlines(x, low, high, color=color(place), alpha=0.6)
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

    unit = unit_of([run for line in lines.values() for one in line.values() for run in one.runs])
    caption = f"{key}: means over seeds with 95% intervals over {unit} and seeds."
    return picture(folder, name, key, caption, draw, fit=True, size=(2.6 * len(metrics), 3.0))


def as_word(value: object) -> str:
    return "unchanged" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


SUMMARY = ("subgroup/knn", "group/probe", "few_shot/5/subgroup", "retrieval/twemoji_to_noto")


def finished(points: Sequence[Point], runs: Path) -> list[Point]:
    """The points whose runs below `runs` are finished.

    Raises DataError: none is.
    """
    done = [point for point in points if state_of(runs / point.name).status == FINISHED]
    if not done:
        raise DataError("--runs", str(runs), "at least one finished run of the grid", "Run tools.sweep --run first.")
    return done


def objectives_of(points: Sequence[Point], runs: Path) -> dict[str, Series]:
    """{objective: its finished runs without a change}."""
    return {name: _series(name, seeds, runs) for name, seeds in unchanged(points).items()}


def responses_of(points: Sequence[Point], runs: Path) -> dict[str, dict[str, dict[object, Series]]]:
    """{key: {objective: {value: series}}}, first the runs without a change; not for an objective that has none yet."""
    levels = objectives_of(points, runs)
    found = {}
    for key, by_objective in changes([point for point in points if objective_of(point) in levels]).items():
        found[key] = {}
        for name, values in by_objective.items():
            level = levels[name]
            line = {level_value(level, key): level}
            found[key][name] = line | {value: _series(name, seeds, runs) for value, seeds in values.items()}
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


def _series(name: str, points: Sequence[Point], runs: Path) -> Series:
    return Series(name, tuple(load_runs([runs / point.name for point in points])))


def _named(name: str, value: object, series: Series) -> Series:
    return Series(f"{name}, {as_word(value)}", series.runs)


def summary_markdown(
    objectives: Mapping[str, Series], base: Series, picture: str, names: Sequence[str] = SUMMARY
) -> str:
    """One table, and the picture that `page_markdown` has drawn."""
    metrics = [describe(name) for name in names]
    table = difference_table([(one, base) for one in objectives.values()], metrics)
    reading = DIFFERENCES.format(base.name, _unit(objectives.values()))
    return f"{_image(picture, f'Differences to {base.name}')}\n\n{table}\n\n{reading}"


def page_markdown(
    points: Sequence[Point],
    total: int,
    runs: Path,
    base: str,
    folder: Path,
    stem: str,
    names: Sequence[str] = SUMMARY,
) -> str:
    """The page's generated part; draws its pictures into `folder`, named by `stem`.

    Args:
      points: finished ones, of `total`.
      base: objective that the others are compared with.
      names: metrics of the pictures and of the tables of changes; the table of objectives has all.

    Raises DataError: no finished run of the objective `base`.
    """
    objectives = objectives_of(points, runs)
    if base not in objectives:
        raise DataError("--baseline", base, f"an objective with a finished run: {', '.join(objectives)}")
    series, level = list(objectives.values()), objectives[base]
    lacking = [name for name in names if any(name not in run.examples for one in series for run in one.runs)]
    if lacking:
        raise DataError("--metrics", lacking, f"some of {', '.join(level.runs[0].examples)}")
    metrics = [describe(name) for name in names]
    every = in_order(level.runs[0].examples)
    lines = [
        f"{len(points)} of {total} runs of the grid are finished.",
        "",
        "## Objectives",
        "",
        _image(forest(series, level, metrics, folder, stem).name, f"Differences to {base}"),
        "",
        *(f"- {said}" for said in verdicts(series, level, difference_rows(series, level, every))),
        "",
        results_markdown({name: one.runs for name, one in objectives.items()}, base, [metric.name for metric in every]),
    ]
    for key, by_objective in responses_of(points, runs).items():
        name = f"{stem}-{key.rpartition('.')[2]}"
        table = []
        for objective, line in by_objective.items():
            first, *changed = line.items()
            table += [(_named(objective, *first), None)]
            table += [(_named(objective, *one), first[1]) for one in changed]
        lines += ["", f"## `{key}`", "", _image(response(key, by_objective, metrics, folder, name).name, key)]
        lines += [
            "",
            difference_table(table, metrics),
            "",
            DIFFERENCES.format("the first row of the objective", _unit(series)),
        ]
    return "\n".join(lines)


def _unit(series: Iterable[Series]) -> str:
    return unit_of([run for one in series for run in one.runs])


def _image(name: str, alt: str) -> str:
    return f"![{alt}]({name}.png)"


def main_page(arguments: Sequence[str] | None = None) -> int:
    return run_cli(run_page, arguments)


def run_page(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m xsample_jax.tools.results_page", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--grid", required=True, metavar="FILE[:ARG]", help="a grid that changes one key at a time")
    parser.add_argument("--runs", required=True, type=Path, help="where tools.sweep put its runs")
    parser.add_argument("--out", required=True, type=Path, help="Markdown file; its pictures are put beside it")
    parser.add_argument("--summary", type=Path, help="another Markdown file, for one table and picture")
    parser.add_argument("--baseline", default="simclr", help="objective that the others are compared with")
    parser.add_argument("--metrics", nargs="+", default=list(SUMMARY), help="of the pictures and the tables of changes")
    chosen = parser.parse_args(arguments)
    _, points = read_grid(chosen.grid)
    changes(points)
    done = finished(points, chosen.runs)
    folder, stem = chosen.out.parent, chosen.out.stem
    folder.mkdir(parents=True, exist_ok=True)
    page = page_markdown(done, len(points), chosen.runs, chosen.baseline, folder, stem, chosen.metrics)
    insert(chosen.out, "results", page)
    if chosen.summary:
        objectives = objectives_of(done, chosen.runs)
        where = os.path.relpath(folder / stem, chosen.summary.parent)
        text = summary_markdown(objectives, objectives[chosen.baseline], where, chosen.metrics)
        insert(chosen.summary, "results", text)
    print(f"{len(done)} of {len(points)} runs: {chosen.out}")
    return 0
