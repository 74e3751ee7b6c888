"""Checks a config, its data, the devices, disk and host before a run; reports what is wrong and how to fix it.

    python -m xsample_jax.tools.doctor --config=configs/cc3m.py --config.data.path=data/cc3m [--workdir=runs/cc3m]

One line for each finding; exit code 1 if one of them is a problem. Draws the first batch with its captions (--out).
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from xsample_jax.errors import UserError
from xsample_jax.tools.cli import check_apart, out_file, program, run_cli, split_overrides


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program("doctor"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, help="config file; values are set as --config.KEY=VALUE")
    parser.add_argument("--workdir", default=".", help="folder that the run would write to (default: this one)")
    parser.add_argument(
        "--out", type=partial(out_file, parents=True), default=Path("doctor.png"), help="PNG of the first batch"
    )
    parser.add_argument("--every_file", action="store_true", help="compare the checksums of all files of the set")
    return parser


def run(arguments: Sequence[str]) -> int:
    """Prints the findings; returns the exit code."""
    overrides, arguments = split_overrides(arguments)
    flags = make_parser().parse_args(arguments)
    check_apart(flags, "config")
    from xsample_jax.config import load_config
    from xsample_jax.prepare.prepare import prepare_folder
    from xsample_jax.reports.findings import PROBLEM, diagnose, problems

    try:
        config = prepare_folder(load_config(flags.config, overrides))
        findings = diagnose(config, flags.workdir, flags.out, flags.every_file)
    except UserError as error:
        findings = list(problems("config", error))
    for finding in findings:
        print(finding)
    wrong = sum(finding.level == PROBLEM for finding in findings)
    print(f"{wrong} problem(s)" if wrong else "no problem found")
    return 1 if wrong else 0


def main(arguments: Sequence[str] | None = None) -> int:
    return run_cli(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
