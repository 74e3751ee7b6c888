"""The table of all evaluators in docs/evaluation.md: python -m scripts.evaluators_page docs/evaluation.md."""

import sys

from xsample_jax.evals.registry import EVALUATORS
from xsample_jax.reports.style import insert, row


def table() -> str:
    """One row per evaluator: its name in --evals, the names of its metrics, and what it says of itself."""
    rows = [
        row([f"`{name}`", ", ".join(f"`{metric}`" for metric in evaluator.metrics), evaluator.says])
        for name, evaluator in EVALUATORS.items()
    ]
    return "\n".join([row(["name in `--evals`", "metrics", "how"]), "|---|---|---|", *rows])


if __name__ == "__main__":
    insert(sys.argv[1], "evaluators", table())
