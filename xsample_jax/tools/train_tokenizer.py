"""Writes the tokenizer.json of a dataset, which text towers that are trained from scratch read.

python -m xsample_jax.tools.train_tokenizer --data=data/cc3m [--vocab=32768] [--captions=2000000]
"""

import argparse
import sys
from collections.abc import Iterator, Sequence

from xsample_jax.errors import ConfigError, DataError
from xsample_jax.io.paths import as_path
from xsample_jax.tools.cli import add_renamed, program, run_cli

LIMITS = {"vocab": (259, 2**24), "captions": (1, 2**40)}  # 259: every byte and the special tokens


def sampled_captions(source, most: int) -> Iterator[str]:
    """All captions of records of a RecordSource, spread evenly over the split: all there are, or `most`."""
    import numpy as np

    from xsample_jax.metrics.progress_bar import progress

    places = np.linspace(0, len(source) - 1, min(most, len(source))).astype(int)
    for place in progress(places, "captions", len(places)):
        yield from source[place]["captions"]


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=program("train_tokenizer"), description=__doc__.split("\n")[0])
    add_renamed(parser, "--data", "--set", required=True, metavar="FOLDER", help="a dataset with captions")
    parser.add_argument("--split", default="train", help="of which the captions are (default: %(default)s)")
    parser.add_argument("--vocab", type=int, default=32_768, help="most entries (default: %(default)s)")
    parser.add_argument("--captions", type=int, default=2_000_000, help="most records read (default: %(default)s)")
    return parser


def run(arguments: Sequence[str]) -> None:
    chosen = make_parser().parse_args(arguments)
    for name, (low, high) in LIMITS.items():
        if not low <= getattr(chosen, name) <= high:
            raise ConfigError(f"--{name}", getattr(chosen, name), f"a number from {low:,} to {high:,}")
    from xsample_jax.data.captions import TOKENIZER, train_tokenizer
    from xsample_jax.data.records import open_records

    path = as_path(chosen.data, "--data") / TOKENIZER
    if path.exists():
        raise DataError("--data", str(path), "a set without a tokenizer", "Remove it first: models depend on it.")
    captions = list(sampled_captions(open_records(chosen.data, chosen.split), chosen.captions))
    if not captions:
        raise DataError("captions", 0, f"at least one in split {chosen.split}", "Prepare the set with captions.")
    tokenizer = train_tokenizer(captions, chosen.vocab, path)
    print(f"{path}: {tokenizer.get_vocab_size()} entries, of {len(captions)} captions")


def main(arguments: Sequence[str] | None = None) -> int:
    return run_cli(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
