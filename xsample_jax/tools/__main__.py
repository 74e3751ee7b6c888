"""xsample COMMAND [--flags], also as python -m xsample_jax COMMAND: every command, and lists of names."""

import argparse
import ast
import importlib
import runpy
import sys
from collections.abc import Iterator, Sequence

from xsample_jax import __version__
from xsample_jax.errors import ConfigError, did_you_mean
from xsample_jax.tools.cli import run_cli

COMMANDS = {
    "main": "trains what a config says, evaluates it and writes a report",
    "tools.caption": "writes captions of images by a run with a decoder",
    "tools.cluster": "clusters the records of a split by the features of a run",
    "tools.condense": "condenses a dataset into a few learned images of each class",
    "tools.completion": "prints what a shell completes",
    "tools.doctor": "checks this machine, a config, a dataset or a run folder",
    "tools.embed": "adds caption embeddings to a dataset",
    "tools.encode": "writes features of images as Parquet or NumPy",
    "tools.evaluate": "evaluates a checkpoint",
    "tools.export": "writes the encoder of a run for use elsewhere",
    "tools.filters": "looks at the 3x3 filters of an encoder",
    "tools.generate": "writes images of the generators of a run as a dataset",
    "tools.inspect": "shows a dataset",
    "tools.local_features": "draws clusters of an encoder's local features over images",
    "tools.prepare": "makes a dataset of tars, folders, Parquet or TFDS",
    "tools.report": "compares runs on one HTML page",
    "tools.results_page": "writes the results of a sweep as Markdown",
    "tools.results_table": "writes a table of runs into Markdown files",
    "tools.soup": "averages the weights of runs",
    "tools.sweep": "runs a grid of configs",
    "tools.to_tfds": "writes a dataset as a TFDS dataset",
    "tools.train_tokenizer": "writes the tokenizer of a dataset",
}
TRAIN = "train"  # the name of `main`
KINDS = ("presets", "encoders", "evaluators", "sources", "optimizers", "configs", "keys")


def command_names() -> dict[str, str]:
    """{what follows `xsample`: module below the package}."""
    return {TRAIN if module == "main" else module.removeprefix("tools."): module for module in COMMANDS}


def names(kind: str) -> dict[str, str]:
    """{name that a config or a flag can have: what it means, or ""} for one of KINDS."""
    if kind == "evaluators":
        from xsample_jax.evals.registry import EVALUATORS

        return {name: evaluator.says for name, evaluator in EVALUATORS.items()}
    if kind == "configs":
        from xsample_jax.config.load import CONFIG_FOLDERS, names_of_configs

        found = [(folder, name) for folder in CONFIG_FOLDERS for name in names_of_configs(folder)]
        return {name: _first_line(folder / f"{name}.py") for folder, name in found}
    if kind == "presets":
        from xsample_jax.objectives.presets import PRESETS

        return {name: preset.formula for name, preset in PRESETS.items()}
    from xsample_jax.config.schema import flat_keys

    if kind == "keys":
        return {name: key.help for name, key in flat_keys().items()}
    key = {"encoders": "model.encoder", "sources": "objective.graph", "optimizers": "optimizer.name"}[kind]
    return dict.fromkeys(map(str, flat_keys()[key].choices), "")


def _first_line(path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def as_table(rows: dict[str, str]) -> Iterator[str]:
    """One line for each name, with what it means."""
    width = max(map(len, rows))
    for name, says in rows.items():
        yield f"{name:<{width}}  {says}".rstrip()


def lines_of_commands() -> Iterator[str]:
    """One line for each command."""
    rows = {f"xsample {name}": COMMANDS[module] for name, module in command_names().items()}
    return as_table(rows | {"xsample list": f"lists {', '.join(KINDS[:-1])} or {KINDS[-1]}"})


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="xsample",
        usage="xsample COMMAND [--help] [--flags]",
        description="\n".join(lines_of_commands()),
        epilog="xsample COMMAND --help says more; python -m xsample_jax COMMAND is the same.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--list", choices=KINDS, help="names alone, one a line, for scripts")
    parser.add_argument("--version", action="version", version=__version__)
    return parser


def list_names(arguments: Sequence[str]) -> None:
    """`xsample list KIND`: names and what they mean."""
    parser = argparse.ArgumentParser(prog="xsample list", description="Lists names that configs and flags can have.")
    parser.add_argument("kind", choices=KINDS)
    print("\n".join(as_table(names(parser.parse_args(arguments).kind))))


def run(arguments: Sequence[str]) -> int | None:
    """Lists the commands or names, or starts a command with the rest of the command line."""
    name, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if name == "list":
        return list_names(rest)
    if not name or name.startswith("-"):
        kind = make_parser().parse_args(arguments).list
        print("\n".join(names(kind) if kind else lines_of_commands()))
        return None
    known = command_names()
    name = {"main": TRAIN}.get(name, name.removeprefix("tools.").replace("-", "_"))
    if name not in known:
        raise ConfigError("xsample", name, "a command", did_you_mean(name, [*known, "list"]))
    sys.argv[0] = f"xsample {name}"
    return importlib.import_module(f"xsample_jax.{known[name]}").main(rest)


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments[:1] in ([TRAIN], ["main"]):  # it has exit codes of its own
        sys.argv = [sys.argv[0], *arguments[1:]]
        runpy.run_module("xsample_jax.main", run_name="__main__", alter_sys=True)
        return 0
    return run_cli(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
