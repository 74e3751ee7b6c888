"""What an evaluator is: a function of the bench that collects metrics, and a check that runs before any compute."""

import dataclasses
from collections.abc import Callable, Iterator

from xsample_jax.errors import UserError
from xsample_jax.evals.bench import Bench
from xsample_jax.evals.result import Collector


def check_split(bench: Bench) -> Iterator[UserError]:
    """Opens the split that is evaluated; raises DataError when it is not there."""
    bench.source(bench.config.eval.split)
    return iter(())


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """Attributes:
    run: adds the metrics of a bench to a collector.
    says: one line about it, for `--help`.
    check: yields (or raises) what is missing, from manifests and file names alone.
    """

    run: Callable[[Bench, Collector], None]
    says: str
    check: Callable[[Bench], Iterator[UserError]] = check_split
