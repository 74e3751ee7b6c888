"""What an evaluation takes and what it returns."""

import dataclasses
from collections.abc import Callable, Mapping

from xsample_jax.evals.features import Features
from xsample_jax.evals.intervals import Scores

# features_of(split, background=None | "mixed_same" | "mixed_rand" | "random_colour") -> Features
FeaturesOf = Callable[..., Features]


@dataclasses.dataclass(frozen=True)
class SuiteResult:
    """Metrics by name, and for those that are means over examples the examples themselves (for the bootstrap)."""

    metrics: Mapping[str, float]
    examples: Mapping[str, Scores]


class Collector:
    """Gathers metrics while a suite runs; a metric given by its examples is their mean by construction."""

    def __init__(self):
        self.metrics: dict[str, float] = {}
        self.examples: dict[str, Scores] = {}

    def examples_of(self, name: str, values, concepts) -> None:
        self.examples[name] = Scores(values, concepts)
        self.metrics[name] = self.examples[name].mean()

    def scalar(self, name: str, value: float) -> None:
        self.metrics[name] = float(value)

    def result(self) -> SuiteResult:
        return SuiteResult(self.metrics, self.examples)
