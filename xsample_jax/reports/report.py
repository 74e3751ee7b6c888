"""One self-contained HTML page about one or several runs; runs that differ in their seed only are one series.

Reads run folders (see `runs.py`), needs neither their data nor their models. Every figure is also written as PNG to
<out>_figures beside the page.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from xsample_jax.errors import DataError
from xsample_jax.evals.catalog import HEADLINES, READING, TITLES, Metric, describe, in_order
from xsample_jax.evals.metrics import Interval, bootstrap, paired_difference
from xsample_jax.io.paths import as_path, local_copy_of
from xsample_jax.reports.figures import (
    error_galleries,
    evaluation_curves,
    factor_panels,
    graph_panels,
    learning_curves,
    map_panels,
    neighbor_gallery,
    target_temperature,
    temperature_panels,
)
from xsample_jax.reports.runs import (
    Run,
    Series,
    choose_baseline,
    config_difference,
    group_seeds,
    have_several,
    load_runs,
    unit_of,
)
from xsample_jax.reports.style import Panel, color, figures_folder, write_page

# Evaluation tables of the report: every series' metrics with intervals, and differences to a baseline.


@dataclasses.dataclass(frozen=True)
class Cell:
    """One number of a table as text.

    Attributes:
      text, low, high: empty where there is nothing; low and high also without an interval.
      best: of the values of a row: the best mean, and its paired differences to all others are clear.
      ahead: the best mean, but not separated from all others.
      clear: of the differences: the interval over seeds and examples excludes zero (Interval.clear).
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
    """levels: what the values are to be compared with, in words: counts, chance, baselines."""

    metric: Metric
    cells: Sequence[Cell]
    levels: str = ""


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
        rows.append(Row(metric, cells, levels_of(metric, [run for one in series for run in one.runs])))
    return rows


def levels_of(metric: Metric, runs: Sequence[Run]) -> str:
    """ "n = 120, 4 classes; chance 25.0, untrained encoder 31.2, pixels 28.4", as far as the runs say it.

    Counts and chance are those of the first run that says them; baselines are means over runs.
    """
    facts = [run.facts[metric.name] for run in runs if metric.name in run.facts]
    counts = [len(run.examples[metric.name].values) for run in runs if metric.name in run.examples]
    first = facts[0] if facts else {"n": counts[0] if counts else None, "classes": None, "chance": None}
    size = [f"n = {first['n']:,}"] if first.get("n") else []
    size += [f"{first['classes']:,} classes"] if first.get("classes") else []
    levels = [f"chance {metric.text(first['chance'])}"] if first.get("chance") is not None else []
    for name, title in TITLES.items():
        found = [value for one in facts if (value := one.get("baselines", {}).get(name)) is not None]
        levels += [f"{title} {metric.text(float(np.mean(found)))}"] if found else []
    return "; ".join(filter(None, (", ".join(size), ", ".join(levels))))


def one_seed(series: Sequence[Series]) -> str:
    """A sentence about series with a single seed, of which nothing is bold; empty where there are none."""
    single = [one.name for one in series if len(one.runs) == 1]
    if not single or len(series) < 2:
        return ""
    who = "every series" if len(single) == len(series) else ", ".join(single)
    return f"One seed of {who}: the spread between seeds is not known, so no difference to it is bold or called clear."


def _separated(metric: Metric, one: Series, other: Series) -> bool:
    """Whether the paired difference is clear (Interval.clear); without examples nothing is separated."""
    difference = _paired(metric, one, other)
    return difference is not None and difference.clear


def _paired(metric: Metric, one: Series, other: Series) -> Interval | None:
    ours, theirs = one.scores(metric.name), other.scores(metric.name)
    if not ours or not theirs:
        return None
    try:
        return paired_difference(ours, theirs)
    except DataError:
        return None  # Evaluated on other images: nothing can be said.


def difference_rows(series: Sequence[Series], baseline: Series, metrics: Sequence[Metric]) -> list[Row]:
    """One row per metric, one cell per series but the baseline: series minus baseline, paired over examples."""
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
    return Cell(text, low, high, clear=interval.clear, interval=interval)


def headlines(rows: Sequence[Row]) -> list[Row]:
    """Returns the rows a summary shows, in the order of the catalog."""
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
        if min(len(one.runs), len(baseline.runs)) == 1:
            sentences.append(
                f"{one.name} against {baseline.name}: one seed, so none of {len(cells)} metrics is separated."
            )
            continue
        other = f"different on {neither} that {'have' if neither > 1 else 'has'} no better side, " if neither else ""
        sentences.append(
            f"{one.name} against {baseline.name}: better on {better} of {len(cells)} metrics, worse on {worse}, "
            f"{other}not separated on {unclear}."
        )
    return sentences


# Metrics drawn against steps where a run is evaluated more than once.
_FOLLOWED = ("subgroup/knn", "group/probe", "retrieval/twemoji_to_noto", "label/knn", "label/probe")


def write_report(folders: Sequence[str | Path], out: str | Path, baseline: str | None = None) -> Path:
    """Writes the page and its PNGs and returns the path of the page.

    Args:
      folders: run folders, in the order of the columns.
      out: the HTML file.
      baseline: name or preset of the series the others are compared with; None: SimCLR, else the first.
    """
    runs = load_runs(folders)
    series = group_seeds(runs)
    with local_copy_of(out) as local:
        _write(series, len(runs), local, baseline)
    return as_path(out)


def _write(series: Sequence[Series], runs: int, out: Path, baseline: str | None) -> None:
    folder = figures_folder(out)
    base = choose_baseline(series, baseline)
    evaluation = evaluation_rows(series)
    short = headlines(evaluation)
    differences = difference_rows(series, base, [row.metric for row in (short or evaluation)])
    cards = [_card(one, place) for place, one in enumerate(series)]
    every, neighbors = [run for one in series for run in one.runs], neighbor_gallery(series, folder)
    write_page(
        "report.html",
        out,
        runs=runs,
        series=cards,
        baseline=base.name,
        others=[card for one, card in zip(series, cards, strict=True) if one is not base],
        verdicts=verdicts(series, base, differences),
        headline=short,
        sections=_sections(evaluation),
        factors=factor_panels(series, folder),
        differences=differences,
        bars=_bars(differences),
        curves=learning_curves(series, folder),
        evaluation_curves=evaluation_curves(series, [describe(name) for name in _FOLLOWED], folder),
        first_seed=" Of a series, its first seed." if runs > len(series) else "",
        graphs=_panels(series, graph_panels, folder),
        temperatures=_temperatures(series, folder),
        maps=_maps(series, folder),
        neighbors=neighbors,
        relations={hit["relation"] for query in neighbors for one in query["series"] for hit in one["hits"]},
        unit=unit_of(every),
        sorted_by="group" if any(have_several(one) for run in every for one in run.examples.values()) else "class",
        one_seed=one_seed(series),
        reading=READING if any(run.facts for run in every) else "",
        notes=list(dict.fromkeys(note for run in every for note in run.notes)),
        errors=error_galleries(series),
        config_difference=config_difference(series),
    )


def _card(one: Series, place: int) -> dict:
    """Facts of one series for the header; what a config does not say is left out."""
    get = one.config.get
    speed = np.concatenate([run.curve("images_per_second")[1] for run in one.runs])
    last = lambda name: [run.training[-1][name] for run in one.runs if run.training and name in run.training[-1]]  # noqa: E731
    mean = lambda name: f"{np.mean(last(name)):.3f}" if last(name) else None  # noqa: E731
    seeds = [str(seed) for seed in one.seeds if seed is not None]
    facts = {
        "Encoder": get("model.encoder"),
        "Batch": f"{get('batch_size')} × {get('views')}" if get("batch_size") else None,
        "Steps": f"{int(min(last('step'))):,}" if last("step") else None,
        "Base rate": get("optimizer.learning_rate"),
        "Seeds" if len(seeds) > 1 else "Seed": ", ".join(seeds) or None,
        "Last loss": mean("loss"),
        "Last KL": mean("kl"),
        "Images/s": f"{np.median(speed):,.0f}" if len(speed) else None,
    }
    return {
        "name": one.name,
        "color": color(place),
        "objective": one.objective,
        "facts": {name: value for name, value in facts.items() if value is not None},
    }


def _sections(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    sections: dict[str, list[Row]] = {}
    for row in rows:
        sections.setdefault(row.metric.section, []).append(row)
    return list(sections.items())


def _bars(rows: Sequence[Row]) -> dict[str, dict[int, Mapping[str, float]]]:
    """Places of the interval bars, in 0..100 with zero at 50 and one scale for all rows."""
    scale = lambda row: 100 if row.metric.percent or row.metric.name.startswith("spearman") else 1  # noqa: E731
    ends = [
        scale(row) * abs(end)
        for row in rows
        for c in row.cells
        if c.interval
        for end in (c.interval.low, c.interval.high)
    ]
    reach = 1.05 * max(ends, default=1.0) or 1.0
    at = lambda row, value: round(50 + 50 * scale(row) * value / reach, 2)  # noqa: E731
    return {
        row.metric.name: {
            place: {
                "low": at(row, cell.interval.low),
                "mean": at(row, cell.interval.mean),
                "high": at(row, cell.interval.high),
            }
            for place, cell in enumerate(row.cells)
            if cell.interval
        }
        for row in rows
    }


def _panels(series: Sequence[Series], draw, folder: Path) -> list[dict]:
    """What `draw(series, place, folder)` gives for each series that has something to draw."""
    drawn = [(one, place, draw(one, place, folder)) for place, one in enumerate(series)]
    return [{"name": one.name, "color": color(place), "panels": panels} for one, place, panels in drawn if panels]


def _maps(series: Sequence[Series], folder: Path) -> dict[str, list[dict]]:
    """Title -> the maps of all series in one coloring, side by side."""
    found: dict[str, list[dict]] = {}
    for place, one in enumerate(series):
        for drawn in map_panels(one, place, folder):
            found.setdefault(drawn.title, []).append({"name": one.name, "color": color(place), "panel": drawn})
    return found


def _temperatures(series: Sequence[Series], folder: Path) -> list[Panel]:
    """Of the series whose target has a temperature, if the snapshots have caption cosines."""
    able = [one for one in series if one.snapshot is not None and "similarity" in one.snapshot]
    able.sort(key=lambda one: target_temperature(one) is None)
    return temperature_panels(able[0], folder) if able else []
