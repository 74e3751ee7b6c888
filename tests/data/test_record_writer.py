"""Writing a dataset: the same bytes every time, all of a set or nothing, and no record that breaks the format."""

import msgpack
import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader

from tests.data.record_sets import ENCODER, make_record, write_set
from xsample_jax.data import writer as record_writer
from xsample_jax.data.records import open_records, read_manifest, verify_records
from xsample_jax.data.writer import write_records
from xsample_jax.errors import DataError


def test_shards_are_plain_msgpack_in_array_record(folder):
    reader = ArrayRecordReader(str(folder / "train-00001-of-00003.arrayrecord"))
    record = msgpack.unpackb(reader.read_all()[3])
    reader.close()
    assert record["id"] == 13
    assert record["caption_embeddings"] == make_record(13)["caption_embeddings"].astype("<f2").tobytes()


@pytest.mark.parametrize("options", ["group_size:1,zstd:3", "group_size:12,brotli:11"])
def test_same_records_give_the_same_bytes(tmp_path, options):
    first = write_set(tmp_path / "one", options=options)
    assert write_set(tmp_path / "two", options=options) == first
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_another_byte_gives_another_fingerprint(tmp_path):
    one = {**make_record(0), "image": b"one"}
    two = {**make_record(0), "image": b"two"}
    names = (["a", "b", "c"], {"style": ["x", "y"]}, ENCODER)
    prints = {
        write_records(tmp_path / key, "tiny", {"train": [r]}, *names).fingerprint for key, r in zip("ab", (one, two))
    }
    assert len(prints) == 2


def test_exact_multiple_of_shard_size_has_no_empty_shard(tmp_path):
    manifest = write_set(tmp_path, train=20)
    assert [shard["count"] for shard in manifest.splits["train"]["shards"]] == [10, 10]


@pytest.mark.parametrize("after", [0, 7, 27])
def test_half_written_set_never_opens(tmp_path, after):
    def broken(numbers):
        for number in numbers:
            if number == after:
                raise KeyboardInterrupt
            yield make_record(number)

    splits = {"train": broken(range(25)), "test": broken(range(25, 30))}
    with pytest.raises(KeyboardInterrupt):
        write_records(tmp_path, "tiny", splits, ["a", "b", "c"], {"style": ["x", "y"]}, ENCODER, shard_size=10)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DataError, match="manifest"):
        open_records(tmp_path, "train")


def test_interrupted_overwrite_keeps_the_old_set_and_finished_one_replaces_it(folder):
    def broken():
        yield make_record(0)
        raise OSError("disk full")

    old = read_manifest(folder)
    names = (["a", "b", "c"], {"style": ["x", "y"]}, ENCODER)
    with pytest.raises(DataError, match="overwrite=True"):
        write_records(folder, "tiny", {"train": [make_record(0)]}, *names)
    with pytest.raises(OSError, match="disk full"):
        write_records(folder, "tiny", {"train": broken()}, *names, overwrite=True)
    assert read_manifest(folder) == old
    assert verify_records(folder) == []
    (folder / "tokenizer.json").write_text("{}")
    new = write_records(folder, "tiny", {"train": [make_record(0)]}, *names, overwrite=True)
    assert read_manifest(folder) == new
    assert verify_records(folder) == []  # no shard of the old set is left
    assert (folder / "tokenizer.json").exists()


def test_crash_between_shards_and_manifest_does_not_open(folder, monkeypatch):
    replace = record_writer.os.replace

    def crash(source, target):
        if str(target).endswith("manifest.json"):
            raise OSError("power cut")
        replace(source, target)

    monkeypatch.setattr(record_writer.os, "replace", crash)
    with pytest.raises(OSError, match="power cut"):
        write_set(folder, overwrite=True)
    with pytest.raises(DataError, match="not finished"):
        open_records(folder, "train")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": -1}, "id = -1"),
        ({"id": 2**63}, "id = 9223372036854775808"),
        ({"id": True}, "id = True"),
        ({"id": "7"}, "id = '7'"),
        ({"image": b""}, "image"),
        ({"image": "x.png"}, "image = 'str'"),
        ({"label": 3}, "label = 3"),
        ({"label": -2}, "label = -2"),
        ({"captions": [b"bytes", "b"]}, "captions"),
        ({"captions": ["one"]}, r"float16 \[1, 4\]"),
        ({"caption_embeddings": np.ones((2, 4), np.float32)}, "float32"),
        ({"caption_embeddings": np.full((2, 4), np.nan, np.float16)}, "not finite"),
        ({"caption_embeddings": b"123"}, "3 bytes"),
        ({"attributes": {}}, "attributes"),
        ({"attributes": {"style": 2}}, r"attributes\.style = 2"),
        ({"caption": "typo"}, "caption"),
    ],
)
def test_bad_records_are_refused_when_written(tmp_path, change, message):
    record = {**make_record(5), **change}
    with pytest.raises(DataError, match=rf"train\[.*\].*{message}"):
        write_records(tmp_path, "t", {"train": [record]}, ["a", "b", "c"], {"style": ["x", "y"]}, ENCODER)
    assert not (tmp_path / "manifest.json").exists()


def test_ids_are_unique_over_splits(tmp_path):
    splits = {"train": [{"id": 3, "image": b"x"}], "test": [{"id": 3, "image": b"y"}]}
    with pytest.raises(DataError, match="id = 3"):
        write_records(tmp_path, "t", splits)


def test_minimal_record_gets_defaults(tmp_path):
    write_records(tmp_path, "t", {"train": [{"id": 3, "image": b"x"}]})
    record = open_records(tmp_path, "train")[0]
    assert (record["label"], record["captions"], record["caption_embeddings"]) == (-1, [], None)
    assert record["attributes"] == {}


def test_embeddings_without_encoder_are_refused(tmp_path):
    with pytest.raises(DataError, match="text_encoder"):
        write_records(tmp_path, "t", {"train": [{**make_record(0), "attributes": {}}]}, ["a", "b", "c"])
