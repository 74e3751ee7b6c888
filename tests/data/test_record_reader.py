"""Reading a dataset: what was written comes back, and what is not whole is refused with file, index and fix."""

import pickle
import threading

import numpy as np
import pytest

from tests.data.record_sets import make_record
from xsample_jax.data.records import open_records, read_manifest, verify_records
from xsample_jax.data.writer import write_records
from xsample_jax.errors import DataError


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


def test_missing_manifest_says_what_to_do(tmp_path):
    with pytest.raises(DataError, match=r"manifest\.json.*not finished"):
        open_records(tmp_path, "train")


def test_fingerprint_mismatch(folder):
    right = read_manifest(folder).fingerprint
    assert len(open_records(folder, "train", right)) == 25
    with pytest.raises(DataError, match=r"another version.*data\.fingerprint") as error:
        open_records(folder, "train", "0" * 64)
    assert right in str(error.value)


def test_split_typo_is_corrected(folder):
    with pytest.raises(DataError, match=r"Did you mean train\?"):
        open_records(folder, "trian")


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
    assert source[13]["image"] == make_record(13)["image"]  # neighbors are read


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
