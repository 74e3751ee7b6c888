"""Makes a dataset from your data: tars of img2dataset, a folder of images, a TFDS dataset, another dataset.

    python -m xsample_jax.tools.prepare --source=webdataset --path='cc3m/*.tar' --out=data/cc3m --require_caption
    python -m xsample_jax.tools.prepare --source=folder --path=imagenet --split_by_folder --out=data/imagenet
    python -m xsample_jax.tools.prepare --source=folder --path=photos --table=photos.csv --out=data/photos --embed
    python -m xsample_jax.tools.prepare --source=hf --path=USER/NAME --out=data/NAME
    python -m xsample_jax.tools.prepare --source=tfds --path=imagenet2012:5.1.0 --out=data/imagenet
    python -m xsample_jax.tools.prepare --source=records --path=data/big --size=128 --out=data/small
    python -m xsample_jax.tools.prepare --source=icons --path=data/npm --splits=train=0.98,val=0.02 --out=data/icons
    python -m xsample_jax.tools.prepare --source=shapes --out=data/shapes
    python -m xsample_jax.tools.prepare --source=digits_on_images --path=emoji --digits=16 --out=data/digits_on_emoji
    python -m xsample_jax.tools.prepare --source=multi_digits --digit_sizes=20,80 --out=data/digits_20_80

Stopped or killed, it continues when the same command is given again, and ends with the same bytes. docs/data.md says
what happens to unusual and damaged images and captions. Flags it does not know go to the Beam runner that --runner
names.
"""

import argparse
import dataclasses
import difflib
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from xsample_jax.errors import DataError
from xsample_jax.io.paths import absolute
from xsample_jax.tools.cli import check_apart, check_outside, local_path, out_folder, program, run_cli


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program("prepare"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--source",
        required=True,
        help="webdataset, folder, parquet, hf, tfds, records, vectors, icons, shapes, digits_on_images or multi_digits",
    )
    parser.add_argument(
        "--path",
        default="",
        help="folder, pattern in quotes, or name of TFDS or the Hugging Face hub; of icons: where its npm package is "
        "or goes; of digits_on_images: emoji, a dataset or a folder; of shapes and multi_digits: none",
    )
    parser.add_argument("--out", required=True, type=out_folder, help="folder of the new set, here or gs://BUCKET/NAME")
    parser.add_argument("--name", help="name of the set (default: that of the folder)")
    parser.add_argument("--size", type=int, default=256, help="shrink to this short side; 0: never (default 256)")
    parser.add_argument("--quality", type=int, default=92, help="of the JPEGs that are written (default 92)")
    parser.add_argument("--raw", action="store_true", help="store bare pixels of a square, for small sets")
    parser.add_argument("--fit", default="crop", help="of --raw: crop (the center square, default) or pad (all of it)")
    parser.add_argument("--splits", help="shares by a hash of the key, as train=0.98,val=0.02 (default: all is train)")
    parser.add_argument("--split_by_folder", action="store_true", help="the first folder below --path is the split")
    parser.add_argument(
        "--split_by_image", action="store_true", help="shares by a hash of the image: equal images are in one split"
    )
    parser.add_argument("--label_level", default="", help="of folders: path, or the level that is the label, from 1")
    parser.add_argument("--attributes", default="", help="columns, JSON entries or levels of folders, with commas")
    parser.add_argument("--table", help="of --source=folder: .csv, .tsv, .jsonl or .parquet")
    parser.add_argument("--image_field", default="", help="column with paths relative to --path, images, or vectors")
    parser.add_argument("--caption_fields", default="", help="columns, JSON entries, features or factors, with commas")
    parser.add_argument("--label_field", default="", help="column, JSON entry or feature with a number or a class name")
    parser.add_argument("--class_names", type=local_path, help="file with the name of class 0, 1, ... on each line")
    add_choice(parser)
    parser.add_argument(
        "--embed",
        nargs="?",
        const="",
        metavar="MODEL",
        help="then embed the captions, as tools.embed does",
    )
    parser.add_argument("--shard_size", type=int, help="images per input shard of folders and TFDS (default 10000)")
    parser.add_argument("--digits", type=int, help="of digits_on_images: how many different ones (default 16)")
    parser.add_argument("--canvas", type=int, help="of sources with digits: side in pixels (default 64; multi: 112)")
    parser.add_argument(
        "--digit_sizes", default="", help="of multi_digits: sides of its digits, as 20,80 (default 20,20)"
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="on this machine (default: its CPUs)")
    parser.add_argument("--runner", help="work on Apache Beam instead: DirectRunner, DataflowRunner, FlinkRunner, ...")
    return parser


def add_choice(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say which records a set is made without."""
    parser.add_argument(
        "--leave_out",
        action="append",
        default=[],
        metavar="ATTRIBUTE=VALUES",
        help="leave out the records with these values, as style=noto,twemoji; can be given several times",
    )
    parser.add_argument(
        "--leave_out_near", metavar="SET", help="leave out near images of a dataset (a folder or emoji)"
    )
    parser.add_argument("--require_caption", action="store_true", help="drop images without a caption")


def run(arguments: list[str]) -> None:
    """Does what the command line says."""
    parser = make_parser()
    flags, others = parser.parse_known_args(arguments)
    ours = [option for action in parser._actions for option in action.option_strings]
    for flag in others:
        meant = difflib.get_close_matches(flag.partition("=")[0], ours, n=1, cutoff=0.85)
        if meant or not flags.runner:  # Beam only warns about flags it does not know, and continues without
            parser.error(f"unrecognized arguments: {flag}" + (f" (did you mean {meant[0]}?)" if meant else ""))
    if flags.shard_size is not None and flags.shard_size < 1:
        raise DataError("--shard_size", flags.shard_size, "at least 1")
    check_apart(flags, "path", "leave_out_near")
    check_outside(flags, "path")
    from xsample_jax.prepare.prepare import beam_runner, local_runner, prepare, summary

    job = read_job(flags)
    runner = beam_runner(flags.runner, others) if flags.runner else local_runner(flags.processes)
    embed = None if flags.embed is None else open_embedding(flags.embed)  # a wrong name is found before the work
    manifest, report = prepare(job, flags.out, runner)
    if embed:
        manifest = embed(flags.out).manifest
    for line in summary(manifest, report, flags.out):
        print(line)


def open_embedding(name: str) -> Callable:
    """embed_set(folder) by the text encoder of this name or folder, "" for the usual one: it alone needs jax."""
    from xsample_jax.captions.embed import embed_set
    from xsample_jax.captions.encoders import open_encoder
    from xsample_jax.captions.sentence_model import DEFAULT_ENCODER

    return partial(embed_set, encoder=open_encoder(name or DEFAULT_ENCODER))


def read_job(flags: argparse.Namespace):
    """The Job of the flags; DataError or ConfigError for what does not go together."""
    from xsample_jax.prepare.digits import DigitOptions
    from xsample_jax.prepare.example import Fields
    from xsample_jax.prepare.job import ImageOptions, Job
    from xsample_jax.prepare.leave_out import LeftOut, leave_out, parse_left_out
    from xsample_jax.prepare.prepare import NOT_LISTED, check_place
    from xsample_jax.prepare.shards import parse_splits
    from xsample_jax.prepare.sources import Options, open_source, set_folder

    if flags.split_by_image and not flags.splits:
        raise DataError("--split_by_image", True, "shares beside it", "Add --splits=train=0.98,val=0.02.")
    fields = Fields(
        captions=tuple(filter(None, flags.caption_fields.split(","))),
        label=flags.label_field,
        image=flags.image_field,
        class_names=read_class_names(flags.class_names) if flags.class_names else (),
        attributes=tuple(filter(None, flags.attributes.split(","))),
        label_level=flags.label_level,
    )
    options = Options(
        flags.table,
        flags.split_by_folder,
        flags.splits,
        flags.shard_size,
        DigitOptions(flags.digits, flags.canvas, read_sizes(flags.digit_sizes)),
    )
    job = Job(
        flags.name or absolute(flags.out, "--out").resolve().name,
        NOT_LISTED,
        parse_splits(flags.splits or "train=1"),
        ImageOptions(flags.size or None, flags.quality, flags.raw, flags.fit),
        flags.require_caption,
        flags.split_by_image,
        tuple(flag for flag in ("--caption_fields", "--label_field", "--class_names") if vars(flags)[flag[2:]]),
    )
    check_place(job, flags.out)  # before a listing, which may take minutes
    source = open_source(flags.source, flags.path, fields, options)
    near = set_folder(flags.leave_out_near) if flags.leave_out_near else None
    return dataclasses.replace(job, source=leave_out(source, LeftOut(parse_left_out(flags.leave_out, source), near)))


def read_sizes(text: str) -> tuple[int, ...]:
    """ "20,80" -> (20, 80); DataError for anything but numbers."""
    try:
        return tuple(int(part) for part in filter(None, text.split(",")))
    except ValueError:
        raise DataError("--digit_sizes", text, "whole numbers with commas, as 20,80") from None


def read_class_names(path: Path) -> tuple[str, ...]:
    """The lines of a text file; DataError where there is none."""
    from xsample_jax.io.files import read_lines

    names = tuple(read_lines(path, "--class_names"))
    if not names:
        raise DataError("--class_names", str(path), "a file with a name on each line", "It is empty.")
    return names


def main(arguments: list[str] | None = None) -> int:
    return run_cli(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
