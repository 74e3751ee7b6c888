"""Pixels to another size on the host, antialiased; and the centre square that examples hold."""

import math

import cv2
import numpy as np
from PIL import Image

from xsample_jax.data.scratch import scratch
from xsample_jax.errors import DataError

cv2.setNumThreads(1)  # pictures are decoded in threads of their own


def square(pixels: np.ndarray, size: int, channels: int, out: np.ndarray | None = None) -> np.ndarray:
    """Centre square of a picture, resized; cropping first gives the same pixels for less work.

    Args:
      pixels: uint8 [h, w, 3], or 4 with alpha.
      size: side of the result in pixels. A picture whose short side it is already is cut, not blurred.
      channels: 3 (alpha composited on white) or 4 (RGBA, not premultiplied; alpha 255 where the picture has none).
      out: uint8 [size, size, channels], contiguous, where to write; None: memory of its own.

    Returns:
      uint8 [size, size, channels], `out` where it was given.

    Raises:
      DataError: other channels.
    """
    if channels not in (3, 4):
        raise DataError("channels", channels, "3 or 4")
    out = np.empty((size, size, channels), np.uint8) if out is None else out
    height, width, given = pixels.shape
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    pixels = pixels[top : top + short, left : left + short]
    if short != size:
        pixels = resized(pixels, size, size, out if given == channels else None)
    if pixels is not out:
        out[..., :given] = on_white(pixels) if channels < given else pixels
        out[..., given:] = 255
    return out


def resized(pixels: np.ndarray, width: int, height: int, out: np.ndarray | None = None) -> np.ndarray:
    """A picture at another size: bilinear where it grows, under a triangle as wide as the step where it shrinks.

    OpenCV does it in a quarter of Pillow's time, but does not antialias by itself. Linear interpolation behind the
    smoothing of `_smoothed` is that triangle exactly when a side is halved, and within a level of it on photographs for
    any other step (tests/data/test_resize.py). A side that shrinks to less than half is first averaged over whole
    blocks of pixels.

    Args:
      pixels: uint8 [h, w, 3], or 4 with alpha, not premultiplied. The hidden colour of transparent pixels does not
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
    room = scratch("smoothed", *pixels.shape)
    return cv2.sepFilter2D(pixels, -1, *taps, room, borderType=cv2.BORDER_REPLICATE)


def on_white(pixels: np.ndarray) -> np.ndarray:
    """uint8 [h, w, 3 or 4] -> [h, w, 3]: what is transparent shows white."""
    if pixels.shape[2] == 3:
        return pixels
    picture = Image.fromarray(pixels)
    white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    return np.array(Image.alpha_composite(white, picture).convert("RGB"))
