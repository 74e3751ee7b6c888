"""What an evaluation takes and what it returns."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from xsample_jax.evals.features import Features
from xsample_jax.evals.intervals import Interval, Scores, bootstrap

# features_of(split, background=None | "mixed_same" | "mixed_rand" | "random_colour") -> Features
FeaturesOf = Callable[..., Features]


@dataclasses.dataclass(frozen=True)
class SuiteResult:
    """Metrics by name.

    Attributes:
      metrics: name -> value.
      examples: for those that are means over examples the examples themselves (for the bootstrap).
      intervals: intervals that the examples do not give (those over draws of shots).
      notes: what a reader has to know, as about a set that is missing.
    """

    metrics: Mapping[str, float]
    examples: Mapping[str, Scores]
    intervals: Mapping[str, Interval] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def interval(self, name: str) -> Interval | None:
        """The 95% bootstrap interval of a metric; None for one that is no mean over examples."""
        if name in self.intervals:
            return self.intervals[name]
        return bootstrap([self.examples[name]]) if name in self.examples else None


class Collector:
    """Gathers metrics while a suite runs; a metric given by its examples is their mean by construction."""

    def __init__(self):
        self.metrics: dict[str, float] = {}
        self.examples: dict[str, Scores] = {}
        self.intervals: dict[str, Interval] = {}
        self.notes: list[str] = []

    def examples_of(self, name: str, values, concepts) -> None:
        self.examples[name] = Scores(values, concepts)
        self.metrics[name] = self.examples[name].mean()

    def draws_of(self, name: str, values: np.ndarray, concepts: np.ndarray) -> None:
        """A metric of several draws, values [draws, n]: its interval is over draws and concepts."""
        self.examples_of(name, values.mean(axis=0), concepts)
        self.intervals[name] = bootstrap([Scores(of_draw, concepts) for of_draw in values])

    def scalar(self, name: str, value: float) -> None:
        self.metrics[name] = float(value)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def include(self, result: SuiteResult) -> None:
        """Takes over everything of another result."""
        self.metrics |= result.metrics
        self.examples |= result.examples
        self.intervals |= result.intervals
        self.notes += result.notes

    def result(self) -> SuiteResult:
        return SuiteResult(self.metrics, self.examples, self.intervals, tuple(self.notes))
