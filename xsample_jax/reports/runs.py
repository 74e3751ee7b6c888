"""Reading finished or running run folders: config.json, metrics.jsonl, evaluation.npz, report_data.npz."""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from xsample_jax.config.renamed import rename, rename_metrics, warn_renamed
from xsample_jax.config.saved import OF_THE_MACHINE
from xsample_jax.errors import LARGEST_FLOAT32, DataError
from xsample_jax.evals.catalog import load_facts
from xsample_jax.evals.metrics import Scores, are_few, load_examples
from xsample_jax.evals.snapshot import load_snapshot
from xsample_jax.io.files import CONFIG, EXAMPLES, FACTS, JSONL, SNAPSHOT
from xsample_jax.io.paths import as_path
from xsample_jax.metrics.jsonl import read_jsonl
from xsample_jax.sweeps.grid import Point
from xsample_jax.sweeps.kept import is_outdated, read_results

_EVAL = "eval/"


@dataclasses.dataclass(frozen=True)
class Run:
    """One run folder.

    Attributes:
      name: the config's; seeds of one config share it.
      config: dotted key -> value.
      training: metrics lines of training steps; evaluations: (step, metrics without the prefix "eval/").
      examples: metric -> per-example scores; {} where the run has none.
      snapshot: arrays of report_data.npz, or None.
      facts: metric -> counts, chance and baselines (evals/facts.py); {} for runs that are older.
      notes: of the last evaluation.
      outdated: other code than today's, or unknown code, has made it; known of results that stay only.
    """

    name: str
    folder: Path
    config: Mapping[str, object]
    training: Sequence[Mapping[str, float]]
    evaluations: Sequence[tuple[int, Mapping[str, float]]]
    examples: Mapping[str, Scores]
    snapshot: Mapping[str, np.ndarray] | None
    facts: Mapping[str, Mapping] = dataclasses.field(default_factory=dict)
    notes: Sequence[str] = ()
    outdated: bool = False

    @property
    def metrics(self) -> Mapping[str, float]:
        """Metrics of the last evaluation."""
        return self.evaluations[-1][1] if self.evaluations else {}

    @property
    def objective(self) -> str:
        """The objective in words: the preset and, where the config changes it, the graph."""
        graph = self.config.get("objective.graph")
        return f"{self.config.get('objective.preset', self.name)}{f' ({graph} graph)' if graph else ''}"

    def curve(self, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns (steps, values) of a training metric; empty where it was not logged."""
        points = [(line["step"], line[metric]) for line in self.training if metric in line]
        steps, values = np.array(points, float).reshape(-1, 2).T
        return steps, values


def load_runs(folders: Sequence[str | Path]) -> list[Run]:
    """Loads run folders."""
    if not folders:
        raise DataError("run folders", "none", "at least one", "Name the folders that --workdir wrote.")
    return [_load(as_path(folder)) for folder in folders]


def runs_of_results(results: Path, grid: str, points: Sequence[Point]) -> dict[str, Run]:
    """{name of a point: its run} as results that stay tell it (sweeps/kept.py); points without one are left out."""
    return {name: _of_result(name, found) for name, found in read_results(results, grid, points).items()}


def _of_result(name: str, found: Mapping) -> Run:
    metrics = {metric: about["value"] for metric, about in found["metrics"].items()}
    return Run(
        name=name,
        folder=Path(name),
        config=flatten(found["config"]),
        training=[*found["curve"][:-1], found["training"]],
        evaluations=[(found["training"].get("step", 0), metrics)],
        examples=found["scores"],
        snapshot=None,
        facts={metric: about for metric, about in found["metrics"].items() if "title" in about},
        notes=found["notes"],
        outdated=is_outdated(found),
    )


def unit_of(runs: Sequence[Run]) -> str:
    """What the bootstrap of these runs resamples, in a word: concepts where enough have several images, else images."""
    scores = [scores for run in runs for scores in run.examples.values()]
    return "concepts" if any(have_several(one) and not are_few(one.concepts) for one in scores) else "images"


def have_several(scores: Scores) -> bool:
    """Whether a concept has several of these images."""
    return len(np.unique(scores.concepts)) < len(scores.values)


def _load(folder: Path) -> Run:
    for name in (CONFIG, JSONL):
        if not (folder / name).exists():
            raise DataError(
                "run folder", str(folder), f"a folder with {name}", "Is it the --workdir of a training run?"
            )
    config = read_config(folder / CONFIG)
    lines = [{name: _drawable(value) for name, value in line.items()} for line in read_jsonl(folder / JSONL)]
    facts, notes = load_facts(folder / FACTS)
    examples = load_examples(folder / EXAMPLES) if (folder / EXAMPLES).exists() else {}
    evaluations, old = [], {}
    for line in lines:
        metrics = {name.removeprefix(_EVAL): value for name, value in line.items() if name.startswith(_EVAL)}
        if metrics:
            evaluations.append((line["step"], rename_metrics(metrics, old)))
    examples, facts = rename_metrics(examples, old), rename_metrics(facts, old)
    warn_renamed(old)
    return Run(
        name=str(config.get("name", folder.name)),
        folder=folder,
        config=flatten(config),
        training=[line for line in lines if "loss" in line],
        evaluations=evaluations,
        examples=examples,
        snapshot=read_snapshot(folder / SNAPSHOT) if (folder / SNAPSHOT).exists() else None,
        facts=facts,
        notes=notes,
    )


def _drawable(value: float) -> float:
    """A number as it is; nan beyond float32, in which no axis can be drawn."""
    return value if abs(value) <= LARGEST_FLOAT32 else np.nan


def read_config(path: Path) -> dict:
    """The config of a run as plain values by their present names; DataError for a damaged file."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("no JSON object")
        rename(config)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        fix = "Restore it; checkpoints/STEP/meta/metadata has a copy."
        raise DataError("config of a run", str(path), f"the config as JSON ({str(error)[:100]})", fix) from error
    return config


# The arrays of report_data.npz, part by part: of each part all are there, or none. A letter is a size that is the same
# wherever it stands, a digit is a size, * is any.
PARTS = (
    {"images": "n***", "captions": "n", "groups": "n", "target": "nn", "student": "nn"},
    {"similarity": "nn", "views": ""},
    {"query": "q", "neighbor": "qk", "cosine": "qk", "relation": "qk"}
    | {"gallery_images": "g***", "gallery_captions": "g", "gallery_rows": "g"},
    {"diverse/neighbor": "qd", "diverse/cosine": "qd", "diverse/relation": "qd"},
    {"errors/images": "er***", "errors/captions": "er", "errors/truth": "e", "errors/predicted": "e"}
    | {"errors/share": "e", "errors/truth_share": "e", "errors/target": ""},
)
TEXTS = re.compile(r"(gallery_|errors/)?captions|groups|errors/(truth|predicted|target)|map/words/.*")
PLACES = {"query": "g", "neighbor": "g", "diverse/neighbor": "g", "relation": "3", "diverse/relation": "3"}


def read_snapshot(path: Path) -> dict[str, np.ndarray]:
    """The arrays of report_data.npz; DataError where they do not go together."""
    snapshot = load_snapshot(path)
    if wrong := _misfit(snapshot):
        fix = "Move it away: the report then lacks its images."
        raise DataError("images of the report", str(path), f"arrays that go together ({wrong})", fix)
    return snapshot


def _misfit(found: Mapping[str, np.ndarray]) -> str:
    """What is wrong with the arrays of report_data.npz, or ""."""
    forms = {name: form for part in PARTS if part is PARTS[0] or part.keys() & found for name, form in part.items()}
    places, forms = dict(PLACES), forms | {"stand_in": ""} if "stand_in" in found else forms
    if "map/xy" in found:
        forms |= {"map/xy": "m2"} | ({"map/share": "2"} if "map/share" in found else {})
        for number, name in enumerate(key for key in found if key.startswith("map/codes/")):
            size = chr(0x100 + number)  # of the words of this coloring: no letter that another form has
            forms |= {name: "m", name.replace("codes", "words", 1): size}
            places[name] = size
    sizes = {str(digit): digit for digit in range(10)}
    for name, form in forms.items():
        if name not in found:
            return f"{name} is not there"
        array = found[name]
        fits = array.ndim == len(form) and all(
            letter == "*" or sizes.setdefault(letter, size) == size
            for letter, size in zip(form, array.shape, strict=True)
        )
        if not fits or array.dtype.kind not in ("U" if TEXTS.fullmatch(name) else "buif"):
            return f"{name} has shape {array.shape} and type {array.dtype}"
    for name, of in places.items():
        if name in forms and (found[name].dtype.kind not in "iu" or not np.isin(found[name], range(sizes[of])).all()):
            return f"{name} has other numbers than 0 to {sizes[of] - 1}"
    return ""


def flatten(tree: Mapping, prefix: str = "") -> dict[str, object]:
    """Returns {"a.b": value} of nested mappings."""
    flat = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


# Runs that differ in nothing but their seed are one series: one line with a band, one column of a table.


_OWN = ("seed", "name")
# Keys that may differ among the runs of a series: they change no number.
_FREE = (*_OWN, *OF_THE_MACHINE, "log.every", "checkpoint.keep_latest", "checkpoint.keep_best")


@dataclasses.dataclass(frozen=True)
class Series:
    """One or several runs of one config; `name` is unique among the series of a page."""

    name: str
    runs: tuple[Run, ...]

    @property
    def config(self) -> Mapping[str, object]:
        """Dotted key -> value; the seed is that of the first run."""
        return self.runs[0].config

    @property
    def objective(self) -> str:
        return self.runs[0].objective

    @property
    def outdated(self) -> bool:
        """Whether other code than today's, or unknown code, has made one of the runs."""
        return any(run.outdated for run in self.runs)

    @property
    def seeds(self) -> list:
        return [run.config.get("seed") for run in self.runs]

    @property
    def snapshot(self) -> Mapping[str, np.ndarray] | None:
        """Of the first run that has one."""
        return next((run.snapshot for run in self.runs if run.snapshot is not None), None)

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics of the last evaluation, mean over the runs that have them."""
        names = dict.fromkeys(name for run in self.runs for name in run.metrics)
        return {name: float(np.mean([r.metrics[name] for r in self.runs if name in r.metrics])) for name in names}

    def scores(self, metric: str) -> list[Scores]:
        """Per-example scores of a metric, one entry per run that has them."""
        return [run.examples[metric] for run in self.runs if metric in run.examples]

    def curve(self, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """(steps [t], values [runs, t]) of a training metric; nan where a run did not log it."""
        return _together([run.curve(metric) for run in self.runs])

    def evaluation_curve(self, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """(steps [t], values [runs, t]) of an evaluation metric."""
        points = [[(step, found[metric]) for step, found in run.evaluations if metric in found] for run in self.runs]
        return _together([tuple(np.array(run, float).reshape(-1, 2).T) for run in points])


def _together(curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    steps = np.unique(np.concatenate([steps for steps, _ in curves]))
    values = np.full((len(curves), len(steps)), np.nan)
    for row, (own, found) in zip(values, curves, strict=True):
        row[np.searchsorted(steps, own)] = found
    kept = np.isfinite(values).any(axis=1)  # a run without this metric is not a gap in the band
    return steps, values[kept]


def group_seeds(runs: Sequence[Run]) -> list[Series]:
    """Groups runs whose configs are equal but for seed, name and what changes no number, in order of first appearance.

    The same config and seed twice is not a sample of two: such runs stand apart. Series of one config name get what
    tells them apart into theirs: one or two config keys, or the folder.
    """
    groups: dict[tuple[str, int], list[Run]] = {}
    for run in runs:
        same = json.dumps({key: run.config[key] for key in run.config if key not in _FREE}, sort_keys=True)
        copy = 0
        while any(run.config.get("seed") == other.config.get("seed") for other in groups.get((same, copy), ())):
            copy += 1
        groups.setdefault((same, copy), []).append(run)
    series = [Series(_without_seed(found[0].name), tuple(found)) for found in groups.values()]
    for distinguish in (_differing_keys, lambda one, alike: str(one.runs[0].folder)):
        names = [one.name for one in series]
        alike = {name: [one for one in series if one.name == name] for name in names if names.count(name) > 1}
        series = [_renamed(one, distinguish(one, alike[one.name])) if one.name in alike else one for one in series]
    return series


def _without_seed(name: str) -> str:
    """The name of a run of a sweep, "objective/xclr,seed=0", without its seed."""
    return re.sub(r"[,/]?\bseed=\d+", "", name) or name


def _renamed(series: Series, words: str) -> Series:
    return dataclasses.replace(series, name=f"{series.name}, {words}") if words else series


def _differing_keys(one: Series, alike: Sequence[Series]) -> str:
    keys = [key for key, _ in config_difference(alike)]
    return ", ".join(f"{key.rpartition('.')[2]} {show(one.config.get(key))}" for key in keys) if len(keys) <= 2 else ""


def config_difference(series: Sequence[Series]) -> list[tuple[str, list[str]]]:
    """(key, its value in each series) of the config keys that are not the same in all; neither seed nor name."""
    keys = dict.fromkeys(key for one in series for key in one.config if key not in _OWN)
    rows = [(key, [show(one.config.get(key)) for one in series]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def show(value) -> str:
    """A value of a config in a table."""
    return "–" if value is None else str(tuple(value)) if isinstance(value, list) else str(value)


def choose_baseline(series: Sequence[Series], name: str | None = None) -> Series:
    """Returns the series called `name` (or with that preset); without a name the SimCLR series, else the first."""
    for one in series:
        if name is not None and name in (one.name, one.config.get("objective.preset")):
            return one
    if name is not None:
        raise DataError("baseline", name, f"one of {', '.join(one.name for one in series)}")
    return next((one for one in series if one.config.get("objective.preset") == "simclr"), series[0])
