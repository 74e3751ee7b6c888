"""Which code a run is of: a digest of the syntax of what trains and evaluates, which the history of a run records."""

import ast
import functools
import hashlib
import pathlib
import subprocess
from pathlib import Path

from xsample_jax.io.run_dir import log_event, read_history

PACKAGE = Path(__file__).parent.parent
ROOMS = ("augment", "config", "data", "evals", "graphs", "models", "objectives")
FILES = ("loop.py", "ops.py", "optim.py", "setup.py", "sharding.py", "state.py", "step.py")


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


def log_code(folder: pathlib.Path, step: int) -> None:
    """Records that this code trains the run in `folder` from `step` on."""
    log_event(folder, TRAINS, step=step, code=code_version())


def trained_by(folder: pathlib.Path) -> list[dict]:
    """The versions of the code that has trained the run in `folder`, in order; [] where some of it is not recorded."""
    starts = [event for event in read_history(folder) if event["event"] == TRAINS]
    first = [number for number, event in enumerate(starts) if event.get("step") == 0]
    found = [event.get("code") for event in starts[first[-1] :]] if first else []  # from step 0 all begins anew
    if not all(isinstance(one, dict) and "digest" in one for one in found):
        return []
    return [one for number, one in enumerate(found) if one not in found[:number]]
