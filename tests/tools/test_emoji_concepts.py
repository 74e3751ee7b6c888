"""Concepts of the emoji set: captions and splits."""

import hashlib

from scripts.build_emoji import Concept


def concept(codepoints, label, tags=("tag",)):
    return Concept(codepoints, label, tags, "animals-nature", "animal-mammal")


def test_captions_of_a_concept():
    ram = concept("1f40f", "ram", ("animal", "Aries", "horns"))
    assert ram.captions == [
        "ram, animal, Aries, horns",
        "ram. animal mammal, animals nature. animal, Aries, horns",
    ]
    assert concept("1f40f", "ram", ()).captions == ["ram", "ram. animal mammal, animals nature."]


def test_split_depends_on_the_codepoints_alone():
    for code in ("1f40f", "1f600", "1f9d1-200d-1f33e"):
        bucket = int(hashlib.sha256(code.encode()).hexdigest()[:16], 16) % 10
        expected = {8: "val", 9: "test"}.get(bucket, "train")
        assert concept(code, "a").split == concept(code, "b", ()).split == expected
