"""Icons to pixels: mirrored, with their proportions, the same bytes every time."""

import numpy as np
import pytest

from xsample_jax.prepare.icons import compose_svg, encode_webp, rasterize

RED_LEFT = {"body": '<path fill="#f00" d="M10 0h10v20H10z"/>', "left": 10, "width": 20, "height": 20}


def test_rasterize_mirror_and_encode():
    pytest.importorskip("resvg_py")
    icons = {
        "icons": {"left": RED_LEFT},
        "aliases": {"right": {"parent": "left", "hFlip": True}},
        "width": 9,
        "height": 9,
    }
    left = rasterize(compose_svg(icons, "left"), 16)
    right = rasterize(compose_svg(icons, "right"), 16)
    pixels = np.asarray(left)
    assert pixels.shape == (16, 16, 4)
    assert (pixels[:, :8] == (255, 0, 0, 255)).all()
    assert (pixels[:, 8:] == 0).all()
    np.testing.assert_array_equal(np.asarray(right), pixels[:, ::-1])
    assert encode_webp(left) == encode_webp(rasterize(compose_svg(icons, "left"), 16))


def test_a_wide_drawing_keeps_its_proportions():
    pytest.importorskip("resvg_py")
    icons = {"icons": {"wide": {"body": '<path d="M0 0h20v10H0z"/>', "width": 20, "height": 10}}}
    alpha = np.asarray(rasterize(compose_svg(icons, "wide"), 16))[..., 3]
    assert (alpha[4:12] == 255).all()
    assert (alpha[:4] == 0).all()
    assert (alpha[12:] == 0).all()
