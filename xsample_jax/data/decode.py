"""Encoded image bytes to pixels on the host, safe in threads.

JPEG goes through simplejpeg (libjpeg-turbo, releases the GIL); what it refuses, and every other format, through Pillow.
"""

import io
import struct
import zlib

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from xsample_jax.data.resize import square
from xsample_jax.data.scratch import scratch
from xsample_jax.errors import DataError

MAX_PIXELS = 2 * Image.MAX_IMAGE_PIXELS  # 179 million; a bigger picture is a decompression bomb to Pillow, and to us
EXIF_ORIENTATION = 0x0112
# What records hold. PPM is bare pixels behind a header of 15 bytes: `prepare --raw`.
FORMATS = ("JPEG", "PNG", "WEBP", "PPM")
# What Pillow's readers raise on damaged files.
DAMAGED = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    MemoryError,
    TypeError,
    IndexError,
    KeyError,
    OverflowError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def decode_record(record: dict, size: int, channels: int) -> np.ndarray:
    """Decodes `record["image"]` as `decode_image` does; a DataError names the record's file, index and id."""
    return decode_image(record["image"], size, channels, f"{record['location']} (id {record['id']})")


def decode_image(data: bytes, size: int, channels: int, where: str = "", out: np.ndarray | None = None) -> np.ndarray:
    """Decodes a JPEG, PNG or WebP: short side resized to `size` (antialiased), then the centre square.

    Grey, palette, 16-bit and CMYK pictures become RGB; an EXIF orientation is applied.

    Args:
      data: the encoded picture.
      size: side of the result in pixels.
      channels: 3 (alpha composited on white) or 4 (RGBA, not premultiplied; alpha 255 where the picture has none).
      where: names the picture in errors, as "file:index (id 7)".
      out: uint8 [size, size, channels], contiguous, where to write; None: memory of its own.

    Returns:
      uint8 [size, size, channels], `out` where it was given.

    Raises:
      DataError: empty, truncated, damaged, too large, or of another format.
    """
    return square(open_picture(data, size, where, reuse=True), size, channels, out)


def open_picture(
    data: bytes, size: int, where: str = "", formats: tuple[str, ...] = FORMATS, reuse: bool = False
) -> np.ndarray:
    """Decodes a whole picture, upright, with three channels or (where it has alpha) four.

    Of an animation it is the first picture. A JPEG may come out smaller than it is, but no side shorter than twice
    `size`. Errors as those of `decode_image`.

    Args:
      formats: Pillow's names of what may be read.
      reuse: the pixels may lie where the next picture of this thread will write its own: copy what should stay.

    Returns:
      uint8 [h, w, 3 or 4].
    """
    name = f"image {where}".rstrip()
    fix = "Replace the picture, or set data.on_error=skip."
    if not data:
        raise DataError(name, "0 bytes", "a JPEG, PNG or WebP", fix)
    try:
        picture = _open_jpeg(data, size, reuse) if data[:3] == b"\xff\xd8\xff" else None
        return _open_any(data, formats) if picture is None else picture
    except UnidentifiedImageError:
        raise DataError(name, bytes(data[:12]), "a JPEG, PNG or WebP (these are its first bytes)", fix) from None
    except DAMAGED as error:
        raise DataError(name, str(error)[:200], "a picture that can be decoded", fix) from error


def _open_jpeg(data: bytes, size: int, reuse: bool) -> np.ndarray | None:
    """Returns upright RGB pixels, or None where Pillow has to try (CMYK, damaged data, odd headers)."""
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        _check_pixels(width, height)
        if colorspace in ("CMYK", "YCCK"):
            return None
        # libjpeg may shrink while it decodes, down to twice the final side: what is left for the real resize is
        # enough to keep its antialiasing, and large photographs decode several times faster.
        least = {"min_height": 2 * size, "min_width": 2 * size}
        height, width, *_ = simplejpeg.decode_jpeg_header(data, **least)
        room = scratch("decoded", height, width, 3) if reuse else np.empty((height, width, 3), np.uint8)
        pixels = simplejpeg.decode_jpeg(data, "RGB", **least, buffer=room)
    except ValueError:
        return None
    if has_exif(data):
        pixels = _upright(pixels, Image.open(io.BytesIO(data)).getexif().get(EXIF_ORIENTATION, 1))
    return pixels


def has_exif(jpeg: bytes) -> bool:
    """Whether there is EXIF before the pixels of a JPEG. Where its segments are odd: True, Pillow has to look.

    Only the heads of segments are read. Searching the bytes for "Exif" costs 1 % of the whole work on a photograph.
    """
    place = 2
    while place + 4 < len(jpeg) and jpeg[place] == 0xFF and jpeg[place + 1] not in (0x00, 0xFF):
        if jpeg[place + 1] == 0xDA:  # the pixels begin
            return False
        if jpeg[place + 1] == 0xE1 and jpeg[place + 4 : place + 10] == b"Exif\0\0":
            return True
        place += 2 + int.from_bytes(jpeg[place + 2 : place + 4], "big")
    return True


def _open_any(data: bytes, formats: tuple[str, ...]) -> np.ndarray:
    """Returns upright RGB or RGBA pixels."""
    picture = Image.open(io.BytesIO(data), formats=formats)
    _check_pixels(*picture.size)
    orientation = picture.getexif().get(EXIF_ORIENTATION, 1)
    picture.load()
    if picture.mode.startswith("I"):
        # 16-bit grey. Pillow's own conversion clips at 255, so that nearly everything becomes white.
        picture = Image.fromarray((np.clip(np.asarray(picture, np.int64), 0, 65535) >> 8).astype(np.uint8))
    pixels = np.array(picture.convert("RGBA" if picture.has_transparency_data else "RGB"))
    return _upright(pixels, orientation)


def _check_pixels(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise Image.DecompressionBombError(f"{width} x {height} pixels, more than {MAX_PIXELS}")


# EXIF orientation -> the turn that undoes it.
_TURNS = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undoes the camera's rotation: EXIF orientation 1..8, anything else counts as 1."""
    return np.ascontiguousarray(_TURNS[orientation](pixels)) if orientation in _TURNS else pixels
