"""Copies of shards on this host's disk: made once, whole, within a limit, and never taken from under a reader."""

import os

import pytest

from tests.data.record_sets import make_record, write_set
from xsample_jax.config import default_config
from xsample_jax.data.records import open_records, read_manifest
from xsample_jax.data.shards import ShardCache
from xsample_jax.data.sources import open_source
from xsample_jax.errors import ConfigError, DataError, RunError
from xsample_jax.io.paths import as_path, upload


@pytest.fixture
def remote(bucket, tmp_path):
    """A set of three shards of ten, ten and five records, and one more split, in a bucket."""
    write_set(tmp_path / "made")
    for path in (tmp_path / "made").iterdir():
        upload(path, as_path(f"{bucket}/set") / path.name)
    return f"{bucket}/set"


def config_of(folder, cache):
    config = default_config()
    config.data.update(source="records", path=folder, cache=cache)
    return config.data


def shards_of(folder):
    return read_manifest(folder).splits["train"]["shards"]


def fetches(store, folder):
    """Names of shards that were asked for, in order."""
    start = "/o/set%2F"
    asked = [request for request in store.requests if folder.split("/")[2] in request and "alt=media" in request]
    return [request.split(start)[1].split("?")[0] for request in asked if ".arrayrecord" in request]


def assert_whole(source, numbers=range(25)):
    for number in numbers:
        found, made = source[number], make_record(number)
        assert (found["id"], found["image"], found["captions"]) == (number, made["image"], made["captions"])


def test_records_are_read_from_a_bucket_as_they_are(remote):
    assert_whole(open_source(config_of(remote, "none"), "train"))
    source = open_source(config_of(remote, "ram"), "train")
    assert_whole(source)


def test_a_shard_is_copied_when_it_is_first_read_and_once(remote, store, tmp_path, monkeypatch):
    monkeypatch.setenv("XSAMPLE_CACHE", str(tmp_path / "cache"))
    source = open_source(config_of(remote, "disk"), "train")
    assert not fetches(store, remote)
    assert_whole(source, [12, 3, 13])
    assert sorted(fetches(store, remote)) == ["train-00000-of-00003.arrayrecord", "train-00001-of-00003.arrayrecord"]
    assert_whole(source)
    assert_whole(open_source(config_of(remote, "disk"), "train"))  # another reader, perhaps another day
    assert len(fetches(store, remote)) == 3
    names = {path.name for path in (tmp_path / "cache").iterdir() if path.suffix == ".arrayrecord"}
    assert names == {f"{shard['sha256']}.arrayrecord" for shard in shards_of(remote)}


def test_what_was_not_used_for_longest_goes_but_nothing_that_is_open(remote, tmp_path):
    one, two, three = shards_of(remote)
    cache = ShardCache(tmp_path / "cache", one["bytes"] + two["bytes"])
    here = lambda shard: (tmp_path / "cache" / f"{shard['sha256']}.arrayrecord").exists()  # noqa: E731
    first = cache.open(one, as_path(remote) / one["file"])
    second = cache.open(two, as_path(remote) / two["file"])
    with pytest.raises(RunError, match=r"XSAMPLE_CACHE_GB"):
        cache.open(three, as_path(remote) / three["file"])
    assert here(one)
    assert here(two)
    os.utime(first.path, (2e9, 2e9))
    os.utime(second.path, (1e9, 1e9))
    del second
    third = cache.open(three, as_path(remote) / three["file"])
    assert here(one)
    assert not here(two)
    assert third.path.stat().st_size == three["bytes"]
    assert not list((tmp_path / "cache").glob("*.partial"))


def test_what_a_killed_process_has_left_is_cleared(remote, tmp_path):
    one, *_ = shards_of(remote)
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / f"{'0' * 64}.{one['bytes']}.partial").write_bytes(b"half")
    (folder / "another's.partial").write_bytes(b"")  # faults B11: int() of its name ended the run
    (folder / f"{'0' * 64}.lock").touch()
    (folder / f"{one['sha256']}.{one['bytes']}.partial").write_bytes(b"half")
    copy = ShardCache(folder, one["bytes"]).open(one, as_path(remote) / one["file"])
    assert copy.path.stat().st_size == one["bytes"]
    assert [path.name for path in folder.glob("*.partial")] == ["another's.partial"]  # which is not ours


def test_a_damaged_object_is_refused_and_not_kept(remote, store, tmp_path):
    one, *_ = shards_of(remote)
    name = remote.split("/")[2]
    data = bytearray(store.read(name, f"set/{one['file']}"))
    data[len(data) // 2] ^= 1
    store.put(name, f"set/{one['file']}", bytes(data))
    cache = ShardCache(tmp_path / "cache", 10**9)
    with pytest.raises(DataError, match="SHA-256"):
        cache.open(one, as_path(remote) / one["file"])
    assert {path.suffix for path in (tmp_path / "cache").iterdir()} <= {".lock", ""}


def test_an_object_that_is_gone_is_named(remote, tmp_path):
    one, *_ = shards_of(remote)
    with pytest.raises(RunError, match=r"copying gs://.*none\.arrayrecord"):
        ShardCache(tmp_path / "cache", 10**9).open(one, as_path(remote) / "none.arrayrecord")


def test_a_limit_below_the_split_is_refused_before_the_training_starts(remote, monkeypatch, tmp_path):
    monkeypatch.setenv("XSAMPLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XSAMPLE_CACHE_GB", "0.000001")
    with pytest.raises(ConfigError, match=r"XSAMPLE_CACHE_GB = '0.000001': expected at least the .* random order"):
        open_source(config_of(remote, "disk"), "train")
    monkeypatch.setenv("XSAMPLE_CACHE_GB", "much")
    with pytest.raises(ConfigError, match="a number of GB"):
        open_source(config_of(remote, "disk"), "train")


def test_processes_of_a_host_copy_a_shard_once(remote, store, tmp_path, forks):
    environment = {**store.environment, "XSAMPLE_CACHE": str(tmp_path / "cache")}
    ended = forks.run("tests.io.whole_set", [[remote], [remote]], environment)
    assert [code for code, *_ in ended] == [0, 0], ended
    assert len(fetches(store, remote)) == 3


def test_a_shard_in_a_bucket_that_is_missing_or_cut_is_refused_at_the_start(remote, store):
    name, one = remote.split("/")[2], shards_of(remote)[0]
    store.put(name, f"set/{one['file']}", b"cut")
    with pytest.raises(DataError, match="3 bytes"):
        open_records(remote, "train")
    del store.objects[name, f"set/{one['file']}"]
    with pytest.raises(DataError, match="missing"):
        open_records(remote, "train")
