"""Batches by plan: which record is at each place, and which part of its batch it is.

A plan is a pure function of the seed and the place in the endless order of a run, so batches are the same on any number
of hosts and after a resume. It serves runs that do not draw at random from all records: images to forget beside images
to keep (data.forget), tasks one after the other with a rehearsal of earlier ones (data.tasks), and episodes of a few
classes (data.episodes).
"""

import functools
import math
import threading
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from xsample_jax.data.loader import draw_order, scrambled, uniform
from xsample_jax.data.sources import read_ids, read_labels
from xsample_jax.distributed import log_info
from xsample_jax.errors import ConfigError
from xsample_jax.io.files import read_lines
from xsample_jax.io.paths import as_path


class Place(NamedTuple):
    """The draw at a place: the index of a record; its part, 0 (kept, new, support) or 1 (to forget, rehearsed,
    query); the task of the batch, from 0."""

    index: int
    part: int
    task: int = 0

    @property
    def entries(self) -> dict[str, np.ndarray]:
        """Entries of a batch."""
        return {"part": np.int32(self.part), "task": np.int32(self.task)}


Plan = Callable[[int], Place]


def draws_from(members: np.ndarray, seed: int, purpose: int) -> Callable[[int], int]:
    """Returns 0, 1, 2, ... -> one of `members`: each once in every pass, every pass in an order of its own."""
    order = draw_order(len(members), scrambled(seed, purpose) % 2**32)
    return lambda number: int(members[order(number)])


# Images to forget: each batch of them meets several batches of retained images (arXiv 2401.10458).


def forget_plan(forget: np.ndarray, seed: int, batch_size: int, rows: int, meets: int) -> Plan:
    """The first `rows` of every batch are images to forget, the same in `meets` batches in a row.

    Args:
      forget: bool [records]. Every record is drawn once in a pass over those to forget, or over the others; the
        published code draws what it keeps with replacement.
      rows: 0: a batch without any, as of a run that is trained without them.
    """
    to_forget = draws_from(np.flatnonzero(forget), seed, 1) if rows else None
    kept = draws_from(np.flatnonzero(~forget), seed, 2)

    def at(place: int) -> Place:
        batch, row = divmod(place, batch_size)
        if row < rows:
            return Place(to_forget(batch // meets * rows + row), 1)
        return Place(kept(batch * (batch_size - rows) + row - rows), 0)

    return at


# Tasks one after the other, with a rehearsal of the classes of earlier ones.


def task_of_classes(classes: int, tasks: int, seed: int) -> np.ndarray:
    """The task of every class, int [classes]: classes in an order drawn by the seed, cut into `tasks` equal parts
    (equal but for one class)."""
    order = np.argsort(uniform(scrambled(seed, 3), classes), kind="stable")
    found = np.empty(classes, np.int64)
    found[order] = np.arange(classes) * tasks // classes
    return found


def rehearsed(labels: np.ndarray, task: np.ndarray, before: int, keep: int, seed: int) -> np.ndarray:
    """The records that are rehearsed in task `before`: `keep` of every class of the tasks before it, drawn by the seed.

    A record that is kept stays so in all later tasks. task: int [records], -1 for a record of no class.
    """
    drawn = uniform(scrambled(seed, 4), len(labels))
    chosen = []
    for label in np.unique(labels[(task >= 0) & (task < before)]):
        members = np.flatnonzero(labels == label)
        chosen.append(members[np.argsort(drawn[members], kind="stable")][:keep])
    return np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, np.int64)


def task_plan(labels: np.ndarray, options: Mapping, classes: int, seed: int, batch_size: int) -> Plan:
    """`options.steps` batches of the classes of each task, the last one until the run ends.

    From the second task on the first round(share * batch_size) rows of a batch are rehearsed (part 1).

    Args:
      labels: int [records], -1 for records without a class, which are left out.
      options: count, steps, keep and share of data.tasks.
    """
    of_class = task_of_classes(classes, options["count"], seed)
    task = np.where(labels >= 0, of_class[labels], -1)
    new = [draws_from(np.flatnonzero(task == t), seed, 16 + 2 * t) for t in range(options["count"])]
    buffers = [rehearsed(labels, task, t, options["keep"], seed) for t in range(options["count"])]
    old = [draws_from(buffer, seed, 17 + 2 * t) if len(buffer) else None for t, buffer in enumerate(buffers)]

    def at(place: int) -> Place:
        batch, row = divmod(place, batch_size)
        now = min(batch // options["steps"], options["count"] - 1)
        since = batch - now * options["steps"]
        rows = round(options["share"] * batch_size) if old[now] else 0
        if row < rows:
            return Place(old[now](since * rows + row), 1, now)
        return Place(new[now](since * (batch_size - rows) + row - rows), 0, now)

    return at


# Episodes: a few images of a few classes.


def episode_plan(labels: np.ndarray, options: Mapping, seed: int) -> Plan:
    """Every batch is an episode: `shot` images of each of `way` classes (part 0), then `query` others of each (part 1).

    Classes, and images within them, are drawn for each batch, uniformly from those with enough images.
    """
    way, shot, query = (options[name] for name in ("way", "shot", "query"))
    names, sizes = np.unique(labels[labels >= 0], return_counts=True)
    members = [np.flatnonzero(labels == name) for name in names[sizes >= shot + query]]

    def episode(number: int) -> np.ndarray:
        key = scrambled(scrambled(seed, 5), number)
        chosen = np.argsort(uniform(key, len(members)), kind="stable")[:way]
        rows = []
        for which in chosen:
            drawn = uniform(scrambled(key, int(which)), len(members[which]))
            rows.append(members[which][np.argsort(drawn, kind="stable")][: shot + query])
        rows = np.stack(rows)
        return np.concatenate([rows[:, :shot].reshape(-1), rows[:, shot:].reshape(-1)])

    episodes, lock = functools.lru_cache(maxsize=8)(episode), threading.Lock()

    def at(place: int) -> Place:
        number, row = divmod(place, way * (shot + query))
        with lock:  # else every thread would make it
            rows = episodes(number)
        return Place(int(rows[row]), int(row >= way * shot))

    return at


# From a config to its plan.


def read_plan(config, source) -> Plan | None:
    """The plan of data.forget, data.tasks or data.episodes on the records of `source`; None where there is none.

    Raises ConfigError where the records do not give what it asks for: nothing or everything to forget, fewer classes
    than tasks, epochs that end before the last task, or too few classes with enough images for an episode.
    """
    data = config.data
    if is_forgetting(data):
        forget = to_forget(data, source)
        rows = round(data.forget.share * config.batch_size)
        log_info(f"{config.name}: {forget.sum():,} of {len(forget):,} records are to be forgotten")
        return forget_plan(forget, config.seed, config.batch_size, rows, data.forget.meets)
    if data.tasks.count:
        labels = read_labels(source)
        classes = max(len(source.manifest.class_names), int(labels.max(initial=-1)) + 1)  # labels may have no names
        present = np.unique(labels[labels >= 0])
        tasks = np.unique(task_of_classes(classes, data.tasks.count, config.seed)[present])
        if len(tasks) < data.tasks.count:
            expected = f"at most {len(present)}, the classes of split {source.split}, with images for each task"
            raise ConfigError("data.tasks.count", data.tasks.count, expected)
        if config.steps is None:
            _check_epochs(config, len(source))
        return task_plan(labels, data.tasks.to_dict(), classes, config.seed, config.batch_size)
    if data.episodes.way:
        labels, need = read_labels(source), data.episodes.shot + data.episodes.query
        enough = int((np.unique(labels[labels >= 0], return_counts=True)[1] >= need).sum())
        if enough < data.episodes.way:
            expected = f"at most {enough}, the classes of split {source.split} with {need} images or more"
            fix = "Take fewer ways, shots or queries, or another data.label."
            raise ConfigError("data.episodes.way", data.episodes.way, expected, fix)
        return episode_plan(labels, data.episodes.to_dict(), config.seed)
    return None


def _check_epochs(config, records: int) -> None:
    """Raises ConfigError where the epochs are over before the last task begins."""
    tasks = config.data.tasks
    steps, before = math.ceil(config.epochs * records / config.batch_size), (tasks.count - 1) * tasks.steps
    if steps <= before:
        expected = (
            f"more than {before:,} steps, after which the last of {tasks.count} tasks begins; these are {steps:,}"
        )
        fix = f"Set --config.epochs={math.ceil(tasks.count * tasks.steps * config.batch_size / records)}."
        raise ConfigError("epochs", config.epochs, expected, fix)


def check_position(config, step: int, position: int) -> None:
    """Raises ConfigError where tasks, which follow the position in the data, would part from the steps of a run."""
    if config.data.tasks.count and position != step * config.batch_size:
        expected = f"{position / max(step, 1):g}, of which the {step:,} steps so far were, for a run with data.tasks"
        fix = "Set --config.batch_size to that, or start in another folder."
        raise ConfigError("batch_size", config.batch_size, expected, fix)


def is_planned(data) -> bool:
    """Whether the batches of a config are made by a plan."""
    return is_forgetting(data) or bool(data.tasks.count) or bool(data.episodes.way)


def is_forgetting(data) -> bool:
    """Whether data.forget names anything."""
    return bool(data.forget.classes) or data.forget.ids is not None


def to_forget(data, source) -> np.ndarray:
    """Which records data.forget names, bool [records]; ConfigError where those are none, or all."""
    known = set(np.unique(labels := read_labels(source)).tolist()) - {-1} if data.forget.classes else set()
    for label in data.forget.classes:
        if label not in known:
            numbers = f"numbers from 0 to {max(known)}" if known else "of which there are none"
            expected = f"classes of split {source.split}, {numbers}"
            raise ConfigError("data.forget.classes", label, expected)
    if data.forget.classes:
        found, field, value = np.isin(labels, data.forget.classes), "data.forget.classes", data.forget.classes
    else:
        ids, there, field, value = ids_of(data.forget.ids), read_ids(source), "data.forget.ids", data.forget.ids
        if len(missing := np.setdiff1d(ids, there[there >= 0])):
            some = ", ".join(map(str, missing[:5])) + ", ..." * (len(missing) > 5)
            expected = f"ids of records of split {source.split}; {len(missing):,} of its ids are none: {some}"
            raise ConfigError(field, value, expected, "Remove them from the file.")
        found = np.isin(there, ids)
    if found.all() or not found.any():
        expected = f"some of the {len(found):,} records of split {source.split}, not {'all' if found.any() else 'none'}"
        raise ConfigError(field, value, expected)
    return found


def ids_of(path: str) -> np.ndarray:
    """int64 [n], the record ids of a text file with one on each line; ConfigError for a file that is none."""
    field = "data.forget.ids"
    file = as_path(path, field)
    if not file.is_file():
        raise ConfigError(field, path, "an existing text file with the id of a record on each line")
    lines = read_lines(file, field)
    try:
        return np.array([int(line) for line in lines if line.strip()], np.int64)
    except (OverflowError, ValueError) as error:
        raise ConfigError(field, path, f"whole numbers below 2^63, one on each line ({error})") from error
