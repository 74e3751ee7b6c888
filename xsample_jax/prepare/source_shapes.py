"""The controlled set `shapes` as a source: pictures drawn from six known factors, captions that name some of them."""

import io
from collections.abc import Iterator
from functools import partial

import numpy as np

from xsample_jax.prepare.example import Example, InputShard, Source
from xsample_jax.prepare.fields import Fields
from xsample_jax.prepare.shape_drawing import SIZE, draw
from xsample_jax.prepare.shape_factors import CAPTIONS, FACTORS, caption_of, check_factors, factor_vector, factors_of

VERSION = 1  # of the drawings: another number, other pictures
SPLITS = {"train": 8000, "val": 1000, "test": 2000}
PER_SHARD = 2000


def shapes_source(fields: Fields) -> Source:
    """11,000 pictures of the shapes set, drawn from their numbers; the label is the shape, all factors are attributes.

    Captions come with vectors whose cosine is the share of the named factors that agree, so no text model is needed and
    the graph is known exactly.

    Args:
      fields: captions: the factors that the one caption of a picture names; (): four captions, those of CAPTIONS.
    """
    captions = (check_factors(fields.captions),) if fields.captions else CAPTIONS
    shards, start = [], 0
    for split, count in SPLITS.items():
        for first in range(start, start + count, PER_SHARD):
            stop = min(first + PER_SHARD, start + count)
            name = f"shapes {VERSION}, {SIZE} pixels, {first} to {stop - 1}"
            identity = f"{name} {'; '.join('+'.join(named) for named in captions)}"
            shards.append(InputShard(name, partial(draw_range, first, stop, captions), identity, split))
        start += count
    encoder = {
        "name": "factors of shapes",
        "revision": str(VERSION),
        "pooling": "one-hot",
        "dim": sum(map(len, FACTORS.values())),
        "normalised": True,
        "template": "{caption}",
    }
    attributes = {name: list(values) for name, values in FACTORS.items()}
    return Source(tuple(shards), FACTORS["shape"], attributes, encoder)


def draw_range(start: int, stop: int, captions: tuple[tuple[str, ...], ...]) -> Iterator[Example]:
    """Yields the pictures `start` to `stop`, as PNG."""
    for index in range(start, stop):
        values = factors_of(index)
        buffer = io.BytesIO()
        draw(values, index).save(buffer, "PNG")
        yield Example(
            key=str(index),
            image=buffer.getvalue(),
            captions=tuple(caption_of(values, named) for named in captions),
            label=values["shape"],
            attributes=values,
            caption_embeddings=np.stack([factor_vector(values, named) for named in captions]).astype(np.float16),
        )
