"""The file beside a run's metrics that says how to read them: counts, chance, baselines, notes."""

import json
from collections.abc import Mapping
from pathlib import Path

from xsample_jax.evals.catalog import describe
from xsample_jax.evals.metrics import Facts, SuiteResult
from xsample_jax.io.files import atomic_write

Baselines = Mapping[str, Mapping[str, float]]  # of baselines.py
UNTRAINED, PIXELS = "untrained", "pixels"
TITLES = {UNTRAINED: "untrained encoder", PIXELS: "pixels"}
READING = (
    "Chance: the majority class for accuracies, a random order for retrieval. Untrained encoder: the model at step 0. "
    "Pixels: the image itself, 16 x 16, as features."
)


def metric_facts(name: str, facts: Facts, baselines: Baselines) -> dict:
    """Everything about a metric but its value, as it is kept in JSON."""
    metric = describe(name)
    return {
        "title": metric.title,
        "unit": metric.unit,
        "higher_is_better": metric.higher_is_better,
        "n": facts.n,
        "classes": facts.classes,
        "chance": facts.chance,
        "baselines": {which: values[name] for which, values in baselines.items() if name in values},
    }


def save_facts(path: Path, result: SuiteResult, baselines: Baselines) -> None:
    """Writes evaluation_facts.json."""
    metrics = {name: metric_facts(name, result.facts.get(name, Facts()), baselines) for name in result.metrics}
    text = json.dumps({"metrics": metrics, "notes": list(result.notes)}, indent=1)
    atomic_write(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def load_facts(path: Path) -> tuple[dict[str, dict], list[str]]:
    """(facts by metric, notes); empty where there is no file, as for older runs, or it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        metrics, notes = dict(found["metrics"]), [str(note) for note in found["notes"]]
    except (OSError, ValueError, KeyError, TypeError):
        return {}, []
    return {name: facts for name, facts in metrics.items() if isinstance(facts, dict)}, notes
