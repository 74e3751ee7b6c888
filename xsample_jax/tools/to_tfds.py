"""Writes a dataset as a dataset of TFDS, which other tools can read.

    python -m xsample_jax.tools.to_tfds --data=data/cc3m --out=data/tfds

To read it: tfds.builder_from_directory(the folder that is printed).as_data_source("train").
"""

import argparse
import sys
from collections.abc import Sequence

from xsample_jax.errors import ConfigError
from xsample_jax.tools.cli import add_renamed, out_folder, program, run_cli


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=program("to_tfds"), description=__doc__.split("\n")[0])
    add_renamed(parser, "--data", "--set", required=True, metavar="FOLDER", help="a dataset (with a manifest.json)")
    parser.add_argument("--out", required=True, type=out_folder, metavar="FOLDER", help="data_dir of TFDS")
    return parser


def run(arguments: Sequence[str]) -> None:
    chosen = make_parser().parse_args(arguments)
    from xsample_jax.prepare.tfds import RecordSet  # TFDS takes seconds to import

    try:
        builder = RecordSet(chosen.data, data_dir=str(chosen.out))
        builder.prepare()
    except NotADirectoryError as error:
        raise ConfigError("--out", str(chosen.out), f"a folder ({error})") from None
    print(f"{builder.name}: {', '.join(f'{name} {info.num_examples}' for name, info in builder.info.splits.items())}")
    print(builder.data_path)


def main(arguments: Sequence[str] | None = None) -> int:
    return run_cli(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
