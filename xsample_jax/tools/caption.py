"""Captions of images, by a run with a decoder (objective.preset=coca): one row per image, with its perplexity.

    python -m xsample_jax.tools.caption --run=runs/coca --path=photos --out=captions.jsonl
    python -m xsample_jax.tools.caption --run=runs/coca --data=data/mine --split=test --out=captions.tsv

Every token is the most likely one after those before it. More: docs/rows.md.
"""

import argparse
import sys
from collections.abc import Sequence

from xsample_jax.tools.cli import local_path, out_file, program, run_cli


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program("caption"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", required=True, metavar="RUN", help="run folder (its --workdir)")
    parser.add_argument("--step", type=int, help="of which checkpoint (default: the newest)")
    parser.add_argument("--path", type=local_path, help="folder of images, searched at any depth, or one image")
    parser.add_argument("--split", help="split of --data, or of the dataset of the run (default: its eval.split)")
    parser.add_argument("--data", type=local_path, metavar="FOLDER", help="dataset (default: that of the run)")
    parser.add_argument("--out", required=True, type=out_file, metavar="FILE", help=".jsonl or .tsv")
    parser.add_argument("--batch_size", type=int, default=64, help="images at once (default 64)")
    parser.add_argument("--skip_broken", action="store_true", help="leave out images that cannot be decoded")
    return parser


def run(arguments: Sequence[str]) -> None:
    parser = make_parser()
    chosen = parser.parse_args(arguments)
    if chosen.batch_size < 1:
        parser.error("argument --batch_size: expected 1 or more")
    if chosen.path and (chosen.data or chosen.split):
        parser.error("argument --path: not with --data or --split")
    from xsample_jax.evals.caption_table import check_out, load_captioner, write_captions
    from xsample_jax.evals.feature_table import chosen_images

    check_out(chosen.out)
    captioner = load_captioner(chosen.run, chosen.step)
    config = captioner.loaded.parts.config
    images = chosen_images(config.data, chosen.path, chosen.data, chosen.split or config.eval.split)
    rows, left_out = write_captions(captioner, images, chosen.out, chosen.batch_size, chosen.skip_broken)
    print(f"{rows} captions: {chosen.out}" + f" ({left_out} images left out)" * bool(left_out))


def main(arguments: Sequence[str] | None = None) -> int:
    return run_cli(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
