"""The set shapes: factors are independent and known, images show them, captions say those that are named."""

import collections
import itertools

import numpy as np
import pytest

from xsample_jax.data.decode import decode_image
from xsample_jax.data.records import open_records
from xsample_jax.errors import DataError
from xsample_jax.prepare import shapes as source_shapes
from xsample_jax.prepare.example import Fields
from xsample_jax.prepare.job import ImageOptions, Job
from xsample_jax.prepare.prepare import local_runner, prepare
from xsample_jax.prepare.shapes import CAPTIONS, FACTORS, SIZE, caption_of, draw, factor_vector, factors_of
from xsample_jax.prepare.sources import open_source
from xsample_jax.tools import prepare as prepare_tool


def test_factors_are_uniform_and_independent():
    drawn = [factors_of(index) for index in range(8000)]
    for name, names in FACTORS.items():
        counts = np.bincount([values[name] for values in drawn], minlength=len(names))
        expected = len(drawn) / len(names)
        assert np.sum((counts - expected) ** 2 / expected) < 30  # chi square with at most 7 degrees: p < 1e-4
    for a, b in itertools.combinations(FACTORS, 2):
        table = np.zeros((len(FACTORS[a]), len(FACTORS[b])))
        for values in drawn:
            table[values[a], values[b]] += 1
        expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / len(drawn)
        freedom = (table.shape[0] - 1) * (table.shape[1] - 1)
        assert np.sum((table - expected) ** 2 / expected) < freedom + 5 * (2 * freedom) ** 0.5, (a, b)


def test_factors_do_not_change():
    """Sets of two versions must not mix: this is the first image of all."""
    assert caption_of(factors_of(0), CAPTIONS[0]) == "four orange checked rings on the right, on paper"


def test_cosine_is_the_share_of_named_factors_that_agree():
    for named in (*CAPTIONS, ("color", "ground")):
        for i in range(30):
            a, b = factors_of(i), factors_of(i + 1)
            shared = sum(a[name] == b[name] for name in named) / len(named)
            assert factor_vector(a, named) @ factor_vector(b, named) == pytest.approx(shared, abs=1e-6)


def test_captions_name_what_they_should_and_nothing_else():
    values = {"shape": 4, "color": 0, "texture": 1, "count": 2, "ground": 1, "position": 0}
    assert caption_of(values, tuple(FACTORS)) == "three red striped crosses on the left, on grass"
    assert caption_of(values, ("shape",)) == "cross"
    assert caption_of(values, ("ground",)) == "on grass"
    assert caption_of(values | {"ground": 4}, ("ground",)) == "at night"
    assert caption_of(values | {"position": 4}, ("shape", "position")) == "cross in the center"
    assert caption_of(values, ("shape", "count")) == "three crosses"


@pytest.mark.parametrize("factor", FACTORS)
def test_a_factor_changes_the_image_and_nothing_else_does(factor):
    for index in range(6):
        values = factors_of(index)
        before = np.asarray(draw(values, index), int)
        assert before.shape == (SIZE, SIZE, 3)
        np.testing.assert_array_equal(before, np.asarray(draw(values, index)))
        for other in range(len(FACTORS[factor])):
            if other != values[factor]:
                change = np.abs(np.asarray(draw(values | {factor: other}, index), int) - before).max(axis=2)
                assert (change > 40).mean() > 0.005, (factor, other)


def test_ground_does_not_move_the_object_nor_the_object_the_ground():
    values = {"shape": 0, "color": 0, "texture": 0, "count": 0, "ground": 0, "position": 4}
    grounds = [np.asarray(draw(values | {"ground": g}, 3), int) for g in range(len(FACTORS["ground"]))]
    middle, corner = np.s_[22:26, 22:26], np.s_[:6, :6]
    for image in grounds[1:]:
        np.testing.assert_array_equal(image[middle], grounds[0][middle])
        assert np.abs(image[corner] - grounds[0][corner]).mean() > 10
    other = np.asarray(draw(values | {"color": 4}, 3), int)
    np.testing.assert_array_equal(other[corner], grounds[0][corner])
    assert np.abs(other[middle] - grounds[0][middle]).mean() > 40


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(source_shapes, "SPLITS", {"train": 30, "test": 10})
    monkeypatch.setattr(source_shapes, "PER_SHARD", 20)


def test_the_set(small, tmp_path):
    job = Job("shapes", open_source("shapes", "", Fields()), {"train": 1.0}, ImageOptions())
    manifest, report = prepare(job, tmp_path / "out", local_runner(1))
    assert {split: entry["count"] for split, entry in manifest.splits.items()} == {"train": 30, "test": 10}
    assert manifest.class_names == FACTORS["shape"]
    assert manifest.attributes == {name: list(names) for name, names in FACTORS.items()}
    assert manifest.text_encoder["dim"] == 35
    records = [*open_records(tmp_path / "out", "train"), *open_records(tmp_path / "out", "test")]
    for index, record in enumerate(records):
        values = factors_of(index)
        assert record["attributes"] == values
        assert record["label"] == values["shape"]
        assert record["captions"] == [caption_of(values, named) for named in CAPTIONS]
        np.testing.assert_array_equal(decode_image(record["image"], SIZE, 3), np.asarray(draw(values, index)))
        rows = record["caption_embeddings"].astype(np.float32)
        for row, named in zip(rows, CAPTIONS, strict=True):
            np.testing.assert_allclose(row, factor_vector(values, named), atol=3e-4)
    assert len({record["id"] for record in records}) == 40
    assert collections.Counter(report)["broken_image"] == 0


def test_one_command_makes_it(small, tmp_path, capsys):
    prepare_tool.run(["--source=shapes", "--caption_fields=ground", f"--out={tmp_path / 'shapes'}", "--processes=1"])
    assert "shapes: 40 records" in capsys.readouterr().out
    assert open_records(tmp_path / "shapes", "test")[0]["captions"] == [caption_of(factors_of(30), ("ground",))]


def test_chosen_factors_make_one_caption(small, tmp_path):
    source = source_shapes.shapes_source(Fields(captions=("ground", "shape")))
    prepare(Job("s", source, {"train": 1.0}, ImageOptions()), tmp_path / "out", local_runner(1))
    record = open_records(tmp_path / "out", "train")[3]
    assert record["captions"] == [caption_of(factors_of(3), ("shape", "ground"))]
    assert record["caption_embeddings"].shape == (1, 35)
    other = source_shapes.shapes_source(Fields(captions=("shape",)))
    assert {shard.identity for shard in other.shards}.isdisjoint(shard.identity for shard in source.shards)


@pytest.mark.parametrize(
    ("path", "captions", "words"),
    [
        ("", ("shapes",), "Did you mean shape"),
        ("", ("shape", "shape"), "each factor once"),
        ("somewhere", (), "Leave --path out"),
    ],
)
def test_wrong_arguments(path, captions, words):
    with pytest.raises(DataError, match=words):
        open_source("shapes", path, Fields(captions=captions))


def test_other_sources_still_need_a_path():
    with pytest.raises(DataError, match="--path"):
        open_source("folder", "", Fields())
