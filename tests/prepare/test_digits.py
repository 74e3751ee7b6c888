"""Digits as a competing feature: which digit an image shows, where and how, its labels, captions and vectors."""

import collections
import dataclasses

import numpy as np
import pytest
from PIL import Image

from xsample_jax.data.decode import decode_image
from xsample_jax.data.records import open_records
from xsample_jax.errors import DataError
from xsample_jax.prepare import digits as source_digits
from xsample_jax.prepare import shapes as source_shapes
from xsample_jax.prepare.digits import (
    DIGITS,
    DigitOptions,
    digits_source,
    handwritten_digits,
    multi_digits,
    multi_digits_source,
    pasted,
    resized_digit,
)
from xsample_jax.prepare.example import Example, Fields, InputShard, Problem, Source
from xsample_jax.prepare.job import ImageOptions, Job
from xsample_jax.prepare.prepare import local_runner, prepare
from xsample_jax.prepare.sources import Options, open_source
from xsample_jax.tools import prepare as prepare_tool


@pytest.fixture
def small(monkeypatch):
    for module in (source_shapes, source_digits):
        monkeypatch.setattr(module, "SPLITS", {"train": 30, "test": 10})
        monkeypatch.setattr(module, "PER_SHARD", 20)


def test_digits_are_the_real_ones_in_turn():
    from sklearn.datasets import load_digits

    images, digits = handwritten_digits()
    assert digits[:40].tolist() == list(range(10)) * 4
    found = load_digits()
    assert collections.Counter(digits.tolist()) == collections.Counter(found.target.tolist())
    first = found.images[found.target == 3][0]
    np.testing.assert_array_equal(images[3], np.round(first * 255 / 16))
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == len(images)


def test_pasting_is_the_maximum_at_nine_places():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (64, 64, 4), dtype=np.uint8)
    digit = rng.integers(0, 256, (8, 8), dtype=np.uint8)
    result = pasted(pixels, digit)
    expected = np.zeros((64, 64, 3))
    for y in range(64):
        for x in range(64):
            alpha = pixels[y, x, 3] / 255
            expected[y, x] = pixels[y, x, :3] * alpha + 64 * (1 - alpha)
    for top in (10, 29, 48):  # .15, .45 and .75 of 64
        for left in (10, 29, 48):
            for y in range(8):
                for x in range(8):
                    expected[top + y, left + x] = np.maximum(expected[top + y, left + x], digit[y, x])
    assert np.abs(result - expected).max() <= 0.51


def test_on_shapes(small, tmp_path):
    base = open_source("shapes", "", Fields())
    manifest, report = prepare(Job("base", base, {"train": 1.0}, ImageOptions()), tmp_path / "base", local_runner(1))
    source = open_source(
        "digits_on_images", str(tmp_path / "base"), Fields(), Options(digits=DigitOptions(used=12, canvas=48))
    )
    made, report = prepare(Job("d", source, {"train": 1.0}, ImageOptions()), tmp_path / "out", local_runner(1))
    assert report["kept"] == 40
    assert made.class_names == manifest.class_names
    assert made.attributes == manifest.attributes | {"digit": list(DIGITS)}
    assert made.text_encoder["dim"] == 45
    images, digits = handwritten_digits()
    seen = set()
    for split in ("train", "test"):
        for before, after in zip(
            open_records(tmp_path / "base", split), open_records(tmp_path / "out", split), strict=True
        ):
            digit = after["attributes"]["digit"]
            assert after["attributes"] == before["attributes"] | {"digit": digit}
            assert (after["id"], after["label"]) == (before["id"], before["label"])
            # The image shows one of the 12 digits, of the value that the record says.
            pixels, plain = decode_image(after["image"], 48, 3), decode_image(before["image"], 48, 4)
            shown = [i for i in range(12) if (pixels == pasted(plain, resized_digit(images[i], 6))).all()]
            assert digits[shown].tolist() == [digit]
            seen |= set(shown)
            word = DIGITS[digit]
            first, *_ = before["captions"]
            assert after["captions"] == [
                f"{first}, with the digit {word}",
                f"the digit {word}",
                *before["captions"],
            ]
            vectors, old = after["caption_embeddings"].astype(float), before["caption_embeddings"].astype(float)
            np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=2e-3)
            assert vectors[1].tolist() == np.eye(45)[35 + digit].tolist()
            np.testing.assert_allclose(vectors[2:, :35], old, atol=1e-3)
            np.testing.assert_allclose(vectors[0, :35] * 2**0.5, old[0], atol=2e-3)
    assert len(seen) > 8  # 40 draws of 12


def test_digits_are_independent_of_the_image_and_uniform():
    source = digits_source(_folder_of(400), DigitOptions(used=10, canvas=40))
    (shard,) = source.shards
    examples = list(shard.read())
    assert source.attributes == {"object": ["cat", "dog"], "digit": list(DIGITS)}
    table = np.zeros((2, 10))
    for example in examples:
        table[example.attributes["object"], example.attributes["digit"]] += 1
        assert example.caption_embeddings is None
        assert example.captions == (f"the digit {DIGITS[example.attributes['digit']]}",) * 2
    assert np.sum((table.sum(axis=0) - 40) ** 2 / 40) < 28  # chi square, 9 degrees: p > 0.001
    assert np.sum((table - 20) ** 2 / 20) < 44
    fewer = digits_source(_folder_of(400), DigitOptions(used=2, canvas=40))
    assert fewer.attributes["digit"] == ["zero", "one"]
    assert fewer.shards[0].identity != shard.identity


def _read(count):
    import io

    for number in range(count):
        buffer = io.BytesIO()
        Image.new("RGB", (50, 45), (number % 256, 9, 9)).save(buffer, "PNG")
        yield Example(f"{number}.png", buffer.getvalue(), label=("cat", "dog")[number % 2])


@dataclasses.dataclass(frozen=True)
class _Read:
    count: int

    def __call__(self):
        return _read(self.count)


def _folder_of(count):
    return Source((InputShard("all", _Read(count), "all"),), ("cat", "dog"))


def test_what_cannot_be_decoded_or_has_no_object_is_a_problem():
    def read():
        yield Problem("p", "no_image")
        yield Example("a", b"no image", label="cat")
        yield from _read(1)
        yield dataclasses.replace(next(_read(1)), key="c", label=None)

    source = digits_source(Source((InputShard("all", read, "all"),), ("cat", "dog")), DigitOptions())
    found = list(source.shards[0].read())
    assert [getattr(one, "kind", "") for one in found] == ["no_image", "broken_image", "", "broken_metadata"]


def test_the_embedded_emoji_and_a_folder_are_bases(tmp_path):
    source = open_source("digits_on_images", "emoji", Fields())
    assert {"digit", "group", "subgroup"} <= set(source.attributes)
    example = next(iter(source.shards[0].read()))
    assert decode_image(example.image, 64, 3).shape == (64, 64, 3)
    (tmp_path / "cat").mkdir()
    Image.new("RGB", (50, 50), (200, 0, 0)).save(tmp_path / "cat" / "1.png")
    assert open_source("digits_on_images", str(tmp_path), Fields()).attributes["object"] == ["cat"]


@pytest.mark.parametrize("sizes", [(20, 80), (24, 24, 24), (30,)])
def test_several_digits_are_drawn_where_and_as_their_labels_say(sizes):
    """Every image is the sum of the handwritten digits of its labels, each of its size, somewhere on black."""
    images, digits = handwritten_digits()
    for index in range(6):
        image, told = multi_digits(index, sizes, 112, training=True)
        assert image.shape == (112, 112)
        again, same = multi_digits(index, sizes, 112, training=True)
        assert (again == image).all()
        assert same == told
        rng = np.random.default_rng([2011, index])
        which = rng.integers(0, 1438, len(sizes))
        corners = [rng.integers(0, 112 - size + 1, 2) for size in sizes]
        drawn = np.zeros((112, 112))
        for size, (top, left), one in zip(sizes, corners, which, strict=True):
            drawn[top : top + size, left : left + size] += resized_digit(images[one], size)
        np.testing.assert_array_equal(image, np.minimum(drawn, 255))
        if len(set(sizes)) == 1:  # from left to right
            assert told == digits[which[np.argsort([left for _, left in corners], kind="stable")]].tolist()
        else:
            assert told == digits[which].tolist()


def test_training_and_test_show_different_handwritten_digits(monkeypatch):
    shown = {True: set(), False: set()}
    for training, seen in shown.items():
        monkeypatch.setattr(source_digits, "resized_digit", lambda one, side, s=seen: s.add(one.tobytes()) or one)
        for index in range(300):
            multi_digits(index, (8, 8), 40, training)
    assert len(shown[False]) > 100
    assert not shown[True] & shown[False]


def test_the_set_of_several_digits(small, tmp_path, capsys):
    prepare_tool.run(["--source=multi_digits", "--digit_sizes=20,40", f"--out={tmp_path / 'd'}", "--processes=1"])
    assert "d: 40 records" in capsys.readouterr().out
    record = open_records(tmp_path / "d", "test")[3]
    image, (first, second) = multi_digits(33, (20, 40), 112, training=False)
    np.testing.assert_array_equal(decode_image(record["image"], 112, 3)[..., 1], image)
    assert (record["label"], record["attributes"]) == (first, {"digit_1": first, "digit_2": second})
    assert record["captions"] == [
        f"the digits {DIGITS[first]} and {DIGITS[second]}",
        f"the digit {DIGITS[first]}",
        f"the digit {DIGITS[second]}",
    ]
    vectors = record["caption_embeddings"].astype(float)
    np.testing.assert_allclose(
        vectors @ vectors.T, [[1, 0.5**0.5, 0.5**0.5], [0.5**0.5, 1, 0], [0.5**0.5, 0, 1]], atol=1e-3
    )
    assert vectors[2].argmax() == 10 + second


@pytest.mark.parametrize(
    ("source", "path", "options", "words"),
    [
        ("digits_on_images", "emoji", {"used": 1}, "from 2 to 1797"),
        ("digits_on_images", "emoji", {"used": 0}, "from 2 to 1797"),
        ("digits_on_images", "emoji", {"used": 1798}, "from 2 to 1797"),
        ("digits_on_images", "emoji", {"canvas": 20}, "from 40 to 1024"),
        ("digits_on_images", "", {}, "--path"),
        ("digits_on_images", "emoji", {"sizes": (20, 20)}, "Leave --digit_sizes out"),
        ("multi_digits", "", {"sizes": (20, 200)}, "9 sides from 8 to 112"),
        ("multi_digits", "", {"sizes": (4,)}, "9 sides from 8 to 112"),
        ("multi_digits", "", {"canvas": 4}, "from 8 to 1024"),
        ("multi_digits", "", {"used": 5}, "Leave --digits out"),
        ("multi_digits", "somewhere", {}, "Leave --path out"),
        ("shapes", "", {"used": 5}, "Leave --digits out"),
    ],
)
def test_wrong_arguments(source, path, options, words):
    with pytest.raises(DataError, match=words):
        open_source(source, path, Fields(), Options(digits=DigitOptions(**options)))


def test_sizes_are_numbers():
    with pytest.raises(DataError, match="as 20,80"):
        prepare_tool.read_sizes("20,big")
    assert multi_digits_source(DigitOptions(sizes=prepare_tool.read_sizes("20,80"))).text_encoder["dim"] == 20
