"""Writes images of the generators of a run as a dataset, to train another run on.

    python -m xsample_jax.tools.generate --run=runs/hard --out=data/generated --count=20000

The run has been trained with objective.generator. Where its objective reads captions or classes, images are made from
those of its training set and have them. data.mix trains on such a set beside the real one: configs/recipes/adainf.py.
"""

import argparse
import sys
from collections.abc import Sequence

from xsample_jax.errors import ConfigError
from xsample_jax.tools.cli import out_folder, program, run_cli

MOST = 2**31 - 1  # images


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program("generate"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", required=True, metavar="RUN", help="run folder (its --workdir)")
    parser.add_argument("--out", required=True, type=out_folder, metavar="FOLDER", help="the dataset")
    parser.add_argument("--count", type=int, default=10_000, help="images (default 10,000)")
    parser.add_argument("--step", type=int, help="of which checkpoint (default: the newest)")
    parser.add_argument("--split", default="", help="name of the split (default: the run's training split)")
    return parser


def run(arguments: Sequence[str]) -> None:
    chosen = make_parser().parse_args(arguments)
    if not 1 <= chosen.count <= MOST:
        raise ConfigError("--count", chosen.count, f"at least one image, and at most {MOST:,}")
    from xsample_jax.reports.generated_images import write_generated

    manifest = write_generated(chosen.run, chosen.out, chosen.count, chosen.step, chosen.split)
    (split,) = manifest.splits
    print(f"{manifest.splits[split]['count']} images in split {split}: {chosen.out}")


def main(arguments: Sequence[str] | None = None) -> int:
    return run_cli(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
