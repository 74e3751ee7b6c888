"""Pixels to another size on the host, antialiased; and the centre square that examples hold."""

import math

import cv2
import numpy as np
from PIL import Image

from xsample_jax.data.scratch import scratch
from xsample_jax.errors import DataError

cv2.setNumThreads(1)  # pictures are decoded in threads of their own


def square(pixels: np.ndarray, size: int, channels: int) -> np.ndarray:
    """Centre square of a picture, resized; cropping first gives the same pixels for less work.

    Args:
      pixels: uint8 [h, w, 3], or 4 with alpha.
      size: side of the result in pixels. A picture whose short side it is already is cut, not blurred.
      channels: 3 (alpha composited on white) or 4 (RGBA, not premultiplied; alpha 255 where the picture has none).

    Returns:
      uint8 [size, size, channels], memory of its own.

    Raises:
      DataError: other channels.
    """
    if channels not in (3, 4):
        raise DataError("channels", channels, "3 or 4")
    height, width = pixels.shape[:2]
    short = min(height, width)
    top, left = (height - short) // 2, (width - short) // 2
    pixels = pixels[top : top + short, left : left + short]
    pixels = pixels.copy() if short == size else resized(pixels, size, size)
    if channels == 3:
        return on_white(pixels)
    return pixels if pixels.shape[2] == 4 else np.dstack([pixels, np.full((size, size), 255, np.uint8)])


def resized(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    """A picture at another size: bilinear where it grows, under a triangle as wide as the step where it shrinks.

    OpenCV does it in a quarter of Pillow's time, but does not antialias by itself. Linear interpolation behind the
    smoothing of `_smoothed` is that triangle exactly when a side is halved, and within a level of it on photographs for
    any other step (tests/data/test_resize.py). A side that shrinks to less than half is first averaged over whole
    blocks of pixels.

    Args:
      pixels: uint8 [h, w, 3], or 4 with alpha, not premultiplied. The hidden colour of transparent pixels does not
        bleed into edges.

    Returns:
      uint8 [height, width, 3 or 4].
    """
    if pixels.shape[2] == 4:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGBA2mRGBA)
    steps = [before / after for before, after in zip(pixels.shape[1::-1], (width, height))]
    blocks = [max(1, math.ceil(step / 2)) for step in steps]
    if max(blocks) > 1:
        inner = [round(side / block) for side, block in zip(pixels.shape[1::-1], blocks)]
        pixels = cv2.resize(pixels, inner, interpolation=cv2.INTER_AREA)
        steps = [before / after for before, after in zip(inner, (width, height))]
    pixels = cv2.resize(_smoothed(pixels, *steps), (width, height), interpolation=cv2.INTER_LINEAR)
    return pixels if pixels.shape[2] == 3 else cv2.cvtColor(pixels, cv2.COLOR_mRGBA2RGBA)


def _smoothed(pixels: np.ndarray, across: float, down: float) -> np.ndarray:
    """Three taps in each direction, whose variance is what a triangle of that step has more than one of step 1."""
    sigmas = []
    for step in (across, down):
        tap = max(0.0, (step**2 - 1) / 12)  # the variance of a triangle is step^2 / 6; of the taps (t, 1 - 2t, t), 2t
        # OpenCV wants the sigma of the Gaussian that has these taps; its own smoothing of bytes is in whole numbers.
        sigmas.append(math.sqrt(-0.5 / math.log(tap / (1 - 2 * tap))) if tap > 1e-3 else 0.0)
    if not any(sigmas):
        return pixels
    sizes = [3 if sigma else 1 for sigma in sigmas]
    across, down = [sigma or 1.0 for sigma in sigmas]
    room = scratch("smoothed", *pixels.shape)
    return cv2.GaussianBlur(pixels, sizes, across, room, down, cv2.BORDER_REPLICATE)


def on_white(pixels: np.ndarray) -> np.ndarray:
    """uint8 [h, w, 3 or 4] -> [h, w, 3]: what is transparent shows white."""
    if pixels.shape[2] == 3:
        return pixels
    picture = Image.fromarray(pixels)
    white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    return np.array(Image.alpha_composite(white, picture).convert("RGB"))
