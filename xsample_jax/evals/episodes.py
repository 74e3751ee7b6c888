"""Evaluator "episodes": N-way K-shot classification by the nearest prototype (SuSana Distancia, arXiv 2305.09062).

An episode draws `way` classes of eval.split, and of each `shot` images whose mean feature is its prototype and `query`
others, each of which is of the class with the nearest prototype (squared Euclidean distance, features as they are).
"""

from collections.abc import Iterator

import numpy as np

from xsample_jax.data.permutation import scrambled, uniform
from xsample_jax.data.sources import read_labels
from xsample_jax.errors import ConfigError, UserError
from xsample_jax.evals.context import EvalContext, Evaluator
from xsample_jax.evals.metrics import Collector


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
        f"{name}: the interval is over {options.count:,} episodes of {enough} classes, which is no interval over "
        "other classes"
    )


def _classes_with(labels: np.ndarray, images: int) -> int:
    return int((np.unique(labels[labels >= 0], return_counts=True)[1] >= images).sum())


def _too_few(options, enough: int, split: str) -> ConfigError:
    expected = f"at most {enough}, the classes of split {split} with {options.shot + options.query} images or more"
    return ConfigError("eval.episodes.way", options.way, expected, "Take fewer ways, shots or queries.")


def check(bench: EvalContext) -> Iterator[UserError]:
    """Whether the split has enough classes with enough images."""
    options, split = bench.config.eval.episodes, bench.config.eval.split
    enough = _classes_with(read_labels(bench.source(split)), options.shot + options.query)
    if enough < options.way:
        yield _too_few(options, enough, split)


EPISODES = Evaluator(
    episodes,
    "few-shot episodes: queries of a few classes by the nearest prototype, with an interval over episodes",
    check,
    ("episodes/<way>way_<shot>shot",),
)
