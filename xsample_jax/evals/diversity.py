"""How alike the images of a set are: the mean multi-scale structural similarity of pairs.

Generated images that hardly differ from one another are a collapse of their generator, which no loss of an adversarial
training shows. MS-SSIM: Wang, Simoncelli, Bovik 2003 (Asilomar), with the constants of its paper; as a measure of
diversity: Odena et al., arXiv 1610.09585, section 4.2.
"""

import itertools

import numpy as np

from xsample_jax.augment.colors import LUMA
from xsample_jax.errors import DataError

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales, from fine to coarse
WINDOW, SIGMA = 11, 1.5  # pixels
SMALLEST = (0.01 * 255) ** 2, (0.03 * 255) ** 2  # C1, C2
COLLAPSE = 0.1  # generated images that are alike by so much more than real ones are called collapsed (ours)


def ms_ssim(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """MS-SSIM of gray images x and y, [n, S, S] in 0..255 -> float64 [n], 1 for equal ones.

    Of the five scales those are taken that are at least as large as the window (S = 32: two, 64: three), with their
    weights scaled to a sum of 1. Terms below 0 count as 0.

    Raises DataError for images that are smaller than the window.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    scales = sum(x.shape[1] // 2**scale >= WINDOW for scale in range(len(WEIGHTS)))
    if not scales:
        raise DataError("image side", x.shape[1], f"at least {WINDOW} pixels for MS-SSIM")
    weights = np.array(WEIGHTS[:scales]) / sum(WEIGHTS[:scales])
    value = np.ones(len(x))
    for scale, weight in enumerate(weights):
        luminance, structure = _similarity(x, y)
        term = luminance * structure if scale == scales - 1 else structure
        value *= np.maximum(term.mean(axis=(1, 2)), 0.0) ** weight
        x, y = _halved(x), _halved(y)
    return value


def mean_similarity(images: np.ndarray) -> float:
    """Mean MS-SSIM of all pairs of images [n, S, S, 3 or 4] of 0..255, n at least 2; those with alpha on white."""
    gray = gray_of(images)
    first, second = np.array(list(itertools.combinations(range(len(gray)), 2))).T
    return float(ms_ssim(gray[first], gray[second]).mean())


def gray_of(images: np.ndarray) -> np.ndarray:
    """Luma of images [n, S, S, 3 or 4] of 0..255, those with alpha on white: float64 [n, S, S]."""
    images = np.asarray(images, np.float64)
    luma = images[..., :3] @ LUMA
    if images.shape[-1] == 3:
        return luma
    alpha = images[..., 3] / 255
    return luma * alpha + 255 * (1 - alpha)


def _similarity(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(luminance term, contrast and structure term) at every place where the window fits."""
    window = _window(x.shape[1])
    blur = lambda image: window @ image @ window.T  # noqa: E731
    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    both = blur(x * y) - mean_x * mean_y
    c1, c2 = SMALLEST
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return luminance, (2 * both + c2) / (var_x + var_y + c2)


def _window(size: int) -> np.ndarray:
    """A Gaussian along a line as a matrix [size - WINDOW + 1, size]."""
    kernel = np.exp(-((np.arange(WINDOW) - WINDOW // 2) ** 2) / (2 * SIGMA**2))
    offset = np.arange(size) - np.arange(size - WINDOW + 1)[:, None]
    inside = (offset >= 0) & (offset < WINDOW)
    return np.where(inside, kernel[np.clip(offset, 0, WINDOW - 1)], 0.0) / kernel.sum()


def _halved(images: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 pixels; an odd last row or column is left out."""
    size = images.shape[1] // 2 * 2
    return images[:, :size, :size].reshape(len(images), size // 2, 2, size // 2, 2).mean(axis=(2, 4))
