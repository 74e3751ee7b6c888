"""A finished record set as a source: other image size, repaired set, set without its broken records."""

from collections.abc import Iterator
from functools import partial

from xsample_jax.data.manifest import read_manifest
from xsample_jax.data.record_reader import open_records
from xsample_jax.errors import DataError
from xsample_jax.prepare.example import Example, InputShard, Problem, Source


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
            attributes=record["attributes"],
            id=record["id"],
            caption_embeddings=record["caption_embeddings"],
        )
