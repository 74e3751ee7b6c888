"""Encoded image bytes to pixels on the host, safe in threads.

JPEG goes through simplejpeg (libjpeg-turbo, releases the GIL); what it refuses, and every other format, through Pillow.
"""

import contextlib
import io
import math
import struct
import threading
import zlib

import cv2
import numpy as np
import simplejpeg
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from xsample_jax.data.vectors import is_vector
from xsample_jax.errors import ConfigError, DataError

# Memory of a thread for pixels on their way: asking the kernel for new pages costs a quarter of the decoding.


LARGEST = 2**24  # bytes; what needs more gets memory of its own, that no thread keeps
_thread = threading.local()


def buffer_pool(use: str, *shape: int) -> np.ndarray:
    """uint8 array with any values, overwritten where this thread asks again for the same `use`."""
    size = math.prod(shape)
    if size > LARGEST:
        return np.empty(shape, np.uint8)
    kept = getattr(_thread, use, None)
    if kept is None or kept.size < size:
        kept = np.empty(size, np.uint8)
        setattr(_thread, use, kept)
    return kept[:size].reshape(shape)


# Pixels to another size on the host, antialiased; and the center square that examples hold.


cv2.setNumThreads(1)  # images are decoded in threads of their own


FITS = ("crop", "pad")  # how an image becomes a square: data.fit
PADDING = 128  # gray around a padded image; with alpha it is transparent


def loses_a_third(pixels: np.ndarray) -> bool:
    """Whether the center square of an image [h, w, channels] leaves out more than a third of it."""
    height, width = pixels.shape[:2]
    return 3 * min(height, width) < 2 * max(height, width)


def square(
    pixels: np.ndarray, size: int, channels: int, out: np.ndarray | None = None, fit: str = "crop"
) -> np.ndarray:
    """An image as a square: its center, or all of it between bars; cut or shrunk before that is work saved.

    Args:
      pixels: uint8 [h, w, 3], or 4 with alpha.
      size: side of the result in pixels. An image whose short (padded: long) side it is already is not resampled.
      channels: 3 (alpha composited on white) or 4 (RGBA, not premultiplied; alpha 255 where the image has none).
      out: uint8 [size, size, channels], contiguous, where to write; None: memory of its own.
      fit: crop (the center square) or pad (the whole image; bars are gray, with four channels transparent).

    Returns:
      uint8 [size, size, channels], `out` where it was given.

    Raises:
      DataError: other channels.
    """
    if channels not in (3, 4):
        raise DataError("channels", channels, "3 or 4")
    out = np.empty((size, size, channels), np.uint8) if out is None else out
    height, width, given = pixels.shape
    if fit == "pad" and height != width:
        scale = size / max(height, width)
        inner = [max(1, round(side * scale)) for side in (height, width)]
        top, left = (size - inner[0]) // 2, (size - inner[1]) // 2
        out[:] = PADDING
        out[..., 3:] = 0
        part = out[top : top + inner[0], left : left + inner[1]]
        part[:] = _with_channels(pixels if [height, width] == inner else resized(pixels, inner[1], inner[0]), channels)
        return out
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    pixels = pixels[top : top + short, left : left + short]
    if short != size:
        pixels = resized(pixels, size, size, out if given == channels else None)
    if pixels is not out:
        out[:] = _with_channels(pixels, channels)
    return out


def _with_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """uint8 [h, w, channels]: without alpha on white, or with alpha 255."""
    if pixels.shape[2] == channels:
        return pixels
    return on_white(pixels) if channels == 3 else np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])


def resized(pixels: np.ndarray, width: int, height: int, out: np.ndarray | None = None) -> np.ndarray:
    """An image at another size: bilinear where it grows, under a triangle as wide as the step where it shrinks.

    OpenCV does it in a quarter of Pillow's time, but does not antialias by itself. Linear interpolation behind the
    smoothing of `_smoothed` is that triangle exactly when a side is halved, and within a level of it on photographs for
    any other step (tests/data/test_resize.py). A side that shrinks to less than half is first averaged over whole
    blocks of pixels.

    Args:
      pixels: uint8 [h, w, 3], or 4 with alpha, not premultiplied. The hidden color of transparent pixels does not
        bleed into edges.
      out: uint8 [height, width, 3 or 4], contiguous, where to write; None: memory of its own.

    Returns:
      uint8 [height, width, 3 or 4], `out` where it was given.
    """
    out = np.empty((height, width, pixels.shape[2]), np.uint8) if out is None else out
    alpha = pixels.shape[2] == 4
    if alpha:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGBA2mRGBA)
    steps = [before / after for before, after in zip(pixels.shape[1::-1], (width, height))]
    blocks = [max(1, math.ceil(step / 2)) for step in steps]
    if max(blocks) > 1:
        inner = [round(side / block) for side, block in zip(pixels.shape[1::-1], blocks)]
        pixels = cv2.resize(pixels, inner, interpolation=cv2.INTER_AREA)
        steps = [before / after for before, after in zip(inner, (width, height))]
    cv2.resize(_smoothed(pixels, *steps), (width, height), out, interpolation=cv2.INTER_LINEAR)
    if alpha:
        cv2.cvtColor(out, cv2.COLOR_mRGBA2RGBA, out)
    return out


def _smoothed(pixels: np.ndarray, across: float, down: float) -> np.ndarray:
    """Three taps in each direction, whose variance is what a triangle of that step has more than one of step 1."""
    taps = []
    for step in (across, down):
        tap = max(0.0, (step**2 - 1) / 12)  # the variance of a triangle is step^2 / 6; of the taps (t, 1 - 2t, t), 2t
        tap = round(256 * tap) / 256  # OpenCV smooths bytes in whole numbers: the taps stay what they are, their sum 1
        taps.append(np.array([tap, 1 - 2 * tap, tap], np.float32))
    if not any(tap[0] for tap in taps):
        return pixels
    room = buffer_pool("smoothed", *pixels.shape)
    return cv2.sepFilter2D(pixels, -1, *taps, room, borderType=cv2.BORDER_REPLICATE)


def on_white(pixels: np.ndarray) -> np.ndarray:
    """uint8 [h, w, 3 or 4] -> [h, w, 3]: what is transparent shows white."""
    if pixels.shape[2] == 3:
        return pixels
    image = Image.fromarray(pixels)
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return np.array(Image.alpha_composite(white, image).convert("RGB"))


MAX_PIXELS = 2 * Image.MAX_IMAGE_PIXELS  # 179 million; a bigger image is a decompression bomb to Pillow, and to us
EXIF_ORIENTATION, TIFF_BITS, TIFF_ZERO, TIFF_SIGN = 0x0112, 258, 262, 339  # the third: what a zero means
WHITE_IS_ZERO, SIGNED = 0, 2
# Gray of 16 bits where zero is white: Pillow knows it in one of the two orders of bytes, and reads both alike.
TiffImagePlugin.OPEN_INFO.setdefault((TiffImagePlugin.MM, WHITE_IS_ZERO, (1,), 1, (16,), ()), ("I;16B", "I;16B"))
GRAY_STEP = {"L;2": 85, "L;4": 17}  # between two grays of a PNG of so many bits, by Pillow's name of it
# What records hold. PPM is bare pixels behind a header of 15 bytes: `prepare --raw`.
FORMATS = ("JPEG", "PNG", "WEBP", "PPM")
# What files of other people may be as well.
ALL_FORMATS = (*FORMATS, "GIF", "BMP", "TIFF")
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


def decode_record(record: dict, size: int, channels: int, fit: str = "crop") -> np.ndarray:
    """Decodes `record["image"]` as `decode_image` does; a DataError names the record's file, index and id."""
    return decode_image(record["image"], size, channels, f"{record['location']} (id {record['id']})", fit=fit)


def decode_image(
    data: bytes, size: int, channels: int, where: str = "", out: np.ndarray | None = None, fit: str = "crop"
) -> np.ndarray:
    """Decodes a JPEG, PNG or WebP to a square of `size` (antialiased): the center, or all of it (`fit` of `square`).

    Gray, palette, 16-bit and CMYK images become RGB; an EXIF orientation is applied.

    Args:
      data: the encoded image.
      size: side of the result in pixels.
      channels: 3 (alpha composited on white) or 4 (RGBA, not premultiplied; alpha 255 where the image has none).
      where: names the image in errors, as "file:index (id 7)".
      out: uint8 [size, size, channels], contiguous, where to write; None: memory of its own.

    Returns:
      uint8 [size, size, channels], `out` where it was given.

    Raises:
      DataError: empty, truncated, damaged, too large, or of another format.
    """
    if is_vector(data):
        expected = "vectors: this dataset has them instead of images"
        raise ConfigError("data.source", "records", expected, "Set --config.data.source=vectors.")
    return square(open_image(data, size, where, reuse=True), size, channels, out, fit)


def open_image(
    data: bytes, size: int, where: str = "", formats: tuple[str, ...] = FORMATS, reuse: bool = False
) -> np.ndarray:
    """Decodes a whole image, upright, with three channels or (where it has alpha) four.

    Of an animation it is the first image. A JPEG may come out smaller than it is, but no side shorter than twice
    `size`. Errors as those of `decode_image`.

    Args:
      formats: Pillow's names of what may be read.
      reuse: the pixels may lie where the next image of this thread will write its own: copy what should stay.

    Returns:
      uint8 [h, w, 3 or 4].
    """
    name = f"image {where}".rstrip()
    fix = "Replace the image, or set data.on_error=skip."
    if not data:
        raise DataError(name, "0 bytes", "a JPEG, PNG or WebP", fix)
    try:
        image = _open_jpeg(data, size, reuse) if data[:3] == b"\xff\xd8\xff" else None
        return _open_whatever_metadata(data, formats) if image is None else image
    except UnidentifiedImageError:
        raise DataError(name, bytes(data[:12]), "a JPEG, PNG or WebP (these are its first bytes)", fix) from None
    except DAMAGED as error:
        raise DataError(name, str(error)[:200], "an image that can be decoded", fix) from error


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
        room = buffer_pool("decoded", height, width, 3) if reuse else np.empty((height, width, 3), np.uint8)
        pixels = simplejpeg.decode_jpeg(data, "RGB", **least, buffer=room)
    except ValueError:
        return None
    return _upright(pixels, exif_orientation(data)) if has_exif(data) else pixels


def has_exif(jpeg: bytes) -> bool:
    """Whether EXIF, or XMP with an orientation, is before the pixels of a JPEG. Odd segments: True, Pillow has to look.

    Only segments are read. Searching all bytes for "Exif" costs 1 % of the whole work on a photograph.
    """
    place = 2
    while place + 4 < len(jpeg) and jpeg[place] == 0xFF and jpeg[place + 1] not in (0x00, 0xFF):
        if jpeg[place + 1] == 0xDA:  # the pixels begin
            return False
        end = place + 2 + int.from_bytes(jpeg[place + 2 : place + 4], "big")
        if jpeg[place + 1] == 0xE1 and _may_turn(jpeg[place + 4 : end]):
            return True
        place = end
    return True


def _may_turn(app1: bytes) -> bool:
    """Whether a segment APP1 of a JPEG is EXIF, or XMP with an orientation, which Pillow reads where EXIF has none."""
    return app1[:6] == b"Exif\0\0" or (app1[:28] == XMP and b"tiff:Orientation" in app1)


def exif_orientation(data: bytes) -> int:
    """The EXIF orientation of an image, 1 to 8; 1 where there is none, or none that can be read."""
    for readable in (lambda: data, lambda: without_metadata(data, but_exif=True)):
        with contextlib.suppress(*DAMAGED):
            return int(Image.open(io.BytesIO(readable())).getexif().get(EXIF_ORIENTATION, 1))
    return 1


def _open_whatever_metadata(data: bytes, formats: tuple[str, ...]) -> np.ndarray:
    """`_open_any`, and once more without metadata where that fails: pixels are not lost for a broken comment."""
    try:
        return _open_any(data, formats)
    except DAMAGED:
        bare = without_metadata(data)
        if bare == data:
            raise
        return _upright(_open_any(bare, formats), exif_orientation(data))


XMP = b"http://ns.adobe.com/xap/1.0/"


def without_metadata(data: bytes, but_exif: bool = False) -> bytes:
    """A PNG or JPEG without text, color profile and (unless `but_exif`) EXIF; other formats as they are."""
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        kept, place = [data[:8]], 8
        while place + 8 <= len(data):
            end = place + 12 + int.from_bytes(data[place : place + 4], "big")
            kind = data[place + 4 : place + 8]
            if kind[:1].isupper() or kind == b"tRNS" or (but_exif and kind == b"eXIf"):
                # A capital letter says that the chunk is needed for the pixels.
                kept.append(data[place:end])
            place = end
        return b"".join(kept)
    if data[:2] == b"\xff\xd8":
        kept, place = [data[:2]], 2
        while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] not in (0x00, 0xFF, 0xDA):
            end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
            described = 0xE1 <= data[place + 1] <= 0xEF or data[place + 1] == 0xFE
            turns = data[place + 1] == 0xE1 and _may_turn(data[place + 4 : end])
            if not described or data[place + 1] == 0xEE or (but_exif and turns):  # APP14: how the colors are stored
                kept.append(data[place:end])
            place = end
        return b"".join([*kept, data[place:]])
    return data


def _open_any(data: bytes, formats: tuple[str, ...]) -> np.ndarray:
    image = Image.open(io.BytesIO(data), formats=formats)
    _check_pixels(*image.size)
    pixels, deep = upright_pixels(image), image.format == "PNG" and data[24] == 16
    if deep and image.mode == "RGB" and "transparency" in image.info:
        # Pillow has shortened the pixels, not the color that is transparent; OpenCV compares them as they are stored.
        alpha = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)[..., 3] > 0
        pixels[..., 3] = 255 * _upright(alpha, _orientation(image))
    return pixels


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(EXIF_ORIENTATION, 1)
    except DAMAGED:
        return 1


def upright_pixels(image: Image.Image) -> np.ndarray:
    """uint8 [h, w, 3 or 4] of an image of Pillow, by its EXIF orientation; one of DAMAGED where it cannot be read."""
    step = GRAY_STEP.get(image.tile[0].args, 1) if image.format == "PNG" and image.tile else 1
    image.load()
    key = image.info.get("transparency")
    if step > 1 and isinstance(key, int):  # Pillow spreads the grays, not the one that is transparent
        image.info["transparency"] = key * step
    orientation = _orientation(image)  # after load(), which turns a TIFF upright by itself
    signed = image.format == "TIFF" and SIGNED in image.tag_v2.get(TIFF_SIGN, ())
    if signed and max(image.tag_v2.get(TIFF_BITS, (8,))) <= 16:
        raise ValueError("numbers with a sign; 8 or 16 bits without one are read")
    if image.mode.startswith(("I", "F")):
        alpha = [255 * (np.asarray(image) != key).astype(np.uint8)] if isinstance(key, int) else []
        pixels = np.dstack([_eight_bits(image)] * 3 + alpha)
    else:
        pixels = np.array(image.convert("RGBA" if image.has_transparency_data else "RGB"))
    return _upright(pixels, orientation)


def _eight_bits(image: Image.Image) -> np.ndarray:
    """uint8 [h, w] of a gray image of 9 to 16 bits: its high byte, and in a TIFF whose zero is white its complement.

    Pillow's own conversion clips at 255, so that nearly everything becomes white, and it does not turn white and black.
    Pixels of 32 bits, whole or float, have no agreed range: any scale would be a guess, and none makes them black.
    Raises ValueError for them. Pillow reads files of 16 bits as mode "I" too; an image of that mode that is of no file
    has 32.
    """
    white_is_zero = False
    if image.format == "TIFF":
        depth = max(image.tag_v2.get(TIFF_BITS, (8,)))
        white_is_zero = image.tag_v2.get(TIFF_ZERO) == WHITE_IS_ZERO
    else:
        depth = 32 if image.mode == "F" or (image.mode == "I" and image.format is None) else 16
    if image.mode == "F" or depth > 16:
        raise ValueError(f"{depth} bits a pixel ({'float' if image.mode == 'F' else 'integer'}); 8 or 16 are read")
    most = 2**depth - 1
    values = np.clip(np.asarray(image, np.int64), 0, most)
    return ((most - values if white_is_zero else values) >> max(depth - 8, 0)).astype(np.uint8)


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
