"""What people have in memory, images or texts, as the networks take it: for the calls of an encoder and a captioner."""

import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path

import numpy as np
from PIL import Image

from xsample_jax.augment.ids import VECTOR_CHANNELS
from xsample_jax.data.decode import ALL_FORMATS, DAMAGED, open_image, upright_pixels
from xsample_jax.errors import DataError
from xsample_jax.io.files import read_regular
from xsample_jax.io.paths import as_path

IMAGES = "a list of images, or one: uint8 [h, w, 3], a PIL image, bytes of a file, an open file or its path"


def in_order(given, field: str, expected: str) -> Sequence:
    """Returns the input as a sequence: an array of any library as a NumPy array, an iterator as a list.

    Raises DataError, about `field`, for what has no rows (None, a number) or no order of them (a dictionary, a set).
    """
    if hasattr(given, "__array__") or isinstance(given, memoryview):
        given = np.asarray(given)
    if isinstance(given, np.ndarray) and given.ndim:
        return given
    if isinstance(given, Mapping | Set) or not isinstance(given, Iterable) or isinstance(given, np.ndarray):
        raise DataError(field, type(given).__name__, expected)
    return given if isinstance(given, Sequence) else list(given)


def of_a_file(given) -> bool:
    """Whether this is the content of a file, as bytes or as an open file."""
    if isinstance(given, memoryview):
        return given.ndim == 1 and given.itemsize == 1
    return isinstance(given, bytes | bytearray) or (hasattr(given, "read") and not hasattr(given, "__array__"))


def _content(file) -> bytes:
    """The bytes of a file, from its beginning where it can be read again; DataError for an open file of text."""
    if not hasattr(file, "read"):
        return bytes(file)
    if getattr(file, "seekable", bool)():
        file.seek(0)
    content = file.read()
    if not isinstance(content, bytes):
        raise DataError("image", type(file).__name__, "a file that gives bytes", "Open it with mode 'rb'.")
    return content


def listed_images(images, channels: int) -> tuple[Sequence, bool]:
    """Returns (images, whether the input was a single image) for anything `Encoder.encode` accepts.

    channels: those of the encoder's input.

    Raises DataError as `in_order`, and for an array that may be one image with its colors first, or gray ones.
    """
    if isinstance(images, str | Path | Image.Image) or of_a_file(images):
        return [images], True
    images = in_order(images, "images", IMAGES)
    if not isinstance(images, np.ndarray):
        return images, False
    if channels == VECTOR_CHANNELS:
        one = images.ndim == 1
    else:
        one = images.ndim == 2 or (images.ndim == 3 and images.shape[2] in (1, 3, 4))
        if images.ndim == 3 and not one and images.shape[0] in (1, 3, 4):
            expected = "one image [height, width, 3], or a list of gray ones"
            fix = "Colors first: images.transpose(1, 2, 0). Gray images: list(images)."
            raise DataError("images", f"{images.dtype} {list(images.shape)}", expected, fix)
    return ([images] if one else images), one


def padded_batches(rows: Sequence, size: int, as_array: Callable[[Sequence, int], np.ndarray]) -> Iterator[tuple]:
    """(array [min(size, len(rows)), ...], how many of its rows are meant) for each part of `rows`, in order.

    Each array is as_array(part of rows, number of its first row), with its first row again at the end where it is
    short: the program that takes it is compiled for one shape. Raises DataError for a size below 1.
    """
    if not isinstance(size, numbers.Integral) or size < 1:
        raise DataError("batch_size", size, "a whole number of at least 1")
    count = min(int(size), len(rows))
    for start in range(0, len(rows), count or 1):
        part = as_array(rows[start : start + count], start)
        yield np.concatenate([part, part[:1].repeat(count - len(part), axis=0)]), len(part)


def read_pixels(image, place: int, size: int) -> np.ndarray:
    """uint8 [h, w, 3 or 4] of whatever `Encoder.encode` takes for an image; DataError for anything else.

    place: names it in errors. size: a JPEG may come out smaller than it is, but no side shorter than twice this.
    """
    if isinstance(image, str | Path):
        try:
            image, place = read_regular(as_path(image)), image
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise DataError(f"image {image}", reason, "a file that can be read") from error
    if of_a_file(image):
        content = _content(image)
        try:
            return open_image(content, size, str(place), ALL_FORMATS)
        except DataError as error:
            raise DataError(error.field, error.value, error.expected, "Replace it, or leave it out.") from error
    if isinstance(image, Image.Image):
        try:
            return upright_pixels(image)
        except DAMAGED as error:
            fix = "Make it 8 bits a channel, or give its file."
            raise DataError(f"image {place}", str(error)[:200], "a PIL image that can be read", fix) from error
    try:
        pixels = np.asarray(image)
    except (TypeError, ValueError) as error:  # rows of several lengths
        raise DataError(f"image {place}", type(image).__name__, IMAGES) from error
    if pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 1):
        pixels = np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (3, 4) or not pixels.size:
        found = f"{pixels.dtype} {list(pixels.shape)}"
        expected = "uint8 [height, width, 3], or 4 with alpha; a PIL image, bytes of a file, an open file or its path"
        raise DataError(f"image {place}", found, expected)
    return pixels
