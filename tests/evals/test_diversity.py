"""MS-SSIM against plain loops; what is alike, what is not."""

import math

import numpy as np
import pytest

from xsample_jax.errors import DataError
from xsample_jax.reports.generated_images import gray_of, mean_similarity, ms_ssim


def by_loops(x, y, scales):
    """The formula at every window, one after the other."""
    weights = [0.0448, 0.2856, 0.3001, 0.2363, 0.1333][:scales]
    c1, c2 = 6.5025, 58.5225
    kernel = [[math.exp(-((i - 5) ** 2 + (j - 5) ** 2) / 4.5) for j in range(11)] for i in range(11)]
    total = sum(map(sum, kernel))
    value = 1.0
    for scale in range(scales):
        terms = []
        for top in range(len(x) - 10):
            for left in range(len(x) - 10):
                places = [(i, j, kernel[i][j] / total) for i in range(11) for j in range(11)]
                mx = sum(w * x[top + i][left + j] for i, j, w in places)
                my = sum(w * y[top + i][left + j] for i, j, w in places)
                vx = sum(w * (x[top + i][left + j] - mx) ** 2 for i, j, w in places)
                vy = sum(w * (y[top + i][left + j] - my) ** 2 for i, j, w in places)
                both = sum(w * (x[top + i][left + j] - mx) * (y[top + i][left + j] - my) for i, j, w in places)
                term = (2 * both + c2) / (vx + vy + c2)
                if scale == scales - 1:
                    term *= (2 * mx * my + c1) / (mx * mx + my * my + c1)
                terms.append(term)
        value *= max(sum(terms) / len(terms), 0) ** (weights[scale] / sum(weights))
        half = len(x) // 2
        x, y = (
            [
                [sum(z[2 * i + a][2 * j + b] for a in (0, 1) for b in (0, 1)) / 4 for j in range(half)]
                for i in range(half)
            ]
            for z in (x, y)
        )
    return value


@pytest.mark.parametrize(("side", "scales"), [(12, 1), (24, 2)])
def test_against_loops(side, scales):
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 255, (2, side, side))
    y = 0.6 * x + 0.4 * rng.uniform(0, 255, (2, side, side))
    expected = [by_loops(a.tolist(), b.tolist(), scales) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(ms_ssim(x, y), expected, rtol=1e-9)


def test_what_is_equal_and_what_is_not():
    rng = np.random.default_rng(1)
    x = rng.uniform(0, 255, (3, 48, 48))
    np.testing.assert_allclose(ms_ssim(x, x), 1.0)
    assert ms_ssim(x, 255 - x).max() < 0.05  # a negative has no structure in common
    assert ms_ssim(x, rng.uniform(0, 255, x.shape)).max() < 0.4
    near = ms_ssim(x, x + rng.normal(scale=5, size=x.shape))
    assert (near > 0.95).all()
    assert (near > ms_ssim(x, x + rng.normal(scale=40, size=x.shape))).all()


def test_the_mean_is_over_all_pairs_and_tells_a_collapse():
    rng = np.random.default_rng(2)
    images = rng.integers(0, 256, (4, 16, 16, 3)).astype(np.uint8)
    gray = gray_of(images)
    pairs = [ms_ssim(gray[i : i + 1], gray[j : j + 1])[0] for i in range(4) for j in range(i)]
    assert mean_similarity(images) == pytest.approx(np.mean(pairs))
    collapsed = np.clip(images[:1] + rng.normal(scale=3, size=(4, 16, 16, 3)), 0, 255)
    assert mean_similarity(collapsed) > 0.9 > mean_similarity(images) + 0.5


def test_what_is_transparent_is_white():
    image = np.zeros((1, 2, 2, 4))
    image[0, 0, 0] = (100, 100, 100, 255)
    image[0, 0, 1] = (100, 100, 100, 51)
    np.testing.assert_allclose(gray_of(image)[0], [[100, 0.2 * 100 + 0.8 * 255], [255, 255]])


def test_images_below_the_window_are_refused():
    with pytest.raises(DataError, match="at least 11 pixels"):
        ms_ssim(np.zeros((1, 8, 8)), np.zeros((1, 8, 8)))
