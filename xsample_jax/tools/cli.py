"""How every command starts and ends: exit codes, one line for an error, old names of flags, `~` in paths.

Commands import what they work with after their flags are parsed, so that --help and a wrong flag cost no time.
"""

import argparse
import hashlib
import io
import os
import pathlib
import platform
import sys
import warnings
from collections.abc import Callable, MutableMapping, Sequence

from xsample_jax.errors import BAD_INPUT, FAILED, ConfigError, UserError
from xsample_jax.io.console import say
from xsample_jax.io.paths import as_path, in_bucket
from xsample_jax.topology import quiet_environment, without_tpu

STOPPED = 130  # by Ctrl-C, as shells have it


def run_cli(run: Callable[[Sequence[str]], int | None], arguments: Sequence[str] | None = None) -> int:
    """Calls `run` with the command line and returns the exit code of the process.

    A UserError is one line `error: ...` and its exit code; wrong flags and files that are missing or cannot be read
    are 2, --help is 0, Ctrl-C is 130, and a reader of the output that has gone away ends the command quietly.
    """
    if without_tpu():  # before jax looks for its devices
        quiet_environment(os.environ)
    keep_programs(os.environ)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what a command has done is said, whatever letters its paths have
            stream.reconfigure(errors="backslashreplace")
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


PROGRAMS, PROGRAMS_SIZE = "JAX_COMPILATION_CACHE_DIR", "JAX_COMPILATION_CACHE_MAX_SIZE"
MOST_PROGRAMS = 2 * 2**30  # bytes; those that were not used for longest go first


def keep_programs(environment: MutableMapping[str, str]) -> None:
    """Lets jax keep what it compiles in the user's cache folder, so that a second start does not compile again.

    To be called before jax is imported. Each kind of processor has a folder of its own: a program for a CPU is made of
    its instructions. Where JAX_COMPILATION_CACHE_DIR is set (to another folder, or to nothing for none), or the folder
    cannot be written, all stays as it is.
    """
    if PROGRAMS in environment:
        return
    try:
        home = environment.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        folder = pathlib.Path(home) / "xsample_jax" / "compiled" / _processor()
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: a user without a home
        return
    if os.access(folder, os.W_OK):
        environment[PROGRAMS] = str(folder)
        environment.setdefault(PROGRAMS_SIZE, str(MOST_PROGRAMS))


def _processor() -> str:
    """A name for the kind of CPU: a hash of its model and instructions, where the system lists them."""
    listed = pathlib.Path("/proc/cpuinfo")
    lines = listed.read_text().splitlines() if listed.exists() else []
    facts = sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    return hashlib.sha256("\n".join([platform.machine(), platform.processor(), *facts]).encode()).hexdigest()[:12]


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


def out_file(text: str, parents: bool = False) -> pathlib.Path:
    """The type of a flag with the file that a command writes at its end; parents: it makes the folder of the file."""
    try:
        return check_out(as_path(text), folder=False, parents=parents)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def out_page(text: str, parents: bool = False) -> pathlib.Path:
    """As `out_file`, for a page that has a folder with its figures beside it."""
    from xsample_jax.io import files

    page = out_file(text, parents)
    out_folder(str(page.with_name(page.stem + files.FIGURES)))
    return page


def out_folder(text: str) -> pathlib.Path:
    """The type of a flag with the folder that a command makes, or writes into, at its end."""
    try:
        return check_out(as_path(text), folder=True)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def check_out(path: pathlib.Path, folder: bool, parents: bool = True, field: str = "path") -> pathlib.Path:
    """`path`, or ConfigError where no such file or folder can be written: nothing is to be computed in vain."""
    from xsample_jax.io import files  # with numpy, which --help need not wait for

    if in_bucket(path):
        return path
    if not folder and path.is_dir():
        raise ConfigError(field, str(path), "a file: this is a folder")
    if not folder and path.name in files.KEPT and os.path.lexists(path):
        raise ConfigError(field, str(path), "another name: this file is of a run or a dataset")
    if folder and (path / files.CHECKPOINTS).is_dir():
        raise ConfigError(field, str(path), "a folder that is not a run, whose files would be replaced")
    if not parents and not path.parent.exists():
        raise ConfigError(field, str(path), "a file in a folder that exists", f"Make it: mkdir -p {path.parent}")
    places = (path, *path.parents) if folder else path.parents
    there = next(place for place in (*places, pathlib.Path()) if os.path.lexists(place))
    if not there.is_dir():
        raise ConfigError(field, str(path), f"a {'folder' if folder else 'file'}: {there} is no folder")
    if not os.access(there, os.W_OK):
        raise ConfigError(field, str(path), f"a path that can be written: {there} cannot")
    return path


def check_apart(chosen: argparse.Namespace, *inputs: str, outs: Sequence[str] = ("out",)) -> None:
    """Raises ConfigError where a flag of `outs` names what an input names, or another of them: it would be replaced."""
    for number, out in enumerate(outs):
        for name in (*outs[:number], *inputs):
            one, other = getattr(chosen, out), getattr(chosen, name)
            if one and other and _same_place(pathlib.Path(one), pathlib.Path(other)):
                raise ConfigError(f"--{out}", str(one), f"another path than --{name}, which it would replace")


def check_outside(chosen: argparse.Namespace, *inputs: str) -> None:
    """Raises ConfigError where --out is below a folder that an input names: it would be read as a part of it."""
    for name in inputs:
        out, folder = str(chosen.out), str(getattr(chosen, name) or "")
        if in_bucket(out) or in_bucket(folder):
            below = bool(folder) and out.startswith(folder.rstrip("/") + "/")
        else:
            whole = as_path(folder) if folder else None
            above = as_path(out).resolve().parents  # of the place behind all links and ..
            below = whole is not None and whole.is_dir() and any(_same_place(whole, parent) for parent in above)
        if below:
            fix = "Choose a folder beside it."
            raise ConfigError("--out", out, f"a folder that is not below --{name}={folder}, which is read", fix)


def _same_place(one: pathlib.Path, other: pathlib.Path) -> bool:
    try:
        return one.resolve() == other.resolve() or one.samefile(other)
    except OSError:  # one of them is not there yet
        return False


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
