"""Writes docs/config.md from the schema: `python -m xsample_jax.config.manual docs/config.md`."""

import pathlib
import sys

from xsample_jax.config.key import Key, describe
from xsample_jax.config.schema import SCHEMA
from xsample_jax.io.files import atomic_write

INTRODUCTION = """\
# Config keys

<!-- Generated from xsample_jax/config/schema*.py by `make docs`; edit those files, not this one. -->

    python -m xsample_jax.main --config=quickstart --workdir=runs/a --config.optimizer.learning_rate=3e-3

A config is this tree with some values changed, in this order:

1. the defaults below;
2. a Python file, `--config=configs/quickstart.py`, or its name anywhere, `--config=quickstart`.
   Its `get_config(arg)` changes what `default_config()` returns; `arg` is what follows a colon, as
   in `--config=quickstart:simclr,smoke`;
3. the command line, `--config.optimizer.learning_rate=3e-3`, for every key.

On the command line tuples are written `512,256` or `(512,256)` (one element: `512`; none: `()`).
`None` stands for no value, switches are `true` and `false`, and integers may be written as `1e5`.
All mistakes are reported at once, each with the expected value and a fix.
Earlier names of keys are accepted for one release, with a warning that names the new one.
The resolved config is saved as `config.json` in the run folder.
"""


def render() -> str:
    """Returns the text of docs/config.md."""
    top = {name: entry for name, entry in SCHEMA.items() if isinstance(entry, Key)}
    parts = [INTRODUCTION, "## The run", _table(top)]
    return "\n".join(parts + [block for name in SCHEMA if name not in top for block in _section(SCHEMA[name], name)])


def _section(section: dict, path: str) -> list[str]:
    own = {f"{path}.{name}": entry for name, entry in section.items() if isinstance(entry, Key)}
    blocks = [f"## {path}", _table(own)]
    for name, entry in section.items():
        if isinstance(entry, dict):
            blocks += _section(entry, f"{path}.{name}")
    return blocks


def _table(keys: dict[str, Key]) -> str:
    start = " Only read when a run starts."
    rows = [f"| `{name}` | {_default(k)} | {describe(k)} | {k.help}{start * k.start} |" for name, k in keys.items()]
    return "\n".join(["", "| key | default | value | meaning |", "|---|---|---|---|", *rows, ""])


def _default(key: Key) -> str:
    if isinstance(key.default, tuple):
        elements = [f"{element:.4g}" if isinstance(element, int | float) else repr(element) for element in key.default]
        return f"`({', '.join(elements)}{',' if len(elements) == 1 else ''})`"
    return f"`{key.default}`"


if __name__ == "__main__":
    atomic_write(pathlib.Path(sys.argv[1]), lambda partial: partial.write_text(render()))
