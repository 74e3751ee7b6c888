"""Finished datasets and TFDS datasets as sources."""

import importlib.resources
import io
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tests.data.record_sets import write_set
from tests.prepare.corpora import make_image
from xsample_jax.data.decode import decode_image
from xsample_jax.data.records import open_records
from xsample_jax.data.sources import EMOJI_FOLDER
from xsample_jax.data.writer import KEYS, write_records
from xsample_jax.errors import DataError
from xsample_jax.prepare.example import Fields
from xsample_jax.prepare.job import ImageOptions, Job
from xsample_jax.prepare.prepare import local_runner, prepare
from xsample_jax.prepare.sources import records_source
from xsample_jax.prepare.tfds import tfds_source


def make(source, out, image):
    return prepare(Job("t", source, {"train": 1.0}, image), out, local_runner(1))


def test_part_of_the_embedded_set_smaller(tmp_path):
    """Everything but the images stays: ids, splits, labels, attributes, captions, embeddings and their encoder."""
    source = open_records(EMOJI_FOLDER, "val")
    source.preload()
    some = [{key: source[i][key] for key in KEYS} for i in range(0, len(source), 30)]
    names = (source.manifest.class_names, source.manifest.attributes, source.manifest.text_encoder)
    before = write_records(tmp_path / "in", "t", {"val": some[:20], "test": some[20:]}, *names, shard_size=8)
    manifest, report = make(records_source(str(tmp_path / "in")), tmp_path / "out", ImageOptions(32, raw=True))
    assert report["kept"] == len(some) == 30
    assert (manifest.class_names, manifest.attributes, manifest.text_encoder) == names
    assert {split: entry["count"] for split, entry in manifest.splits.items()} == {"test": 10, "val": 20}
    assert before.fingerprint != manifest.fingerprint
    after = [record for split in ("val", "test") for record in open_records(tmp_path / "out", split)]
    for one, two in zip(some, after, strict=True):
        np.testing.assert_array_equal(one["caption_embeddings"], two["caption_embeddings"])
        for key in ("id", "label", "captions", "attributes"):
            assert one[key] == two[key]
        np.testing.assert_array_equal(decode_image(one["image"], 32, 3), decode_image(two["image"], 32, 3))


def test_records_that_cannot_be_read_or_decoded_are_dropped_and_said(tmp_path):
    records = [{"id": number, "image": make_image(number) if number != 3 else b"no image"} for number in range(9)]
    write_records(tmp_path / "in", "t", {"train": records}, shard_size=5, options="group_size:1,uncompressed")
    path = tmp_path / "in" / "train-00001-of-00002.arrayrecord"
    data = bytearray(path.read_bytes())
    place = data.index(make_image(6))
    data[place + 20 : place + 60] = bytes(40)
    path.write_bytes(data)
    _, report = make(records_source(str(tmp_path / "in")), tmp_path / "out", ImageOptions())
    assert (report["kept"], report["broken_image"], report["broken_record"]) == (7, 1, 1)
    assert [record["id"] for record in open_records(tmp_path / "out", "train")] == [0, 1, 2, 4, 5, 7, 8]


def test_unfinished_or_missing_set(tmp_path):
    with pytest.raises(DataError, match="manifest"):
        records_source(str(tmp_path))
    write_set(tmp_path / "set")
    (tmp_path / "set" / "train-00000-of-00003.arrayrecord").unlink()
    with pytest.raises(DataError, match="missing"):
        make(records_source(str(tmp_path / "set")), tmp_path / "out", ImageOptions())


class Described(tfds.core.GeneratorBasedBuilder):
    """An image with texts under names that are not those of captions."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        texts = tfds.features.Text()
        inner = {"text": texts, "width": np.int64}
        image = tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg")
        features = {"image": image, "title": texts, "words": tfds.features.Sequence(inner)}
        return tfds.core.DatasetInfo(builder=self, description="", features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        yield 0, {"image": io.BytesIO(make_image(0)), "title": "a title", "words": [{"text": "a b", "width": 1}]}


def test_features_of_texts_that_are_not_read_are_named(tmp_path, monkeypatch):
    """faults C3: a set was made without captions, and nothing said that the texts were there."""
    monkeypatch.setitem(sys.modules, "importlib_resources", importlib.resources)
    Described(data_dir=str(tmp_path), file_format="array_record").download_and_prepare()
    path = str(tmp_path / "described" / "1.0.0")
    (note,) = tfds_source(path, Fields()).notes
    assert note.endswith("--caption_fields takes title, words/text.")
    source = tfds_source(path, Fields(captions=("title", "words/text")))
    assert source.notes == ()
    assert [example.captions for example in source.shards[0].read()] == [("a title", "a b")]


class Captioned(tfds.core.GeneratorBasedBuilder):
    """Twelve images with a class and two captions."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
                "captions": tfds.features.Sequence(tfds.features.Text()),
                "label": tfds.features.ClassLabel(names=["cat", "dog", "über"]),
                "word": tfds.features.Text(),
            }
        )
        return tfds.core.DatasetInfo(builder=self, description="", features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(range(9)), "validation": self._generate_examples(range(9, 12))}

    def _generate_examples(self, numbers):
        for number in numbers:
            captions = [f"image {number}", "🐏"]
            image, word = io.BytesIO(make_image(number)), ["two", "one"][number % 2]
            yield number, {"image": image, "captions": captions, "label": number % 3, "word": word}


def test_tfds(tmp_path, monkeypatch):
    # Preparing (not reading) a set makes TFDS 4.9.10 import the backport of this module, which it does not install.
    monkeypatch.setitem(sys.modules, "importlib_resources", importlib.resources)
    Captioned(data_dir=str(tmp_path), file_format="array_record").download_and_prepare()
    path = str(tmp_path / "captioned" / "1.0.0")
    source = tfds_source(path, Fields(), shard_size=5)
    assert source.notes == ()
    assert [shard.split for shard in source.shards] == ["train", "train", "validation"]
    manifest, _ = make(source, tmp_path / "out", ImageOptions())
    assert manifest.class_names == ("cat", "dog", "über")
    assert {split: entry["count"] for split, entry in manifest.splits.items()} == {"train": 9, "validation": 3}
    seen = set()
    for split in manifest.splits:
        for record in open_records(tmp_path / "out", split):
            number = int(record["captions"][0].split()[1])
            seen.add(number)
            assert (record["captions"][1], record["label"]) == ("🐏", number % 3)
            assert record["image"] == make_image(number)  # small and upright: the stored bytes, not a second JPEG
    assert seen == set(range(12))
    problems = list(tfds_source(path, Fields(label="captions")).shards[-1].read())
    assert [(problem.key, problem.kind) for problem in problems] == [
        (f"validation/{number}", "broken_metadata") for number in range(3)
    ]
    words = tfds_source(path, Fields(label="word"))
    assert words.class_names == ("one", "two")
    assert [example.label for example in words.shards[-1].read()] == ["one", "two", "one"]
    with pytest.raises(DataError, match="features of"):
        tfds_source(path, Fields(captions=("text",)))


def test_unknown_tfds_set(tmp_path):
    with pytest.raises(DataError, match="TFDS name"):
        tfds_source("no_such_set_at_all", Fields())
    with pytest.raises(DataError, match="TFDS name"):
        tfds_source(str(tmp_path), Fields())


def test_a_tfds_set_that_is_not_prepared_or_not_for_us(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "importlib_resources", importlib.resources)
    monkeypatch.setattr("xsample_jax.prepare.tfds._builder", lambda path: builder)
    builder = Captioned(data_dir=str(tmp_path), file_format="array_record")
    with pytest.raises(DataError, match=r"has prepared.*download_and_prepare"):
        tfds_source("captioned", Fields())
    builder.download_and_prepare()
    with pytest.raises(DataError, match=r"--class_names = .*names its classes"):
        tfds_source("captioned", Fields(class_names=("a", "b", "c")))
    info = tmp_path / "captioned" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    builder = tfds.builder_from_directory(info.parent)
    with pytest.raises(DataError, match="array_record files, not tfrecord"):
        tfds_source("captioned", Fields())


def test_int8_embeddings_become_the_float16_rows_that_are_read(tmp_path):
    encoder = {"name": "e", "dim": 4, "normalised": True, "stored": "int8"}
    rows = np.array([[127, 3, -50, 9]], np.int8)
    record = {"id": 0, "image": make_image(0), "captions": ["a cat"], "caption_embeddings": rows}
    write_records(tmp_path / "in", "t", {"train": [record]}, text_encoder=encoder)
    manifest, _ = make(records_source(str(tmp_path / "in")), tmp_path / "out", ImageOptions())
    assert manifest.text_encoder["stored"] == "float16"
    before, after = (open_records(tmp_path / name, "train")[0]["caption_embeddings"] for name in ("in", "out"))
    np.testing.assert_array_equal(before, after)
