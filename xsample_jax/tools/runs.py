"""Reading finished or running run folders: config.json, metrics.jsonl, evaluation.npz, report_data.npz."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from xsample_jax.errors import DataError
from xsample_jax.evals.intervals import Scores, load_examples
from xsample_jax.evals.snapshot import load_snapshot
from xsample_jax.metrics.writers import read_jsonl
from xsample_jax.run_files import CONFIG, EXAMPLES, JSONL, SNAPSHOT
from xsample_jax.storage.paths import as_path

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
    """

    name: str
    folder: Path
    config: Mapping[str, object]
    training: Sequence[Mapping[str, float]]
    evaluations: Sequence[tuple[int, Mapping[str, float]]]
    examples: Mapping[str, Scores]
    snapshot: Mapping[str, np.ndarray] | None

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


def _load(folder: Path) -> Run:
    for name in (CONFIG, JSONL):
        if not (folder / name).exists():
            raise DataError(
                "run folder", str(folder), f"a folder with {name}", "Is it the --workdir of a training run?"
            )
    config = flatten(json.loads((folder / CONFIG).read_text(encoding="utf-8")))
    lines = read_jsonl(folder / JSONL)
    evaluations = []
    for line in lines:
        metrics = {name.removeprefix(_EVAL): value for name, value in line.items() if name.startswith(_EVAL)}
        if metrics:
            evaluations.append((line["step"], metrics))
    return Run(
        name=str(config.get("name", folder.name)),
        folder=folder,
        config=config,
        training=[line for line in lines if "loss" in line],
        evaluations=evaluations,
        examples=load_examples(folder / EXAMPLES) if (folder / EXAMPLES).exists() else {},
        snapshot=load_snapshot(folder / SNAPSHOT) if (folder / SNAPSHOT).exists() else None,
    )


def flatten(tree: Mapping, prefix: str = "") -> dict[str, object]:
    """Returns {"a.b": value} of nested mappings."""
    flat = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
