"""Features of images, by the encoder of a run: a table for search, clustering or a classifier of your own.

    python -m xsample_jax.tools.encode --run=runs/mine --path=photos --out=photos.parquet
    python -m xsample_jax.tools.encode --run=runs/mine --split=test --out=test.npy     # of the run's dataset

Stopped at any time, it continues when the same command is given again. More: docs/weights.md.
"""

import argparse
import sys
from collections.abc import Sequence

from xsample_jax.errors import DataError
from xsample_jax.tools.cli import local_path, out_file, program, run_cli


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program("encode"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", required=True, metavar="RUN", help="run folder (its --workdir)")
    parser.add_argument("--step", type=int, help="of which checkpoint (default: the newest)")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--path", type=local_path, help="folder of images, searched at any depth, or one image")
    what.add_argument("--split", help="split of a dataset: of --data, or of the one that the run was trained on")
    parser.add_argument("--data", type=local_path, metavar="FOLDER", help="dataset (default: that of the run)")
    parser.add_argument("--out", required=True, type=out_file, metavar="FILE", help=".parquet, .npy or .tsv")
    parser.add_argument("--batch_size", type=int, default=64, help="images at once (default 64)")
    parser.add_argument("--skip_broken", action="store_true", help="leave out images that cannot be decoded")
    return parser


def run(arguments: Sequence[str]) -> None:
    parser = make_parser()
    chosen = parser.parse_args(arguments)
    if chosen.batch_size < 1:
        parser.error("argument --batch_size: expected 1 or more")
    if chosen.data and not chosen.split:
        parser.error("argument --data: needs --split")
    from xsample_jax.augment.ids import VECTOR_CHANNELS
    from xsample_jax.encoder import load_encoder
    from xsample_jax.evals.feature_table import check_out, chosen_images, write_features

    check_out(chosen.out)
    encoder = load_encoder(chosen.run, chosen.step)
    if chosen.path and encoder.channels == VECTOR_CHANNELS:
        fix = "Prepare them (tools.prepare --source=vectors), and give --data=FOLDER --split=NAME."
        raise DataError("--path", str(chosen.path), "no images: this run has an encoder of numbers [E]", fix)
    images = chosen_images(encoder.config.data, chosen.path, chosen.data, chosen.split)
    rows, left_out = write_features(encoder, images, chosen.out, chosen.batch_size, chosen.skip_broken)
    print(f"{rows} rows of features: {chosen.out}" + f" ({left_out} images left out)" * bool(left_out))


def main(arguments: Sequence[str] | None = None) -> int:
    return run_cli(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
