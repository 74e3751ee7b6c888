"""One self-contained HTML page about one or several runs.

    python -m xsample_jax.tools.report RUN... --out=report.html [--baseline=simclr]

Reads run folders (see `runs.py`), needs neither their data nor their models. Every figure also lies as PNG in
<out>_figures beside the page.
"""

import argparse
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2
import numpy as np
from PIL import Image

from xsample_jax.errors import UserError
from xsample_jax.evals.catalogue import describe
from xsample_jax.evals.snapshot import OTHER, SAME_GROUP, SAME_LABEL
from xsample_jax.tools import figures
from xsample_jax.tools.comparison import Row, difference_rows, evaluation_rows, headlines, verdicts
from xsample_jax.tools.figure_style import THEMES, Picture, colour, data_uri
from xsample_jax.tools.runs import Run, choose_baseline, load_runs

# Metrics drawn against steps where a run is evaluated more than once.
_FOLLOWED = ("subgroup/knn", "group/probe", "retrieval/twemoji_to_noto", "label/knn", "label/probe")
_RELATION = {SAME_LABEL: "same", SAME_GROUP: "kin", OTHER: "other"}


def write_report(folders: Sequence[str | Path], out: str | Path, baseline: str | None = None) -> Path:
    """Writes the page and its PNGs and returns the path of the page.

    Args:
      folders: run folders, in the order of the columns.
      out: the HTML file.
      baseline: name or preset of the run the others are compared with; None: SimCLR, else the first.
    """
    runs = load_runs(folders)
    out = Path(out)
    folder = out.with_name(out.stem + "_figures")
    folder.mkdir(parents=True, exist_ok=True)
    base = choose_baseline(runs, baseline)
    others = [run for run in runs if run is not base]

    evaluation = evaluation_rows(runs)
    short = headlines(evaluation)
    differences = difference_rows(runs, base, [row.metric for row in (short or evaluation)])
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("xsample_jax.tools", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("report.html").render(
        themes={theme.name: theme for theme in THEMES},
        runs=[_card(run, place) for place, run in enumerate(runs)],
        baseline=base.name,
        others=[{"name": run.name, "colour": colour(runs.index(run))} for run in others],
        verdicts=verdicts(runs, base, differences),
        headline=short,
        sections=_sections(evaluation),
        differences=differences,
        bars=_bars(differences),
        curves=figures.learning_curves(runs, folder),
        evaluation_curves=figures.evaluation_curves(runs, [describe(name) for name in _FOLLOWED], folder),
        graphs=[
            {"name": run.name, "colour": colour(place), "panels": figures.graph_panels(run, place, folder)}
            for place, run in enumerate(runs)
            if run.snapshot is not None
        ],
        temperatures=_temperatures(runs, folder),
        neighbours=_neighbours(runs, folder),
        config_difference=_config_difference(runs),
    )
    out.write_text(page, encoding="utf-8")
    return out


def _card(run: Run, place: int) -> dict:
    """Facts of one run for the header; what a config does not say is left out."""
    get = run.config.get
    last = run.training[-1] if run.training else {}
    seconds = run.curve("images_per_second")[1]
    facts = {
        "Encoder": get("model.encoder"),
        "Batch": f"{get('batch_size')} × {get('views')}" if get("batch_size") else None,
        "Steps": f"{int(last['step']):,}" if last else None,
        "Base rate": get("optimizer.learning_rate"),
        "Seed": get("seed"),
        "Last loss": f"{last['loss']:.3f}" if last else None,
        "Last KL": f"{last['kl']:.3f}" if "kl" in last else None,
        "Images/s": f"{np.median(seconds):,.0f}" if len(seconds) else None,
    }
    return {
        "name": run.name,
        "colour": colour(place),
        "objective": run.objective,
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


def _temperatures(runs: Sequence[Run], folder: Path) -> list[Picture]:
    """Of the run whose target has a temperature, if the snapshots have caption cosines."""
    able = [run for run in runs if run.snapshot is not None and "similarity" in run.snapshot]
    able.sort(key=lambda run: not run.config.get("objective.target_temperature"))
    return figures.temperature_panels(able[0], folder) if able else []


def _neighbours(runs: Sequence[Run], folder: Path) -> list[dict]:
    """Queries with the neighbours that each run finds; runs with the same query stand together."""
    queries: dict[tuple, dict] = {}
    for place, run in enumerate(runs):
        if run.snapshot is None or "query" not in run.snapshot:
            continue
        shot = run.snapshot
        _sheet(shot).save(folder / f"neighbours_{place}.png", optimize=True)
        for query, found, cosine, relation in zip(
            shot["query"], shot["neighbour"], shot["cosine"], shot["relation"], strict=True
        ):
            key = (int(shot["gallery_rows"][query]), str(shot["gallery_captions"][query]))
            entry = queries.setdefault(
                key, {"image": _png(shot["gallery_images"][query]), "caption": key[1], "runs": []}
            )
            entry["runs"].append(
                {
                    "name": run.name,
                    "colour": colour(place),
                    "hits": [
                        {
                            "image": _png(shot["gallery_images"][row]),
                            "caption": str(shot["gallery_captions"][row]),
                            "cosine": f"{similarity:.2f}",
                            "relation": _RELATION[int(kind)],
                        }
                        for row, similarity, kind in zip(found, cosine, relation, strict=True)
                    ],
                }
            )
    return list(queries.values())


def _png(image: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="png", optimize=True)
    return data_uri(buffer.getvalue())


def _sheet(shot: Mapping[str, np.ndarray], gap: int = 4) -> Image.Image:
    """One picture of all queries (left, apart) and their neighbours."""
    pictures = shot["gallery_images"]
    high, wide = pictures.shape[1] + gap, pictures.shape[2] + gap
    rows, columns = shot["neighbour"].shape
    sheet = np.full((rows * high + gap, (columns + 1) * wide + 4 * gap, 3), 255, np.uint8)
    for line, (query, found) in enumerate(zip(shot["query"], shot["neighbour"], strict=True)):
        for place, row in enumerate([query, *found]):
            x = gap + place * wide + (3 * gap if place else 0)
            sheet[gap + line * high :][: high - gap, x : x + wide - gap] = pictures[row]
    return Image.fromarray(sheet)


def _config_difference(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Config keys that are not the same in all runs."""
    keys = dict.fromkeys(key for run in runs for key in run.config)
    rows = [(key, [_show(run.config.get(key)) for run in runs]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _show(value) -> str:
    return "–" if value is None else str(tuple(value)) if isinstance(value, list) else str(value)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m xsample_jax.tools.report", description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", help="run folders, in the order of the columns")
    parser.add_argument("--out", default="report.html", help="HTML file to write (default: %(default)s)")
    parser.add_argument("--baseline", help="run or preset that the others are compared with (default: SimCLR)")
    chosen = parser.parse_args(arguments)
    try:
        print(write_report(chosen.runs, chosen.out, chosen.baseline))
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
