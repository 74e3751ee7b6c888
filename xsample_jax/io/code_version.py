"""Which code a run used: a digest of what trains and evaluates, and a fingerprint that its processes compare."""

import ast
import functools
import hashlib
import importlib.metadata
import importlib.resources
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax

from xsample_jax import __version__
from xsample_jax.io.run_dir import log_event, read_history

PACKAGE = Path(__file__).parent.parent
ROOMS = ("augment", "config", "data", "evals", "graphs", "models", "objectives")
FILES = ("loop.py", "optim.py", "setup.py", "sharding.py", "state.py", "step.py")


@functools.cache
def code_digest(package: Path = PACKAGE) -> str:
    """12 hex digits that change with the code that trains and evaluates, not with comments, format or docstrings."""
    files = [package / name for name in FILES]
    files += [path for name in ROOMS for path in sorted((package / name).rglob("*.py"))]
    found = hashlib.sha256()
    for path in files:
        found.update(str(path.relative_to(package)).encode())
        found.update(_syntax(path).encode())
    return found.hexdigest()[:12]


def _syntax(path: Path) -> str:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return syntax_text(tree)


def syntax_text(node: object) -> str:
    """A syntax tree as text. Fields that are None or [] are left out: newer Pythons have more of them."""
    if isinstance(node, ast.AST):
        fields = ((name, getattr(node, name, None)) for name in node._fields)
        told = [f"{name}={syntax_text(value)}" for name, value in fields if value is not None and value != []]
        return f"{type(node).__name__}({','.join(told)})"
    return f"[{','.join(map(syntax_text, node))}]" if isinstance(node, list) else repr(node)


@functools.cache
def code_version() -> dict:
    """{digest, commit, modified}: of the code that runs; commit and modified are None outside a checkout of git."""

    def git(*words: str) -> str | None:
        command = ["git", "-C", str(PACKAGE), *words]
        try:
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return None

    commit, changed = git("rev-parse", "HEAD"), git("status", "--porcelain", "--", str(PACKAGE))
    return {"digest": code_digest(), "commit": commit, "modified": None if changed is None else bool(changed)}


# What has trained a run: every start and every resume is a line of its history.


TRAINS = "training starts"


def log_code(folder: Path, step: int) -> None:
    """Records that this code trains the run in `folder` from `step` on."""
    log_event(folder, TRAINS, step=step, code=code_version())


def trained_by(folder: Path) -> list[dict]:
    """The versions of the code that has trained the run in `folder`, in order; [] where some of it is not recorded."""
    starts = [event for event in read_history(folder) if event["event"] == TRAINS]
    first = [number for number, event in enumerate(starts) if event.get("step") == 0]
    found = [event.get("code") for event in starts[first[-1] :]] if first else []  # from step 0 everything starts again
    if not all(isinstance(one, dict) and "digest" in one for one in found):
        return []
    return [one for number, one in enumerate(found) if one not in found[:number]]


# What changes the numbers of a run besides its config: the package's code, its libraries, and the environment.
#
# Processes that differ in any of it would train apart without an error, so they compare it before they start.


LIBRARIES = (
    "jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint", "pillow", "libtpu", "jax-cuda12-plugin",
    "jax-cuda13-plugin",
)  # fmt: skip
VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE")
# Flags in these variables that say how many devices a process has and where it writes, which may differ.
OF_THE_MACHINE = ("--xla_force_host_platform_device_count", "--xla_dump")
SETTINGS = (
    "jax_enable_x64", "jax_default_matmul_precision", "jax_default_prng_impl", "jax_threefry_partitionable",
    "jax_numpy_dtype_promotion",
)  # fmt: skip
HEADER_OF_PYC = 16  # bytes, the time of compilation among them


def fingerprint(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """{name: text} of all that two processes of a run must have in common; "" where there is none.

    "code" has a line for each source file of the package. XLA's flags leave out OF_THE_MACHINE. What jax reads from
    the environment (JAX_ENABLE_X64, JAX_DEFAULT_MATMUL_PRECISION) is taken from its settings.
    """
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    same = {"xsample_jax": __version__, "code": _code("xsample_jax"), "Python": python}
    same |= {name: _version(name) for name in LIBRARIES}
    for name in VARIABLES:
        flags = environment.get(name, "").split()
        same[name] = " ".join(flag for flag in flags if not flag.startswith(OF_THE_MACHINE))
    return same | {name: str(getattr(jax.config, name, "")) for name in SETTINGS}


def differing_files(ours: str, theirs: str) -> str:
    """Words for how the code of two processes differs: the files."""
    lines = set(ours.splitlines()) ^ set(theirs.splitlines())
    files = sorted({line.partition(" ")[0] for line in lines})
    return ", ".join(files[:3]) + (f" and {len(files) - 3} more files" if len(files) > 3 else "")


def _version(library: str) -> str:
    try:
        return str(importlib.metadata.version(library))
    except importlib.metadata.PackageNotFoundError:
        return ""


@functools.cache
def _code(package: str) -> str:
    """A line "file hash" for each source file of a package, in a folder or a zip file, sorted by name."""
    found = dict(_files(importlib.resources.files(package), ""))
    lines = []
    for name in sorted(found):
        if name.endswith(".pyc") and name.removesuffix("c") in found:
            continue  # the source counts
        content = found[name].read_bytes()[HEADER_OF_PYC if name.endswith(".pyc") else 0 :]
        lines.append(f"{name} {hashlib.sha256(content).hexdigest()[:16]}")
    return "\n".join(lines)


def _files(folder, prefix: str) -> Iterator[tuple[str, object]]:
    for path in folder.iterdir():
        if path.name.endswith((".py", ".pyc")):
            yield prefix + path.name, path
        elif path.name != "__pycache__" and path.is_dir():
            yield from _files(path, f"{prefix}{path.name}/")
