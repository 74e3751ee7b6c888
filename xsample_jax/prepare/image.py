"""A picture as records hold it: checked, upright, no larger than needed, in a format that decodes fast."""

import contextlib
import dataclasses
import io

import simplejpeg
from PIL import Image

from xsample_jax.data.decode import DAMAGED, EXIF_ORIENTATION, has_exif, open_picture
from xsample_jax.data.resize import on_white, resized, square
from xsample_jax.errors import DataError

KEPT_FORMATS = {"JPEG", "PNG", "WEBP"}
LOSSLESS_FORMATS = {"PNG", "GIF", "BMP", "TIFF", "PPM"}
READ_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
FULL_SIZE = 2**15  # more than half of any JPEG: it is not shrunk while it is decoded


@dataclasses.dataclass(frozen=True)
class ImageOptions:
    """What becomes of pictures.

    Attributes:
      size: longest short side in pixels; larger pictures are shrunk to it, smaller ones stay. None: never shrink.
      quality: of the JPEGs that are written, 1 to 100.
      raw: store the centre square of `size` as bare uint8 pixels: decoding costs nothing, storage 3 * size**2 bytes.
    """

    size: int | None = 256
    quality: int = 92
    raw: bool = False

    def __post_init__(self):
        if self.size is not None and self.size < 1:
            raise DataError("--size", self.size, "at least 1 pixel, or 0 for pictures as they are")
        if not 1 <= self.quality <= 100:
            raise DataError("--quality", self.quality, "1 to 100")
        if self.raw and self.size is None:
            raise DataError("--size", 0, "the side of the square that --raw stores", "Add --size=64, for example.")


def prepare_image(data: bytes, options: ImageOptions) -> tuple[bytes, list[str]]:
    """Decodes a picture to the last byte and returns what a record should hold of it.

    A JPEG, PNG or WebP that is upright, 8 bits deep, in RGB, grey or palette colours and not too large stays as it is,
    byte for byte. All else is written anew: as JPEG, or as PNG where nothing was lost before and nothing is shrunk.
    Alpha is then composited on white, and of several pictures the first is taken.

    Returns:
      The bytes, and what was changed: turned, cmyk, 16_bit, animated, shrunk.

    Raises:
      DataError: the picture does not decode, or is too long for a JPEG.
    """
    pixels = open_picture(data, options.size or FULL_SIZE, formats=READ_FORMATS, reuse=True)
    try:
        kind, sides, changes = _header(data)
    except DAMAGED as error:
        raise DataError("image", str(error)[:200], "a picture with a header that can be read") from error
    if options.raw:
        pixels = square(pixels, options.size, 3)
        return b"P6\n%d %d\n255\n" % (options.size, options.size) + pixels.tobytes(), changes
    height, width = pixels.shape[:2]
    shrinks = options.size is not None and min(height, width) > options.size
    if not shrinks and not changes and kind in KEPT_FORMATS:
        return data, changes
    if shrinks:
        changes.append("shrunk")
        long = round(max(sides) * options.size / min(sides))
        pixels = resized(pixels, *((options.size, long) if width < height else (long, options.size)))
    pixels = on_white(pixels)
    if not shrinks and kind in LOSSLESS_FORMATS:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        return buffer.getvalue(), changes
    try:
        return simplejpeg.encode_jpeg(pixels, options.quality, "RGB", "420"), changes
    except ValueError as error:  # a side of more than 65,500 pixels
        sides = f"{pixels.shape[1]} x {pixels.shape[0]} pixels"
        raise DataError("image", sides, "sides that a JPEG can have") from error


def _header(data: bytes) -> tuple[str, tuple[int, int], list[str]]:
    """Format, sides as stored, and what is unusual about a picture and will be gone when it is written anew."""
    if data[:3] == b"\xff\xd8\xff" and not has_exif(data):
        with contextlib.suppress(ValueError):  # Pillow reads more kinds of JPEG, but takes its time
            height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
            return "JPEG", (width, height), ["cmyk"] if colours in ("CMYK", "YCCK") else []
    header = Image.open(io.BytesIO(data), formats=READ_FORMATS)
    found = []
    if header.getexif().get(EXIF_ORIENTATION, 1) in range(2, 9):
        found.append("turned")
    if header.mode == "CMYK":
        found.append("cmyk")
    if header.mode.startswith("I") or (header.format == "PNG" and data[24] == 16):  # the depth, in the header of a PNG
        found.append("16_bit")
    if getattr(header, "is_animated", False):
        found.append("animated")
    return header.format, header.size, found
