"""One self-contained HTML page about one or several runs; runs that differ in their seed only are one series.

    python -m xsample_jax.tools.report RUN... --out=report.html [--baseline=simclr]

Reads run folders (see `runs.py`), needs neither their data nor their models. Every figure also lies as PNG in
<out>_figures beside the page.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from xsample_jax.errors import UserError
from xsample_jax.evals.catalogue import describe
from xsample_jax.storage.paths import as_path, local_copy_of
from xsample_jax.tools.comparison import Row, difference_rows, evaluation_rows, headlines, verdicts
from xsample_jax.tools.curves import evaluation_curves, learning_curves
from xsample_jax.tools.embedding_maps import map_pictures
from xsample_jax.tools.factor_picture import factor_pictures
from xsample_jax.tools.figure_style import Picture, colour
from xsample_jax.tools.galleries import error_galleries, neighbour_gallery
from xsample_jax.tools.graph_pictures import graph_panels, target_temperature, temperature_panels
from xsample_jax.tools.page import figures_folder, write_page
from xsample_jax.tools.runs import load_runs
from xsample_jax.tools.series import Series, choose_baseline, config_difference, group_seeds

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
        factors=factor_pictures(series, folder),
        differences=differences,
        bars=_bars(differences),
        curves=learning_curves(series, folder),
        evaluation_curves=evaluation_curves(series, [describe(name) for name in _FOLLOWED], folder),
        first_seed=" Of a series, its first seed." if runs > len(series) else "",
        graphs=_panels(series, graph_panels, folder),
        temperatures=_temperatures(series, folder),
        maps=_panels(series, map_pictures, folder),
        neighbours=neighbour_gallery(series, folder),
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
        "colour": colour(place),
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
    return [{"name": one.name, "colour": colour(place), "panels": panels} for one, place, panels in drawn if panels]


def _temperatures(series: Sequence[Series], folder: Path) -> list[Picture]:
    """Of the series whose target has a temperature, if the snapshots have caption cosines."""
    able = [one for one in series if one.snapshot is not None and "similarity" in one.snapshot]
    able.sort(key=lambda one: target_temperature(one) is None)
    return temperature_panels(able[0], folder) if able else []


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m xsample_jax.tools.report", description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", help="run folders, in the order of the columns")
    parser.add_argument("--out", default="report.html", help="HTML file to write (default: %(default)s)")
    parser.add_argument("--baseline", help="series or preset that the others are compared with (default: SimCLR)")
    chosen = parser.parse_args(arguments)
    try:
        print(write_report(chosen.runs, chosen.out, chosen.baseline))
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
