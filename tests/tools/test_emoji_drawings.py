"""Drawings of the emoji set: which icon is whose, and from SVG to pixels."""

import unicodedata

from scripts.build_emoji import Concept, drop_shared, match_icons


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


def test_drop_shared_leaves_an_image_to_the_first_concept():
    images = {"noto": {4: b"x", 2: b"x", 3: b"y"}, "fluent": {2: b"z", 1: b"y", 3: b"w"}}
    assert drop_shared(images) == {"noto": {2: b"x"}, "fluent": {2: b"z", 1: b"y", 3: b"w"}}
