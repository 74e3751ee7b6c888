"""The sources of tools.prepare, by name."""

import dataclasses
import os
from collections.abc import Iterator
from functools import partial

from xsample_jax.data.records import open_records, read_manifest
from xsample_jax.errors import DataError, did_you_mean
from xsample_jax.io.paths import in_bucket
from xsample_jax.prepare.digits import DigitOptions, digits_source, multi_digits_source
from xsample_jax.prepare.example import PASSED, Example, Fields, InputShard, Problem, Source
from xsample_jax.prepare.folder import folder_source
from xsample_jax.prepare.huggingface import hub_source
from xsample_jax.prepare.icons import icons_source
from xsample_jax.prepare.parquet import parquet_source
from xsample_jax.prepare.shapes import shapes_source
from xsample_jax.prepare.vectors import vectors_source
from xsample_jax.prepare.webdataset import webdataset_source

# A finished dataset as a source: other image size, repaired set, set without its broken records.


def records_source(path: str) -> Source:
    """Every shard of every split of a set. Ids, splits, labels, attributes, captions and embeddings stay."""
    manifest = read_manifest(path)
    shards = []
    for split, entry in manifest.splits.items():
        start = 0
        for shard in entry["shards"]:
            read = partial(read_range, path, split, start, start + shard["count"])
            shards.append(InputShard(shard["file"], read, shard["sha256"], split))
            start += shard["count"]
    text_encoder = manifest.text_encoder
    if text_encoder and "stored" in text_encoder:
        text_encoder = {**text_encoder, "stored": "float16"}  # what the reader hands out, whatever is on the disk
    return Source(tuple(shards), manifest.class_names, manifest.attributes, text_encoder)


def read_range(path: str, split: str, start: int, stop: int) -> Iterator[Example | Problem]:
    """Yields the records `start` to `stop` of a split."""
    source = open_records(path, split)
    for i in range(start, stop):
        try:
            record = source[i]
        except DataError as error:
            yield Problem(source.locate(i), "broken_record", str(error.value))
            continue
        yield Example(
            key=str(record["id"]),
            image=record["image"],
            captions=tuple(record["captions"]),
            label=record["label"],
            id=record["id"],
            caption_embeddings=record["caption_embeddings"],
            **{name: record[name] for name in PASSED},
        )


DRAWN = ("shapes", "multi_digits")  # sources that need no input


def set_folder(path: str) -> str:
    """The folder of a dataset, from the root on, or of the embedded emoji set ("emoji")."""
    if path == "emoji":
        from xsample_jax.data.sources import EMOJI_FOLDER  # jax takes seconds, which other sources should not cost

        return str(EMOJI_FOLDER)
    return path if in_bucket(path) else os.path.abspath(path)


def base_source(path: str, shard_size: int) -> Source:
    """The images under pasted digits: the embedded emoji set ("emoji"), a dataset, or a folder of images."""
    if path == "emoji":
        return records_source(set_folder(path))
    if os.path.isfile(os.path.join(path, "manifest.json")):
        return records_source(path)
    return folder_source(path, Fields(), None, False, shard_size)


SHARD_SIZE = 10_000  # images of an input shard of folders and TFDS


NO_DIGITS = DigitOptions()


@dataclasses.dataclass(frozen=True)
class Options:
    """What the flags of tools.prepare say beside --source, --path and the fields; None and "" where not given.

    Attributes:
      table: file with one row per image. split_by_folder: the first folder below the path is the split.
      splits: the shares, only to refuse them beside splits of the source.
      shard_size: images of an input shard of folders and TFDS. digits: of the sources that draw them.
    """

    table: str | None = None
    split_by_folder: bool = False
    splits: str | None = None
    shard_size: int | None = None
    digits: DigitOptions = NO_DIGITS


def open_source(name: str, path: str, fields: Fields, options: Options = Options()) -> Source:
    """Lists the input of a set; flags that a source has no use for are refused."""
    size = options.shard_size or SHARD_SIZE
    columns, splitting = {"--caption_fields", "--label_field", "--class_names"}, {"--splits", "--split_by_folder"}
    sources = {
        "webdataset": (
            columns | splitting | {"--attributes"},
            lambda path: webdataset_source(path, fields, options.split_by_folder),
        ),
        "folder": (
            columns | splitting | {"--attributes", "--image_field", "--label_level", "--table", "--shard_size"},
            lambda path: folder_source(path, fields, options.table, options.split_by_folder, size),
        ),
        "parquet": (
            columns | splitting | {"--attributes", "--image_field"},
            lambda path: parquet_source(path, fields, options.split_by_folder),
        ),
        "hf": (columns | {"--image_field"}, lambda path: hub_source(path, fields)),
        "records": (set(), records_source),
        "icons": ({"--splits"}, icons_source),
        "shapes": ({"--caption_fields"}, lambda path: shapes_source(fields)),
        "digits_on_images": (
            {"--splits", "--shard_size", "--digits", "--canvas"},
            lambda path: digits_source(base_source(path, size), options.digits),
        ),
        "multi_digits": ({"--canvas", "--digit_sizes"}, lambda path: multi_digits_source(options.digits)),
        "vectors": (
            columns | {"--splits", "--attributes", "--image_field", "--shard_size"},
            lambda path: vectors_source(path, fields, size),
        ),
        "tfds": (columns | {"--shard_size"}, lambda path: _tfds_source(path, fields, size)),
    }
    if name not in sources:
        raise DataError("--source", name, f"one of {', '.join(sources)}", did_you_mean(name, sources))
    accepted, make = sources[name]
    path = _checked_path(name, path)
    _check_flags(name, fields, options, accepted)
    source = make(path)
    return _check_splits(source, options.splits, path) if options.splits else source


def _check_splits(source: Source, splits: str, path: str) -> Source:
    """DataError where all input has a split of its own; where some has, the source says so in a note."""
    own = sum(shard.split is not None for shard in source.shards)
    if own and own == len(source.shards):
        fix = "Leave --splits out; files of a table named otherwise than SPLIT-00000-of-00005 have no split."
        raise DataError("--splits", splits, f"nothing: the input in {path} has splits of its own", fix)
    note = f"--splits divides {len(source.shards) - own} of {len(source.shards)} input shards; the others name theirs."
    return dataclasses.replace(source, notes=(*source.notes, note)) if own else source


def _tfds_source(path: str, fields: Fields, size: int) -> Source:
    from xsample_jax.prepare.tfds import tfds_source  # TFDS takes a second, which other sources should not cost

    return tfds_source(path, fields, size)


def _checked_path(name: str, path: str) -> str:
    """The path that a source reads, absolute where it is one; DataError where it is missing or of no use."""
    if path and in_bucket(path) and name not in ("webdataset", "records"):
        fix = "Mount the bucket (Cloud Storage FUSE), or copy it: gcloud storage rsync --recursive."
        raise DataError("--path", path, f"a local path for --source={name}", fix)
    if not path and name not in DRAWN:
        raise DataError("--path", path, f"where the input of --source={name} is", "Add --path=...; see --help.")
    if path and name in DRAWN:
        raise DataError("--path", path, f"nothing for --source={name}, which is drawn", "Leave --path out.")
    word = (name in ("tfds", "hf") and not os.path.isdir(path)) or (name, path) == ("digits_on_images", "emoji")
    # Workers of a cluster have other working directories.
    return os.path.abspath(path) if path and not in_bucket(path) and not word else path


def _check_flags(name: str, fields: Fields, options: Options, accepted: set[str]) -> None:
    given = {
        "--digits": options.digits.used,
        "--canvas": options.digits.canvas,
        "--digit_sizes": options.digits.sizes,
        "--splits": options.splits,
        "--shard_size": options.shard_size,
        "--table": options.table,
        "--split_by_folder": options.split_by_folder,
        "--image_field": fields.image,
        "--caption_fields": fields.captions,
        "--label_field": fields.label,
        "--class_names": fields.class_names,
        "--attributes": fields.attributes,
        "--label_level": fields.label_level,
    }
    for flag, value in given.items():
        if value and flag not in accepted:
            raise DataError(flag, value, f"nothing for --source={name}", f"Leave {flag} out.")
    if options.splits and options.split_by_folder:
        raise DataError("--splits", options.splits, "nothing beside --split_by_folder", "Leave one of them out.")
    if options.table is None and name == "folder" and fields.image:
        raise DataError("--image_field", fields.image, "a --table that has this column", "Give --table=FILE.")
    if options.table is not None and fields.label_level:
        raise DataError("--label_level", fields.label_level, "nothing beside --table", "Use --label_field=COLUMN.")
