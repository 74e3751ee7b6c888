"""Prints what a shell completes of all commands, by shtab (extra completion).

xsample completion bash > ~/.local/share/bash-completion/completions/xsample
xsample completion zsh > FOLDER_OF_FPATH/_xsample
xsample completion tcsh > FILE                        # to be sourced
"""

import argparse
import importlib
import sys
from collections.abc import Sequence

from xsample_jax.tools.cli import local_path, program, run_cli

SHELLS = ("bash", "zsh", "tcsh")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program("completion"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shell", choices=SHELLS)
    return parser


def train_parser(config_names: Sequence[str], keys: Sequence[str]) -> argparse.ArgumentParser:
    """The flags of `train`, which reads them by absl, with the names of configs and of config keys."""
    from absl import flags

    importlib.import_module("xsample_jax.main")
    own = flags.FLAGS.flags_by_module_dict()["xsample_jax.main"]
    parser = argparse.ArgumentParser(prog="xsample train")
    for flag in own:
        boolean = {"action": "store_true"} if isinstance(flag.default, bool) else {}
        choices = {"choices": config_names} if flag.name == "config" else {}
        parser.add_argument(f"--{flag.name}", help=flag.help, **boolean, **choices)
    for key in keys:
        parser.add_argument(f"--config.{key}", help="of the config")
    return parser


def whole_parser() -> argparse.ArgumentParser:
    """`xsample` with the parsers of all commands below it; flags that name files say so (`complete`, of shtab)."""
    from xsample_jax.tools.__main__ import COMMANDS, KINDS, TRAIN, command_names, names

    whole = argparse.ArgumentParser(prog="xsample")
    commands = whole.add_subparsers()
    for name, module in command_names().items():
        if name == TRAIN:
            parser = train_parser(list(names("configs")), list(names("keys")))
        else:
            parser = importlib.import_module(f"xsample_jax.{module}").make_parser()
        commands.add_parser(name, help=COMMANDS[module], parents=[parser], add_help=False)
    commands.add_parser("list", help="lists names").add_argument("kind", choices=KINDS)
    for parser in commands.choices.values():
        for action in parser._actions:
            if action.type is local_path or action.dest in ("run", "data", "workdir"):
                action.complete = {"bash": "_shtab_compgen_files", "zsh": "_files", "tcsh": "f"}
    return whole


def run(arguments: Sequence[str]) -> None:
    chosen = make_parser().parse_args(arguments)
    try:
        import shtab
    except ImportError as error:
        raise ImportError(f"completion needs shtab: pip install 'xsample_jax[completion]' ({error})") from error
    print(shtab.complete(whole_parser(), shell=chosen.shell))


def main(arguments: Sequence[str] | None = None) -> int:
    return run_cli(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
