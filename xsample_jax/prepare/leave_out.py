"""Leaving records out: those with some value of an attribute, and those whose image is in another dataset."""

import csv
import dataclasses
import functools
import io
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from xsample_jax.data.decode import decode_image, on_white
from xsample_jax.data.records import open_records, read_manifest
from xsample_jax.errors import DataError, did_you_mean
from xsample_jax.prepare.example import Example, InputShard, Problem, Source, chunks

GRID = 8  # an image is compared as the mean ink (1 - color) of 8 x 8 squares
SIDE = 64  # pixels of the image that they are taken of
# Distance up to which two images are alike, as a share of the longer of the two. Of drawings, copies are below 0.05 and
# round buttons with one sign or another from 0.1 on.
NEAR = 0.1
AT_ONCE = 256  # images that are compared in one product


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """What is left out.

    Attributes:
      attributes: {attribute: numbers of its values}; a record with one of them goes.
      near: folder of a dataset; a record whose image is nearly one of its images goes. None: no such set.
    """

    attributes: Mapping[str, tuple[int, ...]]
    near: str | None = None


def parse_left_out(texts: Sequence[str], source: Source) -> dict[str, tuple[int, ...]]:
    """Reads "style=noto,twemoji": {attribute: numbers of its values}; a value with a comma is in double quotes.

    Raises DataError: not ATTRIBUTE=VALUE, or an attribute or value that the source does not have.
    """
    found: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not equals:
            raise DataError("--leave_out", text, "ATTRIBUTE=VALUE,VALUE", "As in style=noto,twemoji.")
        if name not in source.attributes:
            expected = f"an attribute of the input: {', '.join(source.attributes) or 'it has none'}"
            raise DataError("--leave_out", name, expected, did_you_mean(name, source.attributes))
        names = list(source.attributes[name])
        for value in next(csv.reader(io.StringIO(values, newline="")), []) or [""]:
            if value not in names:
                quotes = " A value with a comma is in double quotes." * any("," in one for one in names)
                raise DataError("--leave_out", value, f"a value of {name}", did_you_mean(value, names) + quotes)
            found[name] = (*found.get(name, ()), names.index(value))
    return found


def leave_out(source: Source, left_out: LeftOut) -> Source:
    """The source without these records; each has a line among the problems. Other records, ids and names stay."""
    if not left_out.attributes and left_out.near is None:
        return source
    rule = {name: sorted(numbers) for name, numbers in left_out.attributes.items()}
    known = read_manifest(left_out.near).fingerprint if left_out.near is not None else None
    identity = f"without {sorted(rule.items())} and images of {known}"
    shards = [
        InputShard(shard.name, partial(_read_others, shard, left_out), f"{shard.identity} {identity}", shard.split)
        for shard in source.shards
    ]
    return dataclasses.replace(source, shards=tuple(shards))


def _read_others(shard: InputShard, left_out: LeftOut) -> Iterator[Example | Problem]:
    """Yields what the shard has, with a problem in place of every record that is left out."""
    for items in chunks(shard.read(), AT_ONCE):
        kept = [_without_attributes(item, left_out.attributes) for item in items]
        yield from kept if left_out.near is None else _without_near(kept, left_out.near)


def _without_attributes(item: Example | Problem, attributes: Mapping[str, tuple[int, ...]]) -> Example | Problem:
    if isinstance(item, Example):
        for name, numbers in attributes.items():
            if item.attributes.get(name) in numbers:
                return Problem(item.key, "left_out", name)
    return item


def _without_near(items: list[Example | Problem], near: str) -> list[Example | Problem]:
    """The examples whose image is not near any image of the dataset `near`; images that do not decode stay."""
    places, ink = [], []
    for place, item in enumerate(items):
        if isinstance(item, Example):
            try:
                ink.append(mean_ink(item.image))
            except DataError:  # it is reported where images are prepared
                continue
            places.append(place)
    if not places:
        return items
    known, names = _ink_of(near)
    nearest, distance = nearest_images(np.stack(ink), known)
    result = list(items)
    for place, index, far in zip(places, nearest, distance, strict=True):
        if far <= NEAR:
            result[place] = Problem(items[place].key, "near_image", f"{far:.3f} from {names[index]}")
    return result


def nearest_images(ink: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each image [n, F] the nearest of the known ones [m, F]: (index int [n], distance [n], 0 to about 1.4).

    The distance of two rows is that of their difference over that of the longer one: thin lines are nearly white
    everywhere, and alike only if what is drawn is.
    """
    length, known_length = (np.linalg.norm(rows, axis=1) for rows in (ink, known))
    squares = length[:, None] ** 2 + known_length**2 - 2 * ink @ known.T
    longer = np.maximum(np.maximum(length[:, None], known_length), 1e-6)
    distance = np.sqrt(np.maximum(squares, 0)) / longer
    index = distance.argmin(axis=1)
    return index, distance[np.arange(len(ink)), index]


def mean_ink(image: bytes) -> np.ndarray:
    """1 - the mean colors of the squares of a grid over an encoded image, float32 [GRID * GRID * 3], 0 to 1.

    The whole image is seen; what is transparent is white, and so are the bars beside one that is not square: they hold
    no ink. Raises DataError for what does not decode.
    """
    pixels = on_white(decode_image(image, SIDE, 4, fit="pad")).astype(np.float32) / 255
    block = SIDE // GRID
    return 1 - pixels.reshape(GRID, block, GRID, block, 3).mean(axis=(1, 3)).reshape(-1)


@functools.lru_cache(maxsize=1)
def _ink_of(folder: str) -> tuple[np.ndarray, list[str]]:
    """(mean ink [m, F], names of the records) of all splits of a dataset; each process reads it once."""
    ink, names = [], []
    for split in read_manifest(folder).splits:
        for record in open_records(folder, split, channels=4):
            ink.append(mean_ink(record["image"]))
            names.append(f"id {record['id']} of {split}")
    return np.stack(ink), names
