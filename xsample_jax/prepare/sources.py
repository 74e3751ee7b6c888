"""Sources by name."""

import os
from collections.abc import Callable, Iterator
from functools import partial

from xsample_jax.data.records import open_records, read_manifest
from xsample_jax.data.sources import EMOJI_FOLDER
from xsample_jax.errors import DataError, did_you_mean
from xsample_jax.io.paths import in_bucket
from xsample_jax.prepare.digits import DigitOptions, digits_source, multi_digits_source
from xsample_jax.prepare.example import PASSED, Example, Fields, InputShard, Problem, Source
from xsample_jax.prepare.folder import folder_source
from xsample_jax.prepare.icons import icons_source
from xsample_jax.prepare.parquet import parquet_source
from xsample_jax.prepare.shapes import shapes_source
from xsample_jax.prepare.tfds import tfds_source
from xsample_jax.prepare.webdataset import webdataset_source

# A finished record set as a source: other image size, repaired set, set without its broken records.


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


def base_source(path: str, shard_size: int) -> Source:
    """The pictures under pasted digits: the embedded emoji set ("emoji"), a record set, or a folder of pictures."""
    if path == "emoji":
        return records_source(str(EMOJI_FOLDER))
    if os.path.isfile(os.path.join(path, "manifest.json")):
        return records_source(path)
    return folder_source(path, Fields(), None, False, shard_size)


SHARD_SIZE = 10_000  # pictures of an input shard of folders and TFDS


def _sources(
    path: str, fields: Fields, table: str | None, split_by_folder: bool, shard_size: int, digits: DigitOptions
) -> dict[str, tuple[set[str], Callable[[], Source]]]:
    """{name: (flags that it takes, what lists it)} of every source."""
    columns, splitting = {"--caption_fields", "--label_field", "--class_names"}, {"--splits", "--split_by_folder"}
    return {
        "webdataset": (
            columns | splitting | {"--attributes"},
            lambda: webdataset_source(path, fields, split_by_folder),
        ),
        "folder": (
            columns | splitting | {"--shard_size", "--table", "--image_field", "--attributes", "--label_level"},
            lambda: folder_source(path, fields, table, split_by_folder, shard_size),
        ),
        "parquet": (
            columns | splitting | {"--attributes", "--image_field"},
            lambda: parquet_source(path, fields, split_by_folder),
        ),
        "records": (set(), lambda: records_source(path)),
        "icons": ({"--splits"}, lambda: icons_source(path)),
        "shapes": ({"--caption_fields"}, lambda: shapes_source(fields)),
        "digits_on_images": (
            {"--splits", "--shard_size", "--digits", "--canvas"},
            lambda: digits_source(base_source(path, shard_size), digits),
        ),
        "multi_digits": ({"--canvas", "--digit_sizes"}, lambda: multi_digits_source(digits)),
        "tfds": (columns | {"--shard_size"}, lambda: tfds_source(path, fields, shard_size)),
    }


def open_source(
    name: str,
    path: str,
    fields: Fields,
    table: str | None = None,
    split_by_folder: bool = False,
    splits: str | None = None,
    shard_size: int | None = None,
    digits: DigitOptions | None = None,
) -> Source:
    """Lists the input of a set; arguments that a source has no use for are refused (splits=, the shares, too)."""
    digits = digits or DigitOptions()
    given = {
        "--digits": digits.used,
        "--canvas": digits.canvas,
        "--digit_sizes": digits.sizes,
        "--splits": splits,
        "--shard_size": shard_size,
        "--table": table,
        "--split_by_folder": split_by_folder,
        "--image_field": fields.image,
        "--caption_fields": fields.captions,
        "--label_field": fields.label,
        "--class_names": fields.class_names,
        "--attributes": fields.attributes,
        "--label_level": fields.label_level,
    }
    sources = _sources(path, fields, table, split_by_folder, shard_size or SHARD_SIZE, digits)
    if name not in sources:
        raise DataError("--source", name, f"one of {', '.join(sources)}", did_you_mean(name, sources))
    accepted, make = sources[name]
    if path and in_bucket(path) and name not in ("webdataset", "records"):
        fix = "Mount the bucket (Cloud Storage FUSE), or copy it: gcloud storage rsync --recursive."
        raise DataError("--path", path, f"a local path for --source={name}", fix)
    if not path and name not in DRAWN:
        raise DataError("--path", path, f"where the input of --source={name} is", "Add --path=...; see --help.")
    word = (name == "tfds" and not os.path.isdir(path)) or (name, path) == ("digits_on_images", "emoji")
    if path and not in_bucket(path) and not word:
        path = os.path.abspath(path)  # workers of a cluster have other working directories
    if path and name in DRAWN:
        raise DataError("--path", path, f"nothing for --source={name}, which is drawn", "Leave --path out.")
    for flag, value in given.items():
        if value and flag not in accepted:
            raise DataError(flag, value, f"nothing for --source={name}", f"Leave {flag} out.")
    if splits and split_by_folder:
        raise DataError("--splits", splits, "nothing beside --split_by_folder", "Leave one of them out.")
    if table is None and name == "folder" and fields.image:
        raise DataError("--image_field", fields.image, "a --table that has this column", "Give --table=FILE.")
    if table is not None and fields.label_level:
        raise DataError("--label_level", fields.label_level, "nothing beside --table", "Use --label_field=COLUMN.")
    return make()
