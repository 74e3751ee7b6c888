"""Drawings of the emoji set: which icon is whose, and from SVG to pixels."""

import unicodedata

import numpy as np
import pytest

from xsample_jax.tools.emoji_concepts import Concept
from xsample_jax.tools.emoji_drawings import compose_svg, drop_shared, encode_webp, match_icons, rasterise


def concept(codepoints, label, tags=("tag",)):
    return Concept(codepoints, label, tags, "animals-nature", "animal-mammal")


def test_icons_match_by_codepoints_then_label_then_unicode_name():
    concepts = [
        concept("1f40f", "ram"),
        concept("1f5e3", "speaking head"),
        concept("23f0", "alarm clock"),
        concept("1f600", "x"),
    ]
    icons = {"icons": {"male-sheep": {}, "speakinghead": {}, "AlarmClock": {}, "grinningface": {}, "ram": {}}}
    assert unicodedata.name(chr(0x1F600)) == "GRINNING FACE"
    assert match_icons(concepts, icons, {"1f40f": "male-sheep"}) == {
        0: "male-sheep",
        1: "speakinghead",
        2: "AlarmClock",
        3: "grinningface",
    }


def test_an_icon_serves_one_concept_but_its_mirror_image_another():
    concepts = [concept("1", "left"), concept("2", "right"), concept("3", "copy")]
    aliases = {"right": {"parent": "left", "hFlip": True}, "copy": {"parent": "left"}}
    assert match_icons(concepts, {"icons": {"left": {}}, "aliases": aliases}, {}) == {0: "left", 1: "right"}


def test_drop_shared_leaves_a_picture_to_the_first_concept():
    pictures = {"noto": {4: b"x", 2: b"x", 3: b"y"}, "fluent": {2: b"z", 1: b"y", 3: b"w"}}
    assert drop_shared(pictures) == {"noto": {2: b"x"}, "fluent": {2: b"z", 1: b"y", 3: b"w"}}


RED_LEFT = {"body": '<path fill="#f00" d="M10 0h10v20H10z"/>', "left": 10, "width": 20, "height": 20}


def test_rasterise_mirror_and_encode():
    pytest.importorskip("resvg_py")
    icons = {
        "icons": {"left": RED_LEFT},
        "aliases": {"right": {"parent": "left", "hFlip": True}},
        "width": 9,
        "height": 9,
    }
    left = rasterise(compose_svg(icons, "left"), 16)
    right = rasterise(compose_svg(icons, "right"), 16)
    pixels = np.asarray(left)
    assert pixels.shape == (16, 16, 4)
    assert (pixels[:, :8] == (255, 0, 0, 255)).all()
    assert (pixels[:, 8:] == 0).all()
    np.testing.assert_array_equal(np.asarray(right), pixels[:, ::-1])
    assert encode_webp(left) == encode_webp(rasterise(compose_svg(icons, "left"), 16))


def test_a_wide_drawing_keeps_its_proportions():
    pytest.importorskip("resvg_py")
    icons = {"icons": {"wide": {"body": '<path d="M0 0h20v10H0z"/>', "width": 20, "height": 10}}}
    alpha = np.asarray(rasterise(compose_svg(icons, "wide"), 16))[..., 3]
    assert (alpha[4:12] == 255).all()
    assert (alpha[:4] == 0).all()
    assert (alpha[12:] == 0).all()
