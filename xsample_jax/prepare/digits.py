"""Sources with handwritten digits as a competing feature: digits_on_images and multi_digits (arXiv 2011.02803).

The digits are the 1,797 real ones that scikit-learn ships (UCI, 8 x 8 pixels), resized. Which digit an image has is a
hash of its key, so that digit and image are independent, and the same on every machine.
"""

import dataclasses
import functools
import hashlib
import io
from collections.abc import Iterator
from functools import partial

import numpy as np
from PIL import Image

from xsample_jax.data.decode import decode_image
from xsample_jax.errors import DataError
from xsample_jax.prepare.example import Example, InputShard, Problem, Source

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
VERSION = 1  # of the images: another number, other images
USED, CANVAS = 16, 64  # digits_on_images: different digits, side in pixels
SIZES, MULTI_CANVAS = (20, 20), 112  # multi_digits: sides of the digits, side of the image
PLACES, SHARE = (0.15, 0.45, 0.75), 1 / 8  # of the nine pasted digits, as shares of the side; of their own side
GROUND = 64  # under images with alpha: dark enough for the maximum with a white digit to show it
TRAINED_ON = 0.8  # of all digits: multi_digits draws those of its training split from them, the others from the rest
SPLITS = {"train": 8000, "val": 1000, "test": 2000}
PER_SHARD = 1000


@dataclasses.dataclass(frozen=True)
class DigitOptions:
    """What the command line says about digits; None: the default of the source.

    Attributes:
      used: how many different digits are pasted (digits_on_images).
      canvas: side of the images in pixels.
      sizes: sides of the digits in pixels, one per digit of an image (multi_digits).
    """

    used: int | None = None
    canvas: int | None = None
    sizes: tuple[int, ...] = ()


@functools.cache
def handwritten_digits() -> tuple[np.ndarray, np.ndarray]:
    """(images uint8 [1797, 8, 8], white on black; digits int [1797]), digit 0 to 9 in turn as far as they reach.

    Raises DataError without scikit-learn.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        fix = "pip install 'xsample_jax[digits]'"
        raise DataError("scikit-learn", None, "the library, which ships the digits", fix) from error
    found = load_digits()
    images, digits = np.round(found.images * 255 / 16).astype(np.uint8), found.target
    rank = np.zeros(len(digits), int)  # the how manieth of its digit
    for digit in range(10):
        rank[digits == digit] = np.arange(np.sum(digits == digit))
    order = np.lexsort((digits, rank))
    return images[order], digits[order].astype(int)


def resized_digit(image: np.ndarray, side: int) -> np.ndarray:
    """uint8 [8, 8] -> [side, side]."""
    if side == len(image):
        return image
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR))


def digits_source(base: Source, options: DigitOptions) -> Source:
    """Every image of `base` with one digit pasted nine times, in a 3 x 3 grid by the pixelwise maximum.

    Images become squares of `canvas` pixels (alpha on dark gray), digits an eighth of that. The label stays the
    object; the attributes are those of `base` and `digit`; a base without attributes has its label as `object`, too.
    Captions: 0 names object and digit, 1 the digit, from 2 on those of `base`. Where `base` has caption embeddings,
    caption 1 is a one-hot vector, and caption 0 both side by side, each with half of the squared length.

    Raises DataError for fewer than 2 digits (nothing to tell apart) or more than there are, and a canvas that is too
    small to show one.
    """
    if base.text_encoder and base.text_encoder.get("per") == "record":
        fix = "Embed its captions: python -m xsample_jax.tools.embed --overwrite."
        raise DataError("--path", base.text_encoder["name"], "captions with embeddings, or without, under digits", fix)
    images, digits = handwritten_digits()
    used, canvas = options.used or USED, options.canvas or CANVAS
    if options.used == 0 or not 2 <= used <= len(images):
        raise DataError("--digits", options.used, f"from 2 to {len(images)} different digits")
    if not 40 <= canvas <= 1024:
        raise DataError("--canvas", canvas, "from 40 to 1024 pixels: digits are an eighth of it")
    objects = base.class_names if not base.attributes else ()
    attributes = dict(base.attributes) | ({"object": list(objects)} if objects else {})
    attributes["digit"] = [DIGITS[digit] for digit in sorted(set(digits[:used]))]
    shards = [
        InputShard(
            shard.name,
            partial(paste_digits, shard.read, used, canvas, objects, base.text_encoder is not None),
            f"{shard.identity} with {used} digits {VERSION}, {canvas} pixels",
            shard.split,
        )
        for shard in base.shards
    ]
    return dataclasses.replace(
        base, shards=tuple(shards), attributes=attributes, text_encoder=_with_digit(base.text_encoder)
    )


def _with_digit(encoder: dict | None) -> dict | None:
    if encoder is None:
        return None
    return {**encoder, "name": f"{encoder['name']}, and the digit one-hot", "dim": encoder["dim"] + len(DIGITS)}


def paste_digits(read, used: int, canvas: int, objects: tuple[str, ...], embedded: bool) -> Iterator[Example | Problem]:
    """Yields the examples of `read` with their digit; an image that cannot be decoded is a problem."""
    images, digits = handwritten_digits()
    names = sorted(set(digits[:used]))
    side = round(canvas * SHARE)
    for example in read():
        if isinstance(example, Problem):
            yield example
            continue
        which = _hash(f"digit of {example.key}") % used
        digit = int(digits[which])
        attributes = example.attributes | {"digit": names.index(digit)}
        if objects:
            label = objects.index(example.label) if isinstance(example.label, str) else example.label
            if label is None or not 0 <= label < len(objects):
                yield Problem(example.key, "broken_metadata", "no label, which is the object")
                continue
            attributes["object"] = label
        try:
            pixels = decode_image(example.image, canvas, 4)
        except DataError as error:
            yield Problem(example.key, "broken_image", str(error.value))
            continue
        yield dataclasses.replace(
            example,
            image=_png(pasted(pixels, resized_digit(images[which], side))),
            captions=_captions(example.captions, digit),
            attributes=attributes,
            caption_embeddings=_vectors(example.caption_embeddings, digit) if embedded else None,
        )


def pasted(pixels: np.ndarray, digit: np.ndarray) -> np.ndarray:
    """The maximum of an image, uint8 [S, S, 4], on GROUND and nine copies of a digit [s, s]; uint8 [S, S, 3]."""
    alpha = pixels[..., 3:].astype(np.float32) / 255
    image = np.round(pixels[..., :3] * alpha + GROUND * (1 - alpha)).astype(np.uint8)
    for top in PLACES:
        for left in PLACES:
            y, x = (round(share * len(image)) for share in (top, left))
            part = image[y : y + len(digit), x : x + len(digit)]
            np.maximum(part, digit[..., None], out=part)
    return image


def _captions(captions: tuple[str, ...], digit: int) -> tuple[str, ...]:
    alone = f"the digit {DIGITS[digit]}"
    return (f"{captions[0]}, with {alone}" if captions else alone, alone, *captions)


def _vectors(vectors: np.ndarray | None, digit: int) -> np.ndarray | None:
    """Embeddings [captions + 2, E + 10] float16 of `_captions`, unit rows where those of the base are."""
    if vectors is None or not len(vectors):
        return None
    base = np.asarray(vectors, np.float32)
    one = np.eye(len(DIGITS), dtype=np.float32)[digit]
    both = np.concatenate([base[0], one]) * 0.5**0.5
    alone = np.concatenate([np.zeros(base.shape[1], np.float32), one])
    return np.stack([both, alone, *np.pad(base, ((0, 0), (0, len(DIGITS))))]).astype(np.float16)


# multi_digits: several digits of chosen sizes on black, at random places; they may overlap.


def multi_digits_source(options: DigitOptions) -> Source:
    """11,000 images of digits on a black square; attributes digit_1, digit_2, ... and the label digit_1.

    Digits are numbered by their place in `sizes`; those of one size from left to right, as nothing else tells them
    apart. Pixel values are added and cut off at white. Training images use other handwritten digits than the rest.
    Captions: 0 names all digits, 1 the first, 2 the second, ...; their vectors are one-hot, side by side.

    Raises DataError for sizes that do not fit on the canvas.
    """
    sizes, canvas = options.sizes or SIZES, options.canvas or MULTI_CANVAS
    handwritten_digits()  # that it is there is found out before the work
    if not 8 <= canvas <= 1024:
        raise DataError("--canvas", canvas, "from 8 to 1024 pixels")
    if len(sizes) > 9 or not all(8 <= size <= canvas for size in sizes):
        raise DataError(
            "--digit_sizes", ",".join(map(str, sizes)), f"1 to 9 sides from 8 to {canvas} pixels, the canvas"
        )
    shards, start = [], 0
    for split, count in SPLITS.items():
        for first in range(start, start + count, PER_SHARD):
            stop = min(first + PER_SHARD, start + count)
            name = f"digits {VERSION} of {'+'.join(map(str, sizes))} on {canvas} pixels, {first} to {stop - 1}"
            shards.append(InputShard(name, partial(draw_digits, first, stop, sizes, canvas, split), name, split))
        start += count
    encoder = {
        "name": "digits, one-hot",
        "revision": str(VERSION),
        "pooling": "one-hot",
        "dim": len(sizes) * len(DIGITS),
        "normalised": True,
        "template": "{caption}",
    }
    attributes = {f"digit_{number + 1}": list(DIGITS) for number in range(len(sizes))}
    return Source(tuple(shards), DIGITS, attributes, encoder)


def draw_digits(start: int, stop: int, sizes: tuple[int, ...], canvas: int, split: str) -> Iterator[Example]:
    """Yields the images `start` to `stop`, as PNG."""
    for index in range(start, stop):
        image, digits = multi_digits(index, sizes, canvas, split == "train")
        hot = np.zeros((len(sizes) + 1, len(sizes), len(DIGITS)), np.float32)
        for number, digit in enumerate(digits):
            hot[0, number, digit] = len(sizes) ** -0.5
            hot[number + 1, number, digit] = 1
        yield Example(
            key=str(index),
            image=_png(np.repeat(image[..., None], 3, axis=2)),
            captions=_multi_captions(digits),
            label=digits[0],
            attributes={f"digit_{number + 1}": digit for number, digit in enumerate(digits)},
            caption_embeddings=hot.reshape(len(hot), -1).astype(np.float16),
        )


def multi_digits(index: int, sizes: tuple[int, ...], canvas: int, training: bool) -> tuple[np.ndarray, list[int]]:
    """(image uint8 [canvas, canvas], its digits in the order of `sizes`) of number `index`."""
    images, digits = handwritten_digits()
    rng = np.random.default_rng([2011, index])
    known = round(TRAINED_ON * len(images))
    low, high = (0, known) if training else (known, len(images))
    which = rng.integers(low, high, len(sizes))
    corners = [rng.integers(0, canvas - size + 1, 2) for size in sizes]
    drawn = np.zeros((canvas, canvas), int)
    for size, (top, left), one in zip(sizes, corners, which, strict=True):
        drawn[top : top + size, left : left + size] += resized_digit(images[one], size)
    # Digits of one size change places in the list until they are in order from left to right.
    order = sorted(range(len(sizes)), key=lambda number: (sizes.index(sizes[number]), corners[number][1], number))
    slots = sorted(range(len(sizes)), key=lambda number: (sizes.index(sizes[number]), number))
    told = dict(zip(slots, order, strict=True))
    return np.minimum(drawn, 255).astype(np.uint8), [int(digits[which[told[number]]]) for number in range(len(sizes))]


def _multi_captions(digits: list[int]) -> tuple[str, ...]:
    words = [DIGITS[digit] for digit in digits]
    both = f"the digit{'s' if len(words) > 1 else ''} {' and '.join(words)}"
    return (both, *(f"the digit {word}" for word in words))


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
