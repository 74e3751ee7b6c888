"""Rules about batches by plan, about an attribute as the class, and about evaluations that use learned classes."""

from collections.abc import Iterator

from xsample_jax.errors import ConfigError
from xsample_jax.objectives.from_config import build_objective
from xsample_jax.objectives.objective import Objective

# What is about the whole of a set, and draws its records in its own way.
OF_DRAWS = {"data.mix": (), "data.balance": 0.0, "data.samples_per_class": None, "data.fraction": 1.0}
PLANS = {
    "data.forget": "data.forget.classes or .ids",
    "data.tasks": "data.tasks.count",
    "data.episodes": "data.episodes.way",
}


def _plans(c: dict) -> Iterator[ConfigError]:
    """Batches by plan: one plan alone says which records are drawn, and its parts fill a batch."""
    forgets = c["data.forget.classes"] or c["data.forget.ids"] is not None
    given = (forgets, c["data.tasks.count"], c["data.episodes.way"])
    chosen = [name for name, on in zip(PLANS, given, strict=True) if on]
    if not chosen:
        return
    if len(chosen) > 1:
        yield ConfigError(PLANS[chosen[1]], "set", f"not set with {PLANS[chosen[0]]}: each says what is drawn")
    weight = "weight" if any(entry.get("name") == "weight" for entry in c["data.side"]) else None
    others = {"data.batches_of": (c["data.batches_of"], None), "data.side": (weight, None)}
    others |= {key: (c[key], neutral) for key, neutral in OF_DRAWS.items()}
    others |= {"data.label_noise": (c["data.label_noise"], 0.0), "data.on_error": (c["data.on_error"], "raise")}
    others |= {"objective.generator.kind": (c["objective.generator.kind"], None)}
    for key, (value, neutral) in others.items():
        if value != neutral:
            yield ConfigError(key, value, f"{neutral} with {PLANS[chosen[0]]}, whose plan says what a batch is")
    yield from _of_objective(c, chosen[0])
    yield from _parts_of_a_batch(c, chosen[0])


def _of_objective(c: dict, plan: str) -> Iterator[ConfigError]:
    """An objective that compares the parts of another plan: they would mean something else."""
    objective = _built(c)
    for other in sorted(objective.plans - {plan}) if objective else ():
        expected = f"an objective for {PLANS[plan]}: this one compares the parts of batches by {PLANS[other]}"
        fix = f"Set {PLANS[other]} and not {PLANS[plan]}, or another objective.preset."
        yield ConfigError("objective.preset", c["objective.preset"], expected, fix)


def _built(c: dict) -> Objective | None:
    """The objective of a config; None where it is wrong, which is reported by the rules of the objective."""
    try:
        return build_objective(
            {name.removeprefix("objective."): c[name] for name in c if name.startswith("objective.")}
        )
    except ConfigError:
        return None


def _parts_of_a_batch(c: dict, plan: str) -> Iterator[ConfigError]:
    batch = c["batch_size"]
    if plan == "data.episodes":
        way, shot, query = (c[f"data.episodes.{name}"] for name in ("way", "shot", "query"))
        if way < 2:
            yield ConfigError("data.episodes.way", way, "0, or at least 2 classes to tell apart")
        if batch != way * (shot + query):
            expected = f"{way * (shot + query)}, an episode: way * (shot + query) images"
            yield ConfigError("batch_size", batch, expected, f"Set --config.batch_size={way * (shot + query)}.")
        return
    share = c[f"{plan}.share"]
    if share and not 0 < round(share * batch) < batch:
        expected = f"a share that leaves images of both kinds in a batch of {batch}"
        yield ConfigError(f"{plan}.share", share, expected, "Take 0.5, or a larger batch.")
    if plan == "data.forget" and c["data.forget.classes"] and c["data.forget.ids"] is not None:
        yield ConfigError("data.forget.ids", c["data.forget.ids"], "None with data.forget.classes")
    if plan == "data.tasks":
        count, of_task = c["data.tasks.count"], c["data.tasks.steps"]
        if count < 2:
            yield ConfigError("data.tasks.count", count, "0, or at least 2")
        if c["steps"] is not None and c["steps"] <= (count - 1) * of_task:
            expected = f"more than {(count - 1) * of_task}, after which the last of {count} tasks begins"
            yield ConfigError("steps", c["steps"], expected, f"Set --config.steps={count * of_task}.")
        if c["faults.non_finite"] == "rollback":
            expected = "stop or skip with data.tasks.count: a roll-back would part the tasks from the steps"
            yield ConfigError("faults.non_finite", "rollback", expected, "Set --config.faults.non_finite=skip.")


def _label(c: dict) -> Iterator[ConfigError]:
    """An attribute as the class: what knows the classes of the set itself does not know these."""
    label = c["data.label"]
    if label is None:
        return
    if c["eval.suite"] == "emoji":
        expected = "probe, classifier, episodes or none with data.label: emoji takes the class for the concept"
        yield ConfigError("eval.suite", "emoji", expected, "Set --config.eval.suite=probe.")
    objective = _built(c)
    if objective and "class_embedding" in objective.requires:
        expected = "None for an objective that reads the texts of the classes: a set has those of its own classes"
        yield ConfigError("data.label", label, expected)


def _classifier(c: dict) -> Iterator[ConfigError]:
    """The evaluator `classifier` asks the learned classes; rules that end a run need evaluations during it."""
    objective = _built(c)
    if objective is None:
        return
    if c["eval.suite"] == "classifier" and not objective.classes:
        fix = "Set --config.eval.suite=probe, or --config.objective.preset=classifier."
        expected = "another suite for an objective that learns no classes"
        yield ConfigError("eval.suite", "classifier", expected, fix)
    for number, rule in enumerate(c["eval.stop"]):
        right = isinstance(rule.get("metric"), str) and isinstance(rule.get("at_most"), int | float)
        if set(rule) != {"metric", "at_most"} or not right:
            yield ConfigError(f"eval.stop[{number}]", dict(rule), "{'metric': a name, 'at_most': a number}")
    if c["eval.stop"] and (c["eval.suite"] == "none" or not c["eval.every"]):
        fix = "Set --config.eval.suite and --config.eval.every, or --config.eval.stop='()'."
        yield ConfigError("eval.stop", c["eval.stop"], "() for a run that is not evaluated on its way", fix)


PLAN_RULES = (_plans, _label, _classifier)
