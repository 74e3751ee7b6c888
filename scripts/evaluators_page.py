"""The table of all evaluators in docs/evaluation.md: python -m scripts.evaluators_page docs/evaluation.md."""

import argparse
import sys
from collections.abc import Sequence

from xsample_jax.evals.registry import EVALUATORS
from xsample_jax.reports.style import insert, row
from xsample_jax.tools.cli import run_cli


def table() -> str:
    """One row per evaluator: its name in --evals, the names of its metrics, and what it says of itself."""
    rows = [
        row([f"`{name}`", ", ".join(f"`{metric}`" for metric in evaluator.metrics), evaluator.says])
        for name, evaluator in EVALUATORS.items()
    ]
    return "\n".join([row(["name in `--evals`", "metrics", "how"]), "|---|---|---|", *rows])


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.evaluators_page", description=__doc__)
    parser.add_argument("page", help="page that contains the <!-- evaluators --> markers")
    insert(parser.parse_args(arguments).page, "evaluators", table())


if __name__ == "__main__":
    sys.exit(run_cli(main))
