"""The result of tools.evaluate for people and programs: a table of text, JSON, and one self-contained HTML page."""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from xsample_jax.config.rules_data import EMOJI
from xsample_jax.evals.catalog import CLASSES, CONCEPTS, READING, TITLES, Metric, in_order, metric_facts
from xsample_jax.evals.evaluate import Evaluation
from xsample_jax.evals.metrics import Facts
from xsample_jax.evals.registry import EVALUATORS
from xsample_jax.reports.runs import flatten
from xsample_jax.reports.style import write_page as fill

ARROWS = {1: "↑", -1: "↓", 0: ""}


def rows_of(evaluation: Evaluation) -> list[dict]:
    """One dict per metric, in the order of the catalog: metric, value, low, high (or None), facts."""
    rows = []
    held_out = evaluation.config.data.source in EMOJI  # other sets have groups, but no concepts that are held out
    for metric in in_order(evaluation.result.metrics):
        if metric.section == CONCEPTS and not held_out:
            metric = dataclasses.replace(metric, section=CLASSES)
        value, interval = evaluation.result.metrics[metric.name], evaluation.intervals.get(metric.name)
        low, high = (interval.low, interval.high) if interval is not None else (None, None)
        facts = metric_facts(metric.name, evaluation.result.facts.get(metric.name, Facts()), evaluation.baselines)
        rows.append({"metric": metric, "value": value, "low": low, "high": high, "facts": facts})
    return rows


def as_json(evaluation: Evaluation, evals: Sequence[str]) -> dict:
    """What a program needs: where the numbers come from, the numbers with their intervals, the notes."""
    config = evaluation.config
    return {
        "run": str(evaluation.run),
        "step": evaluation.step,
        "name": config.name,
        "evals": list(evals),
        "data": {"source": config.data.source, "path": config.data.path, "target": evaluation.target}
        | {name: config.eval[name] for name in ("train_split", "split")},
        "metrics": {
            row["metric"].name: {
                "value": _number(row["value"]),
                "low": _number(row["low"]),
                "high": _number(row["high"]),
            }
            | row["facts"]
            | {"chance": _number(row["facts"]["chance"])}
            for row in rows_of(evaluation)
        },
        "notes": list(evaluation.result.notes),
    }


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None  # JSON has no nan


def text_of(row: dict) -> tuple[str, str]:
    """(value, "[low, high]" or "") as they are printed."""
    metric: Metric = row["metric"]
    interval = f"[{metric.text(row['low'])}, {metric.text(row['high'])}]" if row["low"] is not None else ""
    return metric.text(row["value"]), interval


def levels_of(row: dict, baselines: Sequence[str]) -> list[tuple[str, str]]:
    """(name, text) of the values to compare with: chance, then every baseline; "–" where there is none."""
    metric, facts = row["metric"], row["facts"]
    levels = [("chance", facts["chance"])]
    levels += [(TITLES[name], facts["baselines"].get(name)) for name in baselines]
    return [(name, _show(None if value is None else metric.text(value))) for name, value in levels]


def size_of(row: dict) -> str:
    """ "n = 120, 4 classes", as far as it is known."""
    facts = row["facts"]
    parts = [] if facts["n"] is None else [f"n = {facts['n']:,}"]
    return ", ".join(parts if facts["classes"] is None else [*parts, f"{facts['classes']:,} classes"])


def table(evaluation: Evaluation) -> str:
    """The table for a terminal, plain text in columns, and the notes."""
    rows, baselines = rows_of(evaluation), list(evaluation.baselines)
    heads = ["chance", *(TITLES[name] for name in baselines)]
    titles = [f"{row['metric'].title} {ARROWS[row['metric'].direction]}".rstrip() for row in rows]
    width = max(map(len, titles), default=0)
    lines = [f"{evaluation.config.name}, step {evaluation.step}"]
    section = None
    for title, row in zip(titles, rows, strict=True):
        if row["metric"].section != section:
            section = row["metric"].section
            lines += ["", f"{section:<{width + 2}}  {'':>7}  {'':<14}  {'  '.join(heads)}  images and classes"]
        value, interval = text_of(row)
        levels = "  ".join(f"{text:>{len(head)}}" for head, (_, text) in zip(heads, levels_of(row, baselines)))
        lines.append(f"  {title:<{width}}  {value:>7}  {interval:<14}  {levels}  {size_of(row)}".rstrip())
    lines += ["", f"Accuracies in percent; in brackets the 95% bootstrap interval. {READING}"]
    return "\n".join(lines + [f"note: {note}" for note in evaluation.result.notes])


def write_page(evaluation: Evaluation, evals: Sequence[str], path: Path) -> None:
    """Writes the HTML page."""
    config = flatten(evaluation.config.to_dict())
    sections: dict[str, list[dict]] = {}
    for row in rows_of(evaluation):
        value, interval = text_of(row)
        entry = {"metric": row["metric"], "arrow": ARROWS[row["metric"].direction], "value": value}
        entry |= {"levels": levels_of(row, list(evaluation.baselines)), "size": size_of(row)}
        sections.setdefault(row["metric"].section, []).append(entry | {"interval": interval, "bar": _bar(row)})
    facts = {
        "Objective": config["objective.preset"],
        "Encoder": config["model.encoder"],
        "Step": f"{evaluation.step:,}",
        "Data": config["data.path"] or config["data.source"],
        "Probes from": config["eval.train_split"],
        "Measured on": config["eval.split"],
        "Target": evaluation.target,
    }
    fill(
        "evaluation.html",
        path,
        name=config["name"],
        run=str(evaluation.run),
        facts=facts,
        sections=sections,
        notes=evaluation.result.notes,
        reading=READING,
        evals=[(name, EVALUATORS[name].says) for name in dict.fromkeys(evals)],
        config=sorted(
            (key, _show(value)) for key, value in config.items() if key.startswith(("data.", "eval.", "model."))
        ),
    )


def _bar(row: dict) -> dict | None:
    """Places of an accuracy and its interval on a scale of 0 to 100; None for differences and what is not a share."""
    values, metric = (row["low"], row["value"], row["high"]), row["metric"]
    if not metric.percent or "gap" in metric.name or None in values or min(values) < 0 or max(values) > 1:
        return None
    places = {name: round(100 * value, 2) for name, value in zip(("low", "mean", "high"), values, strict=True)}
    chance = row["facts"]["chance"]
    return places if chance is None else places | {"chance": round(100 * chance, 2)}


def _show(value) -> str:
    return "–" if value is None else str(value)
