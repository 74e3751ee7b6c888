"""The results of many runs as Markdown: mean over seeds, 95% interval, paired difference to a baseline."""

from collections.abc import Mapping, Sequence

import numpy as np

from xsample_jax.errors import DataError
from xsample_jax.evals.catalog import HEADLINES, READING, TITLES, Metric, describe
from xsample_jax.evals.metrics import Scores, bootstrap, paired_difference
from xsample_jax.reports.runs import Run, unit_of
from xsample_jax.reports.style import row, rule


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
