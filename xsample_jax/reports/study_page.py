"""The page of a study: its objectives side by side in several settings, such as sizes of the data, and single changes.

A setting is a choice of the keys that all points of the grid give a value, but the seed. Objectives are compared within
the settings in which several of them are; every other point is a change against the setting that is nearest to it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from xsample_jax.errors import DataError
from xsample_jax.evals.catalog import Metric, describe, in_order
from xsample_jax.evals.metrics import Interval, paired_difference
from xsample_jax.reports.report import difference_rows, verdicts
from xsample_jax.reports.results_page import (
    DIFFERENCES,
    Runs,
    as_word,
    difference_table,
    forest,
    response,
    said_of_code,
    series_of,
)
from xsample_jax.reports.results_table import results_markdown
from xsample_jax.reports.runs import Series, unit_of
from xsample_jax.reports.style import row, rule
from xsample_jax.sweeps.grid import Point, objective_of

SEED, SIZE = "seed", "data.fraction"
Setting = tuple[tuple[str, object], ...]  # (key, value) of the keys that all points share


def shared_keys(points: Sequence[Point]) -> list[str]:
    """The keys that every point gives a value, but the seed, in their order."""
    keys = set.intersection(*(set(point.values) for point in points)) - {SEED}
    return [key for key in points[0].values if key in keys]


def setting_of(point: Point, keys: Sequence[str]) -> Setting:
    return tuple((key, point.values[key]) for key in keys)


def main_settings(points: Sequence[Point]) -> list[Setting]:
    """The settings in which several objectives are without a change; () for a grid whose points share no key."""
    keys = shared_keys(points)
    if not keys:
        return []
    objectives: dict[Setting, set[str]] = {}
    for point in points:
        if not set(point.values) - {SEED, *keys}:
            objectives.setdefault(setting_of(point, keys), set()).add(objective_of(point))
    return [setting for setting, found in objectives.items() if len(found) > 1]


def levels_of(points: Sequence[Point], runs: Runs) -> dict[Setting, dict[str, Series]]:
    """{main setting: {objective: its runs there}}, only what has a run."""
    keys, found = shared_keys(points), {}
    for setting in main_settings(points):
        by_objective: dict[str, list[Point]] = {}
        for point in points:
            if setting_of(point, keys) == setting and not set(point.values) - {SEED, *keys}:
                by_objective.setdefault(objective_of(point), []).append(point)
        series = {name: series_of(name, seeds, runs) for name, seeds in by_objective.items()}
        found[setting] = {name: one for name, one in series.items() if one.runs}
    return {setting: series for setting, series in found.items() if series}


def changes_of(points: Sequence[Point], runs: Runs) -> list[tuple[Series, Series]]:
    """(series with a change, the level that it is compared with) of all changes that have runs on both sides.

    The level is of the same objective and of as many images, in the main setting that differs in the fewest keys; a
    change without one is left out. A series is named by its objective and all that differs.
    """
    keys, levels = shared_keys(points), levels_of(points, runs)
    changed: dict[tuple, list[Point]] = {}
    for point in points:
        words = tuple((key, value) for key, value in point.values.items() if key != SEED)
        if setting_of(point, keys) not in main_settings(points) or set(point.values) - {SEED, *keys}:
            changed.setdefault((objective_of(point), words), []).append(point)
    found = []
    for (objective, words), seeds in changed.items():
        own = series_of(objective, seeds, runs)
        if not own.runs:
            continue
        there = [setting for setting in levels if objective in levels[setting]]
        there = [setting for setting in there if as_long(own, levels[setting][objective])]
        if there:
            level = min(there, key=lambda setting: len(set(setting) - set(words)))
            name = ", ".join(
                f"{key.rpartition('.')[2]} {as_word(value)}" for key, value in words if (key, value) not in level
            )
            found.append((Series(f"{objective}, {name}", own.runs), levels[level][objective]))
    return found


def as_long(one: Series, other: Series) -> bool:
    """Whether both have seen as many images, as far as whole steps allow: to half a batch of the larger ones."""
    (steps, batch), (others, other_batch) = (
        [series.config.get(key) for key in ("steps", "batch_size")] for series in (one, other)
    )
    if None in (steps, others):  # counted in epochs
        return one.config.get("epochs") == other.config.get("epochs")
    return abs(steps * batch - others * other_batch) <= max(batch, other_batch) / 2


def study_markdown(points: Sequence[Point], runs: Runs, base: str, figures: Path, names: Sequence[str]) -> str:
    """The page's generated part; draws its figures, whose names begin with the path `figures`.

    Args:
      points: of the grid; those without a run are counted.
      base: objective that the others are compared with.
      names: the headline metrics, of tables and figures; conclusions about all others are only counted.

    Raises DataError: no setting has a run of the objective `base`.
    """
    metrics = [describe(name) for name in names]
    levels = levels_of(points, runs)
    if not any(base in series for series in levels.values()):
        there = dict.fromkeys(name for series in levels.values() for name in series)
        raise DataError("--baseline", base, f"an objective with a finished run: {', '.join(there) or 'none yet'}")
    lines = [f"{len(runs)} of {len(points)} runs of the grid are finished.{said_of_code(runs.values())}"]
    lines += ["", *conclusions(levels, base, metrics)]
    for number, (setting, series) in enumerate(levels.items()):
        lines += ["", f"## {title_of(setting)}"]
        if base not in series:
            lines += ["", f"No run of {base} yet, which the others are compared with."]
            continue
        name = f"{figures.name}-{number + 1}"
        lines += compared(list(series.values()), series[base], metrics, figures.parent, name)
    lines += sizes(levels, metrics, figures)
    changed = changes_of(points, runs)
    if changed:
        lines += ["", "## One key at a time", "", difference_table(changed, metrics), ""]
        unit = unit_of([run for one, _ in changed for run in one.runs])
        lines += [DIFFERENCES.format("the same objective without the change", unit)]
    return "\n".join(lines)


def study_figures(points: Sequence[Point], stem: str) -> list[str]:
    """The names of the figures that `study_markdown` may draw of a grid, all of which begin with `stem`."""
    numbers = range(1, 1 + len(main_settings(points)))
    return [f"{stem}-{part}{number}" for part in ("", "sizes-") for number in numbers]


def conclusions(levels: Mapping[Setting, Mapping[str, Series]], base: str, metrics: Sequence) -> list[str]:
    """A sentence for each setting and each other objective: on which headlines `base` is ahead of it, or behind."""
    said, asked = [], 0
    for setting, series in levels.items():
        ours = series.get(base)
        for other in series.values():
            if ours is None or other is ours:
                continue
            where = f"{title_of(setting)}: {ours.name} against {other.name}"
            if min(len(ours.runs), len(other.runs)) == 1:
                said.append(f"- {where}: one seed on a side, so nothing is concluded.")
                continue
            found = [
                (metric, paired_difference(ours.scores(metric.name), other.scores(metric.name))) for metric in metrics
            ]
            asked += len(found)
            ahead = [_told(*one) for one in found if one[1].clear and one[0].direction * one[1].mean > 0]
            behind = [_told(*one) for one in found if one[1].clear and one[0].direction * one[1].mean < 0]
            words = [f"{word} on {'; '.join(some)}" for word, some in (("ahead", ahead), ("behind", behind)) if some]
            words.append(f"not separated on {len(found) - len(ahead) - len(behind)} of {len(found)} headline metrics")
            said.append(f"- {where}: {', '.join(words)}.")
    if not said:
        return []
    chance = f" (of {asked} intervals, about {0.05 * asked:.1f} exclude zero by chance)" if asked else ""
    return [f"What the intervals say{chance}:", "", *said]


def _told(metric: Metric, found: Interval) -> str:
    """ "Subgroup, kNN (+2.1 [0.3, 4.0])"."""
    mean, low, high = (metric.text(value, signed=True) for value in (found.mean, found.low, found.high))
    return f"{metric.title} ({mean} [{low}, {high}])"


def compared(series: list[Series], base: Series, metrics: list, folder: Path, name: str) -> list[str]:
    """The lines of one setting: figure, tables of the headlines, counts over all metrics, what the training came to."""
    lines = []
    if len(series) > 1:
        lines += ["", f"![Differences to {base.name}]({forest(series, base, metrics, folder, name).name}.png)"]
    columns = {one.name + " †" * one.outdated: one.runs for one in series}
    named = base.name + " †" * base.outdated
    lines += ["", results_markdown(columns, named, [metric.name for metric in metrics])]
    every = in_order(base.runs[0].examples)
    said = verdicts(series, base, difference_rows(series, base, every))
    return [*lines, "", *(f"- {one}" for one in said), "", trained_table(series)]


def trained_table(series: Sequence[Series]) -> str:
    """What the training came to: passes over the images, last loss and KL, mean over seeds, without an interval."""
    names = ("loss", "kl", "target_entropy")
    lines = [row(["last logged step", "seeds", *names]), rule(1 + len(names))]
    for one in series:
        last = [run.training[-1] for run in one.runs if run.training]
        found = [[line[name] for line in last if name in line] for name in names]
        lines.append(row([one.name, str(len(last)), *(f"{sum(v) / len(v):.2f}" if v else "–" for v in found)]))
    return "\n".join(lines)


def title_of(setting: Setting) -> str:
    """ "3.6% of the images, 300 steps of 256"; other keys by name."""
    values = dict(setting)
    parts = [f"{100 * values.pop(SIZE):.3g}% of the images"] if SIZE in values else []
    if {"steps", "batch_size"} <= values.keys():
        parts.append(f"{values.pop('steps'):,} steps of {values.pop('batch_size'):,}")
    return ", ".join([*parts, *(f"{key} {as_word(value)}" for key, value in values.items())])


def sizes(levels: Mapping[Setting, Mapping[str, Series]], metrics: Sequence, figures: Path) -> list[str]:
    """A figure of the headlines against the share of the images, for settings that differ in nothing else."""
    lines: dict[Setting, dict[str, dict[object, Series]]] = {}
    for setting, series in levels.items():
        rest = tuple(pair for pair in setting if pair[0] != SIZE)
        for name, one in series.items():
            lines.setdefault(rest, {}).setdefault(name, {})[dict(setting).get(SIZE)] = one
    text = []
    for number, by_objective in enumerate(lines.values()):
        if max(map(len, by_objective.values())) > 1:
            name = f"{figures.name}-sizes-{number + 1}"
            drawn = response(SIZE, by_objective, metrics, figures.parent, name)
            text += ["", "## Share of the images", "", f"![Over the share of the images]({drawn.name}.png)"]
    return text
