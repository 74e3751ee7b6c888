"""How every command starts and ends: exit codes, one line for an error, old names of flags, `~` in paths.

Commands import what they work with after their flags are parsed, so that --help and a wrong flag cost no time.
"""

import argparse
import os
import pathlib
import sys
import warnings
from collections.abc import Callable, Sequence

from xsample_jax.errors import BAD_INPUT, FAILED, UserError
from xsample_jax.io.console import say
from xsample_jax.io.paths import as_path
from xsample_jax.topology import quiet_environment, without_tpu

STOPPED = 130  # by Ctrl-C, as shells have it


def run_cli(run: Callable[[Sequence[str]], int | None], arguments: Sequence[str] | None = None) -> int:
    """Calls `run` with the command line and returns the exit code of the process.

    A UserError is one line `error: ...` and its exit code; wrong flags and files that are missing or cannot be read
    are 2, --help is 0, Ctrl-C is 130, and a reader of the output that has gone away ends the command quietly.
    """
    if without_tpu():  # before jax looks for its devices
        quiet_environment(os.environ)
    warnings.showwarning = show_warning
    try:
        return run(sys.argv[1:] if arguments is None else list(arguments)) or 0
    except SystemExit as end:  # of argparse: 0 for --help, 2 for a wrong flag
        return end.code if isinstance(end.code, int) else BAD_INPUT if end.code else 0
    except UserError as error:
        say(f"error: {error}", error=True)
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at the end
        return FAILED
    except (ImportError, FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        say(f"error: {error}", error=True)  # ImportError: an extra that is not installed
        return BAD_INPUT
    except OSError as error:
        say(f"error: {error}", error=True)
        return FAILED
    except KeyboardInterrupt:
        say("stopped; the same command continues from here", error=True)
        return STOPPED


def program(tool: str) -> str:
    """How a command was called, for its usage line: `xsample NAME`, or `python -m`."""
    return sys.argv[0] if sys.argv[0].startswith("xsample ") else f"python -m xsample_jax.tools.{tool}"


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns (the `--config.key=value` arguments, all the others), both in their order."""
    overrides = [argument for argument in arguments if argument.lstrip("-").startswith("config.")]
    return overrides, [argument for argument in arguments if argument not in overrides]


def local_path(text: str) -> pathlib.Path:
    """The type of a flag that names a file or folder: `~` is expanded, URLs of stores that we cannot reach refused."""
    try:
        return as_path(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    """One line for a warning, in place of `warnings.showwarning`."""
    say(f"warning: {message}", error=True)


def add_renamed(parser: argparse.ArgumentParser, flag: str, old: str, **options) -> None:
    """Adds `flag`, which had the name `old`: that one is accepted with a warning and is not in --help."""
    required = options.pop("required", False)
    group = parser.add_mutually_exclusive_group(required=required)
    name = flag.lstrip("-")
    group.add_argument(flag, dest=name, **options)
    group.add_argument(old, dest=name, help=argparse.SUPPRESS, action=_Renamed, flag=flag)


class _Renamed(argparse.Action):
    def __init__(self, option_strings, dest, flag, **options):
        super().__init__(option_strings, dest, default=argparse.SUPPRESS, **options)
        self.flag = flag

    def __call__(self, parser, namespace, values, option_string=None):
        say(f"warning: {option_string} has the new name {self.flag}", error=True)
        setattr(namespace, self.dest, values)
