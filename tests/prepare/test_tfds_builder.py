"""The TFDS form of a dataset: every example comes back through TFDS itself, and through prepare as it was."""

import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from xsample_jax.data.records import open_records, read_manifest
from xsample_jax.data.sources import EMOJI_FOLDER
from xsample_jax.data.vectors import encode_vector
from xsample_jax.data.writer import write_records
from xsample_jax.prepare.example import Fields
from xsample_jax.prepare.tfds import tfds_source
from xsample_jax.tools.to_tfds import main


def encoded(kind, color, mode="RGB"):
    out = io.BytesIO()
    Image.new(mode, (9, 7), color).save(out, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return out.getvalue()


def test_images_captions_embeddings_labels_and_attributes(tmp_path, capsys):
    images = [encoded("JPEG", (200, 10, 10)), encoded("WEBP", (10, 200, 10)), encoded("PNG", 77, "L"),
              encoded("PNG", (0, 0, 0, 51), "RGBA")]  # fmt: skip
    records = [
        {"id": 10 + i, "image": image, "label": min(i - 1, 1), "captions": [f"image {i}", "🐏"][: 1 + i % 2],
         "caption_embeddings": np.full((1 + i % 2, 4), i + 0.5, np.float16), "attributes": {"style": i % 2}}
        for i, image in enumerate(images)
    ]  # fmt: skip
    encoder = {"name": "e", "dim": 4, "normalised": False}
    write_records(
        tmp_path / "set", "Four Images", {"train": records}, class_names=("cat", "dog"),
        attributes={"style": ("flat", "line")}, text_encoder=encoder,
    )  # fmt: skip
    assert main([f"--set={tmp_path / 'set'}", f"--out={tmp_path / 'tfds'}"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[-2] == "four_images: train 4"
    builder = tfds.builder_from_directory(printed[-1])
    again = tfds_source(printed[-1], Fields())  # faults C3: the attributes were lost without a word
    assert again.attributes == {"style": ("flat", "line")}
    assert "caption_embeddings is not read" in again.notes[0]
    read = sorted((example.captions, example.attributes["style"]) for example in again.shards[0].read())
    assert read == sorted((tuple(record["captions"]), record["attributes"]["style"]) for record in records)
    found = {int(example["id"]): example for example in builder.as_data_source("train")}
    assert sorted(found) == [10, 11, 12, 13]
    assert builder.info.features["label"].names == ["cat", "dog"]
    for record, color in zip(records, ([200, 10, 10], [10, 200, 10], [77] * 3, [204] * 3), strict=True):
        example = found[record["id"]]
        assert example["image"].shape == (7, 9, 3)
        np.testing.assert_allclose(example["image"][3, 4], color, atol=2)
        assert (example["label"], example["attributes"]["style"]) == (record["label"], record["attributes"]["style"])
        assert [text.decode() for text in example["captions"]] == record["captions"]
        np.testing.assert_array_equal(example["caption_embeddings"], record["caption_embeddings"])


def test_the_first_image_alone_does_not_decide_on_alpha(tmp_path, capsys):
    """faults.md C9: a set with one transparent image in front is not turned into PNGs of four channels."""
    images = [encoded("PNG", (0, 0, 0, 51), "RGBA"), encoded("JPEG", (200, 10, 10))]
    records = [{"id": i, "image": image, "captions": ["a"]} for i, image in enumerate(images)]
    write_records(tmp_path / "set", "mixed", {"train": records})
    assert main([f"--data={tmp_path / 'set'}", f"--out={tmp_path / 'tfds'}"]) == 0
    builder = tfds.builder_from_directory(capsys.readouterr().out.splitlines()[-1])
    assert {example["image"].shape for example in builder.as_data_source("train")} == {(7, 9, 3)}


def test_records_of_the_embedded_set_with_alpha(tmp_path, capsys):
    splits = {}
    for split in ("val", "test_styles"):
        records = open_records(EMOJI_FOLDER, split)
        read = [records[number] for number in range(0, len(records), 8)]
        splits[split] = [{name: record[name] for name in record if name != "location"} for record in read]
    manifest = read_manifest(EMOJI_FOLDER)
    described = {name: getattr(manifest, name) for name in ("class_names", "attributes", "text_encoder")}
    write_records(tmp_path / "set", "emoji", splits, **described)
    assert main([f"--set={tmp_path / 'set'}", f"--out={tmp_path / 'tfds'}"]) == 0
    builder = tfds.builder_from_directory(capsys.readouterr().out.splitlines()[-1])
    for split, ours in splits.items():
        theirs = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
        assert len(theirs) == len(ours)
    by_id = {record["id"]: record for record in splits["val"]}
    for example in builder.as_data_source("val"):
        pixels = np.asarray(Image.open(io.BytesIO(by_id[int(example["id"])]["image"])).convert("RGBA"))
        np.testing.assert_array_equal(example["image"], pixels)


def test_a_folder_that_is_no_set_is_refused(tmp_path, capsys):
    assert main([f"--set={tmp_path}", f"--out={tmp_path / 'tfds'}"]) == 2
    assert "manifest" in capsys.readouterr().err


def test_vectors_are_no_images(tmp_path, capsys):
    write_records(tmp_path / "set", "vectors", {"train": [{"id": 0, "image": encode_vector([1.0, 2.0])}]})
    assert main([f"--set={tmp_path / 'set'}", f"--out={tmp_path / 'tfds'}"]) == 2
    assert "this one has vectors" in capsys.readouterr().err
    assert not (tmp_path / "tfds").exists()


def test_another_set_of_that_name_is_not_taken_for_this_one(tmp_path, capsys):
    records = [{"id": i, "image": encoded("PNG", (i, 0, 0)), "captions": ["a"] * i} for i in range(3)]
    write_records(tmp_path / "one", "my set", {"train": records[:2], "val": []})
    write_records(tmp_path / "two", "my.set", {"train": records})
    assert main([f"--set={tmp_path / 'one'}", f"--out={tmp_path / 'tfds'}"]) == 0
    assert "my_set: train 2" in capsys.readouterr().out  # no empty split
    assert main([f"--set={tmp_path / 'one'}", f"--out={tmp_path / 'tfds'}"]) == 0
    assert main([f"--set={tmp_path / 'two'}", f"--out={tmp_path / 'tfds'}"]) == 2
    assert "expected a folder without another set of this name" in capsys.readouterr().err


def test_records_without_embeddings_and_sets_without_records(tmp_path, capsys):
    rows = {"captions": ["a"], "caption_embeddings": np.ones((1, 4), np.float16)}
    records = [{"id": 0, "image": encoded("PNG", 7, "L")} | rows, {"id": 1, "image": encoded("PNG", 9, "L")}]
    encoder = {"name": "e", "dim": 4, "normalised": False}
    write_records(tmp_path / "set", "some", {"train": records}, text_encoder=encoder)
    assert main([f"--set={tmp_path / 'set'}", f"--out={tmp_path / 'tfds'}"]) == 0
    source = tfds.builder_from_directory(capsys.readouterr().out.splitlines()[-1]).as_data_source("train")
    assert {int(example["id"]): len(example["caption_embeddings"]) for example in source} == {0: 1, 1: 0}
    write_records(tmp_path / "none", "none", {"train": []})
    assert main([f"--set={tmp_path / 'none'}", f"--out={tmp_path / 'tfds'}"]) == 2
    assert "expected a set with records" in capsys.readouterr().err
