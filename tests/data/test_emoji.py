"""The embedded emoji set: what the docs promise about it."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from xsample_jax.captions.encoders import checked_unit_rows
from xsample_jax.data.captions import load_tokenizer, tokenize
from xsample_jax.data.decode import decode_record
from xsample_jax.data.records import read_manifest, verify_records
from xsample_jax.data.sources import EMOJI_FOLDER, open_source

SEEN = {"noto", "twemoji", "fluent", "fluent-flat", "noto-v1", "fxemoji"}
HELD_OUT = {"emojione", "openmoji"}


@pytest.fixture(scope="module")
def manifest():
    return read_manifest(EMOJI_FOLDER)


@pytest.fixture(scope="module")
def splits(manifest):
    data = SimpleNamespace(source="emoji", path=None, fingerprint=None, cache="none", label=None)
    return {split: list(open_source(data, split)) for split in manifest.splits}


def test_every_byte_is_what_the_manifest_says():
    assert verify_records(EMOJI_FOLDER) == []


def test_size(manifest, splits):
    records = [record for split in splits.values() for record in split]
    assert len(records) >= 10_000
    assert len({record["label"] for record in records}) >= 1_600
    assert len(manifest.attributes["style"]) == 8
    assert sum(path.stat().st_size for path in EMOJI_FOLDER.iterdir()) <= 20_000_000
    assert len({record["id"] for record in records}) == len(records)
    labels = {}
    for record in records:  # no image has two labels
        assert labels.setdefault(record["image"], record["label"]) == record["label"]


def test_splits_are_by_concept_and_by_style(manifest, splits):
    names = manifest.attributes["style"]
    styles = {key: {names[r["attributes"]["style"]] for r in records} for key, records in splits.items()}
    for key in ("train", "val", "test"):
        assert styles[key] == SEEN
        assert styles[f"{key}_styles"] == HELD_OUT
    concepts = {key: {r["label"] for r in records} for key, records in splits.items()}
    total = set().union(*concepts.values())
    for key, share in (("train", 0.8), ("val", 0.1), ("test", 0.1)):
        assert abs(len(concepts[key]) / len(total) - share) < 0.03
    sides = [concepts[key] | concepts[f"{key}_styles"] for key in ("train", "val", "test")]
    assert sum(map(len, sides)) == len(set().union(*sides))


def test_labels_captions_and_attributes(manifest, splits):
    for records in splits.values():
        for record in records:
            name = manifest.class_names[record["label"]]
            group = manifest.attributes["group"][record["attributes"]["group"]].replace("-", " ")
            subgroup = manifest.attributes["subgroup"][record["attributes"]["subgroup"]].replace("-", " ")
            short, long = record["captions"]
            tags = short[len(name) + 2 :]
            assert short == (f"{name}, {tags}" if tags else name)
            assert long == f"{name}. {subgroup}, {group}." + (f" {tags}" if tags else "")
            assert record["id"] == record["label"] * 8 + record["attributes"]["style"]
    assert len(set(manifest.class_names)) == len(manifest.class_names)
    assert not {"flags", "component"} & set(manifest.attributes["group"])


def test_embeddings_are_those_of_the_paper_s_encoder(manifest, splits):
    encoder = manifest.text_encoder
    assert encoder["name"] == "sentence-transformers/all-mpnet-base-v2"
    assert encoder["revision"] == "sha256:78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"
    assert (encoder["pooling"], encoder["dim"], encoder["normalised"]) == ("mean", 768, True)
    rows, subgroups = {}, {}
    for records in splits.values():
        for record in records:
            first = rows.setdefault(record["label"], record["caption_embeddings"])
            np.testing.assert_array_equal(record["caption_embeddings"], first)
            subgroups[record["label"]] = record["attributes"]["subgroup"]
    table = np.stack([rows[label] for label in sorted(rows)]).astype(np.float32)
    assert table.shape[1:] == (2, 768)
    np.testing.assert_allclose(np.linalg.norm(table, axis=-1), 1, atol=0.003)
    # They mean something: the nearest other caption shares the subgroup far more often than 1 in 95.
    subgroup = np.array([subgroups[label] for label in sorted(rows)])
    cosines = checked_unit_rows(table[:, 0]) @ checked_unit_rows(table[:, 0]).T
    np.fill_diagonal(cosines, -1)
    assert np.mean(subgroup[cosines.argmax(axis=1)] == subgroup) > 0.6
    # The two captions of a concept are close.
    assert np.mean(np.sum(table[:, 0] * table[:, 1], axis=1)) > 0.7


def test_images_are_64_pixels_with_alpha(splits):
    for records in splits.values():
        for record in records[::10]:
            image = decode_record(record, 64, 4)
            assert image.shape == (64, 64, 4)
            assert image[..., 3].max() > 100  # not blank
    for record in splits["val"][::20]:
        image = Image.open(io.BytesIO(record["image"]))
        assert (image.size, image.format) == ((64, 64), "WEBP")
    transparent = [decode_record(record, 64, 4)[..., 3].min() == 0 for record in splits["train"][::50]]
    assert np.mean(transparent) > 0.95


def test_tokenizer_fits_the_captions(splits):
    tokenizer = load_tokenizer(EMOJI_FOLDER)
    assert tokenizer.get_vocab_size() == 2048
    captions = sorted({record["captions"][0] for record in splits["val"]})
    lengths = (tokenize(tokenizer, captions, 128) > 0).sum(axis=1)
    assert np.median(lengths) <= 24
    assert lengths.max() < 128


def test_attribution_names_every_style_and_license():
    text = (EMOJI_FOLDER / "ATTRIBUTION.md").read_text()
    for style in SEEN | HELD_OUT:
        assert f"| {style} |" in text
    for license in ("Apache-2.0", "CC-BY-4.0", "CC-BY-SA-4.0", "MIT"):
        assert license in text
