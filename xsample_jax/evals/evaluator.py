"""What an evaluator is: a function of the bench that collects metrics, and a check that runs before any compute."""

import dataclasses
from collections.abc import Callable, Iterator

from xsample_jax.errors import UserError
from xsample_jax.evals.bench import Bench
from xsample_jax.evals.result import Collector


def nothing_to_check(bench: Bench) -> Iterator[UserError]:
    """No problem, whatever the bench."""
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
    check: Callable[[Bench], Iterator[UserError]] = nothing_to_check
