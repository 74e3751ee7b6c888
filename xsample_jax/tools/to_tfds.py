"""Writes a record set as a data set of TFDS, which other tools can read.

    python -m xsample_jax.tools.to_tfds --set=data/cc3m --out=data/tfds

To read it: tfds.builder_from_directory(the folder that is printed).as_data_source("train").
"""

import argparse
import sys
from pathlib import Path

from xsample_jax.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m xsample_jax.tools.to_tfds", description=__doc__.split("\n")[0])
    parser.add_argument("--set", required=True, metavar="FOLDER", help="a record set (it has a manifest.json)")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="data_dir of TFDS")
    chosen = parser.parse_args(arguments)
    from xsample_jax.prepare.tfds import RecordSet  # TFDS takes seconds to import

    try:
        builder = RecordSet(chosen.set, data_dir=str(chosen.out))
        builder.prepare()
    except NotADirectoryError as error:
        print(f"error: --out = {str(chosen.out)!r}: expected a folder ({error})", file=sys.stderr)
        return 2
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{builder.name}: {', '.join(f'{name} {info.num_examples}' for name, info in builder.info.splits.items())}")
    print(builder.data_path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
