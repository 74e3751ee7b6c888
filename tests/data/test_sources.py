"""From the data section of a config to an open set."""

from types import SimpleNamespace

import pytest

from xsample_jax.data.sources import open_source, source_folder
from xsample_jax.data.writer import write_records
from xsample_jax.errors import ConfigError, DataError


def data(**changes):
    fields = {"source": "records", "path": None, "fingerprint": None, "cache": "none", "label": None}
    return SimpleNamespace(**fields | changes)


def test_folder(tmp_path):
    manifest = write_records(tmp_path, "t", {"train": [{"id": 3, "image": b"x"}]})
    source = open_source(data(path=str(tmp_path), fingerprint=manifest.fingerprint), "train")
    assert (len(source), source[0]["id"], source.channels) == (1, 3, 3)
    assert source_folder(data(path=str(tmp_path))) == tmp_path
    with pytest.raises(DataError, match="another version"):
        open_source(data(path=str(tmp_path), fingerprint="1234"), "train")


def test_records_in_memory_need_their_files_no_more(tmp_path, monkeypatch):
    write_records(tmp_path, "t", {"train": [{"id": i, "image": b"x" * 1000} for i in range(5)]})
    source = open_source(data(path=str(tmp_path), cache="ram"), "train")
    (shard,) = tmp_path.glob("*.arrayrecord")
    size = shard.stat().st_size
    shard.write_bytes(bytes(size))
    assert [record["id"] for record in source] == list(range(5))
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": 2 * size - 1}.get)
    with pytest.raises(ConfigError, match=r"data\.cache.*half of the"):
        open_source(data(path=str(tmp_path), cache="ram"), "train")


def test_emoji_has_alpha():
    source = open_source(data(source="emoji"), "val")
    assert source.channels == 4
    assert (source_folder(data(source="emoji")) / "tokenizer.json").exists()
    with pytest.raises(DataError, match="Did you mean val_styles"):
        open_source(data(source="emoji"), "val_style")
    with pytest.raises(DataError, match="fingerprint"):
        open_source(data(source="emoji", fingerprint="1234"), "val")


def test_a_copy_of_the_emoji_set_is_read_as_the_set_itself():
    folder = source_folder(data(source="emoji"))
    copy = data(source="emoji_folder", path=str(folder))
    assert source_folder(copy) == folder
    assert open_source(copy, "val").channels == 4


def test_missing_path_and_unknown_source():
    with pytest.raises(ConfigError, match=r"data\.path"):
        open_source(data(), "train")
    with pytest.raises(ConfigError, match="Did you mean emoji"):
        open_source(data(source="emojis"), "train")
    with pytest.raises(DataError, match="nowhere"):
        open_source(data(path="nowhere"), "train")
