"""Evaluators "classifier" and "episodes": an image is of the class with the nearest row, learned or a mean of shots.

Rows that the objective has learned for the classes are compared by their cosine with the embedding. A run that
forgets (data.forget) is evaluated on the images to forget, on those it kept and on test images; a run of tasks
(data.tasks) on every task so far, among the classes of those tasks.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np

from xsample_jax.data.loader import scrambled, uniform
from xsample_jax.data.plans import ids_of, is_forgetting, task_of_classes
from xsample_jax.data.records import unit_rows
from xsample_jax.data.sources import read_labels
from xsample_jax.errors import ConfigError, DataError, UserError
from xsample_jax.evals.context import EvalContext, Evaluator, check_split
from xsample_jax.evals.features import Features
from xsample_jax.evals.metrics import Collector, majority
from xsample_jax.objectives.learned_state import CLASSES

TASK, FORGETTING, SEEN = "classifier/task_", "classifier/forgetting", "classifier/seen"


def predict(embedding: np.ndarray, rows: np.ndarray, among: np.ndarray) -> np.ndarray:
    """The class of each embedding [n, D] among the classes `among`, int [m], by their rows [C, D]; int [n]."""
    return among[np.argmax(embedding @ unit_rows(rows[among]).T, axis=1)]


def classifier(bench: EvalContext, out: Collector) -> None:
    state, data = bench.features_of.state, bench.config.data
    test = bench.test
    if CLASSES not in state.params or test.embedding is None:
        out.note("classifier: this model has learned no classes")  # a baseline
        return
    rows = np.asarray(state.averaged().params[CLASSES], np.float32)
    every = np.arange(len(rows))
    labeled = partial(_learned, bench, out, len(rows))
    if data.tasks.count:
        add_tasks(bench, out, rows, labeled)
    elif is_forgetting(data):
        add_unlearning(bench, out, rows, labeled)
    else:
        add_accuracy(out, "classifier/test", labeled(test, bench.config.eval.split), rows, every)


def _learned(bench: EvalContext, out: Collector, count: int, of: Features, split: str) -> Features:
    """The rows whose class is among the `count` that were learned, by their numbers there; DataError without any."""
    label, names = of.label, bench.source(split).manifest.class_names
    learned = bench.features_of.parts.facts.class_names
    if not (label >= 0).any():
        raise DataError(f"labels of split {split}", "none", "labeled records, to tell their classes")
    if names and learned and tuple(names) != learned:
        number = {name: place for place, name in enumerate(learned)}
        label = np.array([*(number.get(name, count) for name in names), -1], np.int32)[label]
    elif not (names and learned) and label.max() >= count:
        expected = f"below {count}, the number of classes that the run has learned"
        raise DataError(f"labels of split {split}", int(label.max()), expected, "Evaluate on the classes of the run.")
    if names and not learned:
        out.note("classifier: the checkpoint does not say its classes; those of the set are taken in their order")
    known = (label >= 0) & (label < count)
    left_out = int((label >= count).sum())
    if not known.any():
        expected = f"some of those that the run has learned ({', '.join(learned[:3])} ...)"
        raise DataError(f"classes of split {split}", ", ".join(names[:3]), expected)
    if left_out:
        out.note(f"classifier: {left_out:,} images of split {split} are left out, of classes that were not learned")
    return dataclasses.replace(of, label=label).rows(known)


def add_accuracy(out: Collector, name: str, of: Features, rows: np.ndarray, among: np.ndarray) -> float | None:
    """Adds the accuracy on some rows, and returns it; None for no rows."""
    if not len(of):
        return None
    right = (predict(of.embedding, rows, among) == of.label).astype(np.float32)
    out.add_per_example(name, right, np.arange(len(of)), classes=len(among), chance=majority(of.label, among=among))
    return out.metrics[name]


def add_unlearning(bench: EvalContext, out: Collector, rows: np.ndarray, labeled: Callable) -> None:
    """What is forgotten, kept, and tested, and how far above its level to stop at the first of them is.

    That level is the accuracy on the test split for records, and 1 / classes for classes (arXiv 2401.10458).
    """
    forget, every = bench.config.data.forget, np.arange(len(rows))
    train = labeled(bench.train, bench.config.eval.train_split)
    test = labeled(bench.test, bench.config.eval.split)
    of_class = bool(forget.classes)
    gone = np.isin(train.label, forget.classes) if of_class else np.isin(train.id, ids_of(forget.ids))
    if not gone.any():
        split = bench.config.eval.train_split
        raise DataError(f"split {split}", "none of what data.forget names", "the split that the run was trained on")
    accuracy = add_accuracy(out, "classifier/forget", train.rows(gone), rows, every)
    add_accuracy(out, "classifier/retain", train.rows(~gone), rows, every)
    left = ~np.isin(test.label, forget.classes) if of_class else np.ones(len(test), bool)
    on_test = add_accuracy(out, "classifier/test", test.rows(left), rows, every)
    add_accuracy(out, "classifier/test_forgotten", test.rows(~left), rows, every)
    level = 1 / len(rows) if of_class else on_test
    out.scalar("classifier/forget_excess", accuracy - level)


def add_tasks(bench: EvalContext, out: Collector, rows: np.ndarray, labeled: Callable) -> None:
    """Accuracy on the test images of every task that has begun, and their mean over the tasks."""
    tasks, step = bench.config.data.tasks, int(bench.features_of.state.step)
    of_class = task_of_classes(len(rows), tasks.count, bench.config.seed)
    now = min(max(step - 1, 0) // tasks.steps, tasks.count - 1)
    test = labeled(bench.test, bench.config.eval.split)
    seen = np.flatnonzero(of_class <= now)
    found = []
    for task in range(now + 1):
        of_task = test.rows(of_class[test.label] == task)
        found.append(add_accuracy(out, f"{TASK}{task + 1}", of_task, rows, seen))
        if found[-1] is None:
            out.note(f"{TASK}{task + 1}: split {bench.config.eval.split} has no image of its classes")
    out.scalar(SEEN, float(np.mean([accuracy for accuracy in found if accuracy is not None])))


def with_forgetting(metrics: Mapping[str, float], best: dict[str, float]) -> dict[str, float]:
    """The metrics, with how much the accuracies of earlier tasks have fallen since they were highest, on average.

    best: highest accuracy of every task before this evaluation; updated in place. The newest task counts not, as
    nothing came after it.
    """
    tasks = [name for name in metrics if name.startswith(TASK)]
    earlier = [name for name in tasks if name in best]
    newest = max(tasks, key=lambda name: int(name.removeprefix(TASK)), default=None)
    fallen = [max(best[name], metrics[name]) - metrics[name] for name in earlier if name != newest]
    best.update({name: max(metrics[name], best.get(name, 0.0)) for name in tasks})
    return dict(metrics) | ({FORGETTING: float(np.mean(fallen))} if fallen else {})


def check_classifier(bench: EvalContext) -> Iterator[UserError]:
    """Whether the model has learned classes."""
    if CLASSES not in bench.features_of.state.params:
        fix = "Leave it out of --evals."
        yield ConfigError("--evals", "classifier", "a run whose objective learns classes, as classifier does", fix)
    yield from check_split(bench)


CLASSIFIER = Evaluator(
    classifier,
    "accuracy with the classes that the objective learned: on forgotten and retained images, or on each task",
    check_classifier,
    tuple(
        f"classifier/{name}"
        for name in ("test", "forget", "forget_excess", "retain", "test_forgotten", "task_<t>", "seen", "forgetting")
    ),
)


# Evaluator "episodes": N-way K-shot classification by the nearest prototype (SuSana Distancia, arXiv 2305.09062).
#
# An episode draws `way` classes of eval.split, and of each `shot` images whose mean feature is its prototype and
# `query` others, each of which is of the class with the nearest prototype (squared Euclidean distance, features as
# they are).


def episode_accuracies(features: np.ndarray, labels: np.ndarray, options, seed: int = 0) -> np.ndarray:
    """The share of queries that is classified correctly in every episode, float64 [options.count].

    Args:
      features: [n, F]; labels: int [n], -1 for none.
      options: way, shot, query and count; some `way` classes have shot + query images.
    """
    way, shot, query = options.way, options.shot, options.query
    names, sizes = np.unique(labels[labels >= 0], return_counts=True)
    members = [np.flatnonzero(labels == name) for name in names[sizes >= shot + query]]
    truth, found = np.repeat(np.arange(way), query), np.empty(options.count)
    for number in range(options.count):
        key = scrambled(scrambled(seed, 6), number)
        rows = []
        for which in np.argsort(uniform(key, len(members)), kind="stable")[:way]:
            drawn = np.argsort(uniform(scrambled(key, int(which)), len(members[which])), kind="stable")
            rows.append(members[which][drawn][: shot + query])
        x = features[np.stack(rows)].astype(np.float64)
        prototypes, queries = x[:, :shot].mean(axis=1), x[:, shot:].reshape(way * query, -1)
        distances = (prototypes**2).sum(axis=1)[None, :] - 2 * queries @ prototypes.T
        found[number] = np.mean(np.argmin(distances, axis=1) == truth)
    return found


def episodes(bench: EvalContext, out: Collector) -> None:
    options, of = bench.config.eval.episodes, bench.test
    enough = _classes_with(of.label, options.shot + options.query)
    if enough < options.way:
        raise _too_few(options, enough, bench.config.eval.split)
    found = episode_accuracies(of.features, of.label, options, bench.config.seed)
    name = f"episodes/{options.way}way_{options.shot}shot"
    out.add_per_example(name, found, np.arange(len(found)), classes=options.way, chance=1 / options.way)
    out.note(
        f"{name}: the interval is over {options.count:,} episodes of {enough} classes, which says nothing about "
        "other classes"
    )


def _classes_with(labels: np.ndarray, images: int) -> int:
    return int((np.unique(labels[labels >= 0], return_counts=True)[1] >= images).sum())


def _too_few(options, enough: int, split: str) -> ConfigError:
    expected = f"at most {enough}, the classes of split {split} with {options.shot + options.query} images or more"
    return ConfigError("eval.episodes.way", options.way, expected, "Take fewer ways, shots or queries.")


def check_episodes(bench: EvalContext) -> Iterator[UserError]:
    """Whether the split has enough classes with enough images."""
    options, split = bench.config.eval.episodes, bench.config.eval.split
    enough = _classes_with(read_labels(bench.source(split)), options.shot + options.query)
    if enough < options.way:
        yield _too_few(options, enough, split)


EPISODES = Evaluator(
    episodes,
    "few-shot episodes: queries of a few classes by the nearest prototype, with an interval over episodes",
    check_episodes,
    ("episodes/<way>way_<shot>shot",),
)
