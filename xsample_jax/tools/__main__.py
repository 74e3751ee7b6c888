"""python -m xsample_jax [--list=presets|encoders|evaluators|sources|configs]: lists the commands, or names."""

import argparse
import sys
from collections.abc import Iterator, Sequence

from xsample_jax.tools.cli import run_cli

COMMANDS = {
    "main": "trains what a config says, evaluates it and writes a report",
    "tools.doctor": "checks this machine, a config, a data set or a run folder",
    "tools.embed": "adds caption embeddings to a record set",
    "tools.evaluate": "evaluates a checkpoint",
    "tools.export": "writes the encoder of a run for use elsewhere",
    "tools.generate": "writes images of the generators of a run as a record set",
    "tools.inspect": "shows a record set",
    "tools.local_features": "draws clusters of an encoder's local features over images",
    "tools.prepare": "makes a record set of tars, folders, Parquet or TFDS",
    "tools.report": "compares runs on one HTML page",
    "tools.results_page": "writes the results of a sweep as Markdown",
    "tools.results_table": "writes a table of runs into Markdown files",
    "tools.sweep": "runs a grid of configs",
    "tools.to_tfds": "writes a record set as a TFDS data set",
    "tools.train_tokenizer": "writes the tokenizer of a record set",
}
KINDS = ("presets", "encoders", "evaluators", "sources", "configs")


def names(kind: str) -> list[str]:
    """The names that a config or a flag can have for one of KINDS, evaluators with what they are."""
    if kind == "evaluators":
        from xsample_jax.evals.registry import EVALUATORS

        return [f"{name:<12}{evaluator.says}" for name, evaluator in EVALUATORS.items()]
    if kind == "configs":
        from xsample_jax.config.load import CONFIG_FOLDERS, names_of_configs

        return [name for folder in CONFIG_FOLDERS for name in names_of_configs(folder)]
    from xsample_jax.config.schema import flat_keys

    key = {"presets": "objective.preset", "encoders": "model.encoder", "sources": "objective.graph"}[kind]
    return list(flat_keys()[key].choices)


def lines_of_commands() -> Iterator[str]:
    """One line for each command."""
    width = max(map(len, COMMANDS))
    for name, says in COMMANDS.items():
        yield f"python -m xsample_jax.{name:<{width}}  {says}"


def run(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m xsample_jax", description="Lists the commands, or names.")
    parser.add_argument("--list", choices=KINDS, help="what to list in place of the commands")
    kind = parser.parse_args(arguments).list
    print("\n".join(names(kind) if kind else lines_of_commands()))


def main(arguments: Sequence[str] | None = None) -> int:
    return run_cli(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
