"""The record format: what goes in comes out, and everything that is not whole is refused with file, index and fix."""

import dataclasses
import hashlib
import json
import pickle
import threading

import msgpack
import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader

from xsample_jax.data import records
from xsample_jax.data.records import open_records, read_manifest, select_caption, verify_records, write_records
from xsample_jax.errors import DataError

ENCODER = {"name": "test", "revision": "1", "pooling": "mean", "dim": 4, "normalised": True, "template": "{caption}"}


def make_record(number: int) -> dict:
    rng = np.random.default_rng(number)
    return {
        "id": number,
        "image": rng.bytes(40 + number % 7),
        "label": number % 3,
        "captions": [f"caption {number}", "über 🐏"],
        "caption_embeddings": rng.normal(size=(2, 4)).astype(np.float16),
        "attributes": {"style": number % 2},
    }


def write_set(folder, train=25, test=4, **options):
    splits = {"train": map(make_record, range(train)), "test": map(make_record, range(train, train + test))}
    options = {"shard_size": 10, **options}
    return write_records(folder, "tiny", splits, ["a", "b", "c"], {"style": ["x", "y"]}, ENCODER, **options)


@pytest.fixture
def folder(tmp_path):
    write_set(tmp_path / "set")
    return tmp_path / "set"


def edit_manifest(folder, refresh_fingerprint=False, **fields):
    path = folder / "manifest.json"
    manifest = {**json.loads(path.read_text()), **fields}
    if refresh_fingerprint:
        rest = {key: value for key, value in manifest.items() if key != "fingerprint"}
        text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        manifest["fingerprint"] = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(json.dumps(manifest))


def test_records_come_back_as_written(folder):
    source = open_records(folder, "train")
    assert len(source) == 25
    for number, record in enumerate(source):
        expected = make_record(number)
        np.testing.assert_array_equal(record["caption_embeddings"], expected.pop("caption_embeddings"))
        assert record["caption_embeddings"].dtype == np.float16
        assert {key: record[key] for key in expected} == expected
        assert record["location"] == f"train-{number // 10:05d}-of-00003.arrayrecord:{number % 10}"
        assert record["location"] == source.locate(number)
    assert [record["id"] for record in open_records(folder, "test")] == [25, 26, 27, 28]
    assert source[-1]["id"] == source[np.int64(24)]["id"] == 24
    with pytest.raises(IndexError, match="25"):
        source[25]


def test_shards_are_plain_msgpack_in_array_record(folder):
    reader = ArrayRecordReader(str(folder / "train-00001-of-00003.arrayrecord"))
    record = msgpack.unpackb(reader.read_all()[3])
    reader.close()
    assert record["id"] == 13
    assert record["caption_embeddings"] == make_record(13)["caption_embeddings"].astype("<f2").tobytes()


def test_manifest_describes_the_files(folder):
    manifest = read_manifest(folder)
    assert [shard["count"] for shard in manifest.splits["train"]["shards"]] == [10, 10, 5]
    for shard in manifest.splits["train"]["shards"] + manifest.splits["test"]["shards"]:
        data = (folder / shard["file"]).read_bytes()
        assert (shard["bytes"], shard["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    fields = {key: value for key, value in json.loads((folder / "manifest.json").read_text()).items()}
    fingerprint = fields.pop("fingerprint")
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert fingerprint == hashlib.sha256(text.encode()).hexdigest()


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


def test_empty_split_opens(tmp_path):
    manifest = write_records(tmp_path, "tiny", {"train": []})
    assert manifest.splits["train"]["count"] == len(open_records(tmp_path, "train")) == 0


def test_preloaded_source_needs_its_files_no_more(folder):
    source = open_records(folder, "train")
    source.preload()
    for path in folder.glob("train-*"):
        path.write_bytes(b"")
    assert [record["image"] for record in source] == [make_record(number)["image"] for number in range(25)]


def test_source_pickles_and_serves_threads(folder):
    source = open_records(folder, "train")
    source[3]  # an open reader must not be in the pickle
    copy = pickle.loads(pickle.dumps(source))
    assert copy[17] | {"caption_embeddings": 0} == source[17] | {"caption_embeddings": 0}
    results, fresh = {}, open_records(folder, "train")

    def read(worker):
        order = np.random.default_rng(worker).permutation(25)
        results[worker] = all(fresh[i]["image"] == make_record(i)["image"] for i in order)

    threads = [threading.Thread(target=read, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == dict.fromkeys(range(8), True)


# --- sets that are not whole ---


def test_missing_manifest_says_what_to_do(tmp_path):
    with pytest.raises(DataError, match=r"manifest\.json.*not finished"):
        open_records(tmp_path, "train")


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
    replace = records.os.replace

    def crash(source, target):
        if str(target).endswith("manifest.json"):
            raise OSError("power cut")
        replace(source, target)

    monkeypatch.setattr(records.os, "replace", crash)
    with pytest.raises(OSError, match="power cut"):
        write_set(folder, overwrite=True)
    with pytest.raises(DataError, match="not finished"):
        open_records(folder, "train")


def test_fingerprint_mismatch(folder):
    right = read_manifest(folder).fingerprint
    assert len(open_records(folder, "train", right)) == 25
    with pytest.raises(DataError, match=r"another version.*data\.fingerprint") as error:
        open_records(folder, "train", "0" * 64)
    assert right in str(error.value)


def test_split_typo_is_corrected(folder):
    with pytest.raises(DataError, match=r"Did you mean train\?"):
        open_records(folder, "trian")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "readable JSON"),
        ("[1]", "manifest of a record set"),
        ('{"features": {}}', "manifest of a record set"),
        ('{"schema": 7}', "schema 1"),
        ('{"schema": 1}', "exactly attributes"),
    ],
)
def test_foreign_manifest(folder, text, message):
    (folder / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=message):
        read_manifest(folder)


def test_edited_manifest_does_not_match_its_fingerprint(folder):
    edit_manifest(folder, class_names=["a", "c", "b"])
    with pytest.raises(DataError, match="changed by hand"):
        read_manifest(folder)
    edit_manifest(folder, refresh_fingerprint=True)
    assert read_manifest(folder).class_names == ("a", "c", "b")


# --- shards that are damaged ---


def test_truncated_and_missing_shards_are_refused_at_opening(folder):
    shard = folder / "train-00001-of-00003.arrayrecord"
    size = shard.stat().st_size
    shard.write_bytes(shard.read_bytes()[: size // 2])
    with pytest.raises(DataError, match=rf"train-00001-of-00003.*{size // 2} bytes.*{size} bytes"):
        open_records(folder, "train")
    assert len(open_records(folder, "test")) == 4  # the other split is whole
    (folder / "train-00002-of-00003.arrayrecord").unlink()
    assert ["train-00001" in str(p) or "train-00002" in str(p) for p in verify_records(folder)] == [True, True]


@pytest.mark.parametrize("in_memory", [False, True])
def test_flipped_bits_are_found_by_verify_and_by_reading(folder, in_memory):
    shard = folder / "train-00001-of-00003.arrayrecord"
    data = bytearray(shard.read_bytes())
    position = data.index(make_record(14)["image"])
    data[position] ^= 1
    shard.write_bytes(data)
    (problem,) = verify_records(folder)
    assert "train-00001-of-00003.arrayrecord" in str(problem)
    assert read_manifest(folder).splits["train"]["shards"][1]["sha256"] in str(problem)
    source = open_records(folder, "train")
    if in_memory:
        source.preload()
    with pytest.raises(DataError, match=r"train-00001-of-00003\.arrayrecord:4'? .*verify_records"):
        source[14]
    assert source[13]["image"] == make_record(13)["image"]  # neighbours are read


def test_every_flipped_byte_raises_or_changes_nothing(folder):
    shard = folder / "test-00000-of-00001.arrayrecord"
    whole = shard.read_bytes()
    raised = 0
    for position in [*range(0, len(whole), 997), *range(len(whole) - 200, len(whole), 9), *range(0, 800, 11)]:
        data = bytearray(whole)
        data[position] ^= 0xFF
        shard.write_bytes(data)
        source = open_records(folder, "test")
        for i in range(4):
            try:
                image = source[i]["image"]
            except DataError:
                raised += 1
            else:
                assert image == make_record(25 + i)["image"]
    assert raised > 20


def test_swapped_shard_with_other_count(folder):
    """A file of the right size from another set: the reader notices that the number of records is wrong."""
    target = folder / "train-00000-of-00003.arrayrecord"
    other = folder / "train-00002-of-00003.arrayrecord"
    target.write_bytes(other.read_bytes().ljust(target.stat().st_size, b"\0")[: target.stat().st_size])
    with pytest.raises(DataError, match="train-00000"):
        open_records(folder, "train")[0]


def test_verify_reports_files_of_another_set(folder):
    assert verify_records(folder) == []
    (folder / "stray-00000-of-00001.arrayrecord").write_bytes(b"x")
    (problem,) = verify_records(folder)
    assert "stray-00000" in str(problem)


# --- records that break the format ---


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": -1}, "id = -1"),
        ({"id": 2**31}, "id = 2147483648"),
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


# --- which caption ---


def test_select_caption():
    embeddings = np.array([[3, 4, 0, 0], [0, 0, 0, 2]], np.float16)
    record = {"id": 1, "captions": ["one", "two"], "caption_embeddings": embeddings}
    for which, caption, expected in [
        ("first", "one", [0.6, 0.8, 0, 0]),
        ("0", "one", [0.6, 0.8, 0, 0]),
        ("1", "two", [0, 0, 0, 1]),
        ("mean", None, np.array([0.6, 0.8, 0, 1]) / np.sqrt(2)),  # of unit rows: a long row does not outweigh
    ]:
        text, embedding = select_caption(record, which)
        assert text == caption
        assert embedding.dtype == np.float16
        np.testing.assert_allclose(embedding, expected, atol=5e-4)


def test_select_caption_of_a_set_that_lacks_it():
    bare = {"id": 1, "captions": [], "caption_embeddings": None}
    text_only = {"id": 1, "captions": ["one"], "caption_embeddings": None}
    assert select_caption(bare, "first") == (None, None)
    assert select_caption(text_only, "0") == ("one", None)
    with pytest.raises(DataError, match=r"set/manifest\.json.*tools\.embed"):
        select_caption(text_only, "mean", "set/manifest.json")
    with pytest.raises(DataError, match=r"1 captions.*set/manifest\.json.*data\.caption=first"):
        select_caption(text_only, "1", "set/manifest.json")
    opposite = {"id": 9, "captions": ["a", "b"], "caption_embeddings": np.array([[1, 0], [-1, 0]], np.float16)}
    with pytest.raises(DataError, match="id 9"):
        select_caption(opposite, "mean")


def test_manifest_is_what_the_contract_says(folder):
    assert set(dataclasses.asdict(read_manifest(folder))) == {
        *("schema", "name", "splits", "class_names", "attributes", "text_encoder", "fingerprint"),
    }
