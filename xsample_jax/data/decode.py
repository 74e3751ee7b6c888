"""Encoded image bytes to a square uint8 array: one decode, one resize, on the host, safe in threads.

JPEG goes through simplejpeg (libjpeg-turbo, releases the GIL); what it refuses, and every other format, through Pillow.
"""

import io
import struct
import zlib

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from xsample_jax.errors import DataError

# A bigger picture is taken for a decompression bomb.
MAX_PIXELS = 200_000_000
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


def decode_image(data: bytes, size: int, channels: int, where: str = "") -> np.ndarray:
    """Decodes a JPEG, PNG or WebP: short side resized to `size` (antialiased), then the centre square.

    Grey, palette, 16-bit and CMYK pictures become RGB; an EXIF orientation is applied.

    Args:
      data: the encoded picture.
      size: side of the result in pixels.
      channels: 3 (alpha composited on white) or 4 (RGBA, not premultiplied; alpha 255 where the picture has none).
      where: names the picture in errors, as "file:index (id 7)".

    Returns:
      uint8 [size, size, channels].

    Raises:
      DataError: empty, truncated, damaged, too large, or of another format.
    """
    if channels not in (3, 4):
        raise DataError("channels", channels, "3 or 4")
    return square(open_picture(data, size, where), size, channels)


def open_picture(data: bytes, size: int, where: str = "", formats: tuple[str, ...] = FORMATS) -> Image.Image:
    """Decodes a whole picture, upright, RGB or (where it has alpha) RGBA; of an animation, the first picture.

    A JPEG may come out smaller than it is, but no side shorter than twice `size`. `formats` are Pillow's names; errors
    as those of `decode_image`.
    """
    name = f"image {where}".rstrip()
    fix = "Replace the picture, or set data.on_error=skip."
    if not data:
        raise DataError(name, "0 bytes", "a JPEG, PNG or WebP", fix)
    try:
        picture = _open_jpeg(data, size) if data[:3] == b"\xff\xd8\xff" else None
        return _open_any(data, formats) if picture is None else picture
    except UnidentifiedImageError:
        raise DataError(name, bytes(data[:12]), "a JPEG, PNG or WebP (these are its first bytes)", fix) from None
    except DAMAGED as error:
        raise DataError(name, str(error)[:200], "a picture that can be decoded", fix) from error


def _open_jpeg(data: bytes, size: int) -> Image.Image | None:
    """Returns an RGB picture, or None where Pillow has to try (CMYK, damaged data, odd headers)."""
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
        _check_pixels(width, height)
        if colorspace in ("CMYK", "YCCK"):
            return None
        # libjpeg may shrink while it decodes, down to twice the final side: what is left for the real resize is
        # enough to keep its antialiasing, and large photographs decode several times faster.
        pixels = simplejpeg.decode_jpeg(data, "RGB", min_height=2 * size, min_width=2 * size)
    except ValueError:
        return None
    picture = Image.fromarray(pixels)
    if has_exif(data):
        picture = _upright(picture, Image.open(io.BytesIO(data)).getexif().get(EXIF_ORIENTATION, 1))
    return picture


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


def _open_any(data: bytes, formats: tuple[str, ...]) -> Image.Image:
    """Returns an upright RGB or RGBA picture, fully loaded."""
    picture = Image.open(io.BytesIO(data), formats=formats)
    _check_pixels(*picture.size)
    orientation = picture.getexif().get(EXIF_ORIENTATION, 1)
    picture.load()
    if picture.mode.startswith("I"):
        # 16-bit grey. Pillow's own conversion clips at 255, so that nearly everything becomes white.
        picture = Image.fromarray((np.clip(np.asarray(picture, np.int64), 0, 65535) >> 8).astype(np.uint8))
    has_alpha = picture.has_transparency_data
    picture = picture.convert("RGBA" if has_alpha else "RGB")
    return _upright(picture, orientation)


def _check_pixels(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise Image.DecompressionBombError(f"{width} x {height} pixels, more than {MAX_PIXELS}")


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _upright(picture: Image.Image, orientation: int) -> Image.Image:
    """Undoes the camera's rotation: EXIF orientation 1..8, anything else counts as 1."""
    return picture.transpose(_TURNS[orientation]) if orientation in _TURNS else picture


def square(picture: Image.Image, size: int, channels: int) -> np.ndarray:
    """Centre square, resized to `size`; cropping first gives the same pixels for less work."""
    short = min(picture.size)
    left, top = (picture.width - short) / 2, (picture.height - short) / 2
    if short == size:
        left, top = int(left), int(top)  # a cut between pixels would blur a picture that has its size already
        picture = picture.crop((left, top, left + size, top + size))
    else:
        # Pillow widens the filter when it shrinks (antialiasing) and premultiplies alpha, so that the hidden colour of
        # transparent pixels does not bleed into edges.
        box = (left, top, left + short, top + short)
        picture = picture.resize((size, size), Image.Resampling.BILINEAR, box=box)
    if channels == 3 and picture.mode == "RGBA":
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        picture = Image.alpha_composite(white, picture)
    mode = "RGBA" if channels == 4 else "RGB"
    return np.array(picture if picture.mode == mode else picture.convert(mode))
