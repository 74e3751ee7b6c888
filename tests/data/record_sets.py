"""A small dataset that tests write, read and damage."""

import numpy as np

from xsample_jax.data.writer import write_records

ENCODER = {"name": "test", "revision": "1", "pooling": "mean", "dim": 4, "normalised": True, "template": "{caption}"}


def make_record(number: int) -> dict:
    rng = np.random.default_rng(number)
    return {
        "id": number,
        "image": rng.bytes(40 + number % 7),
        "label": number % 3,
        "captions": [f"caption {number}", "über 🐏"],
        "caption_embeddings": rng.normal(size=(2, 4)).astype(np.float16),
        "attributes": {"style": number % 2},
    }


def write_set(folder, train=25, test=4, **options):
    splits = {"train": map(make_record, range(train)), "test": map(make_record, range(train, train + test))}
    options = {"shard_size": 10, **options}
    return write_records(folder, "tiny", splits, ["a", "b", "c"], {"style": ["x", "y"]}, ENCODER, **options)
