"""Tables and pictures of a grid for a Markdown page: its objectives, and what each change of a key does to them.

    python -m xsample_jax.tools.results_page --grid=configs/ablations/results.py --runs=runs/results \\
        --out=docs/results.md --summary=README.md

Runs that are not finished are left out, and counted. The page has them between the lines `<!-- results -->` and
`<!-- /results -->`, the pictures beside it; --summary has one table and the picture of it.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from xsample_jax.choice import name_of
from xsample_jax.errors import DataError, UserError
from xsample_jax.evals.catalogue import describe, in_order
from xsample_jax.graphs.combine import parts_of
from xsample_jax.objectives.presets import PRESETS
from xsample_jax.sweeps.changes import changes, objective_of, unchanged
from xsample_jax.sweeps.grid import Point, read_grid
from xsample_jax.sweeps.state import FINISHED, state_of
from xsample_jax.tools.comparison import difference_rows, verdicts
from xsample_jax.tools.difference_pictures import as_word, forest, response
from xsample_jax.tools.difference_table import READING, difference_table
from xsample_jax.tools.markdown import insert
from xsample_jax.tools.results_table import results_markdown
from xsample_jax.tools.runs import load_runs
from xsample_jax.tools.series import Series

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
    return f"{_image(picture, f'Differences to {base.name}')}\n\n{table}\n\n{READING.format(base.name)}"


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
        "### Objectives",
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
        lines += ["", f"### `{key}`", "", _image(response(key, by_objective, metrics, folder, name).name, key)]
        lines += ["", difference_table(table, metrics), "", READING.format("the first row of the objective")]
    return "\n".join(lines)


def _image(name: str, alt: str) -> str:
    return f"![{alt}]({name}.png)"


def main(arguments: Sequence[str] | None = None) -> int:
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
    try:
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
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{len(done)} of {len(points)} runs: {chosen.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
