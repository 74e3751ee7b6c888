"""Looks at the 3x3 filters of an encoder: which are dead, how varied they are, and how two runs differ. Needs no data.

    python -m xsample_jax.tools.filters --run=runs/mine --out=filters.html
    python -m xsample_jax.tools.filters --run=runs/mine --against=runs/other

Prints a table and writes one page and its image as PNG beside it (docs/reports.md).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from xsample_jax.tools.cli import out_page, program, run_cli


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program("filters"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", required=True, metavar="RUN", help="RUN or RUN/checkpoints/STEP")
    parser.add_argument("--against", metavar="RUN", help="another run, to compare their distributions")
    parser.add_argument("--out", type=out_page, default=Path("filters.html"), help="page to write (%(default)s)")
    return parser


def run(arguments: Sequence[str]) -> None:
    chosen = make_parser().parse_args(arguments)
    from xsample_jax.encoder import load_encoder
    from xsample_jax.io.paths import local_copy_of
    from xsample_jax.reports.filters import write_filters

    names = [name for name in (chosen.run, chosen.against) if name is not None]
    runs = [(name, load_encoder(name)) for name in names]
    with local_copy_of(chosen.out) as out:
        lines = write_filters(runs, out)
    print("\n".join([*lines, str(chosen.out)]))


def main(arguments: Sequence[str] | None = None) -> int:
    return run_cli(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
