"""Sets that are made in a bucket, from tars in a bucket, are those that are made on a disk, byte for byte."""

import os
import shutil

import numpy as np
import pytest

from tests.captions.test_embed import HashEncoder
from tests.prepare.corpora import contents, make_job, run, write_corpus
from xsample_jax.captions.embed import embed_classes, embed_set
from xsample_jax.data.records import open_records, verify_records
from xsample_jax.errors import DataError
from xsample_jax.io import locks as lease
from xsample_jax.io.files import load_arrays
from xsample_jax.io.paths import as_path, upload
from xsample_jax.prepare import shards
from xsample_jax.prepare.example import Fields
from xsample_jax.prepare.sources import open_source
from xsample_jax.tools import prepare


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"), tars=3, each=6)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XSAMPLE_CACHE", str(tmp_path / "cache"))


def in_store(store, folder):
    """{name: bytes} of what is in a folder of a bucket."""
    bucket, _, name = str(folder).removeprefix("gs://").partition("/")
    return {path.removeprefix(f"{name}/"): store.read(bucket, path) for path in store.names(bucket, f"{name}/")}


def copy(folder, place):
    for path in folder.iterdir():
        upload(path, as_path(place) / path.name)
    return place


def test_from_tars_to_records_in_the_same_bucket(corpus, bucket, store, tmp_path):
    copy(corpus, f"{bucket}/tars/deep")
    run(make_job(corpus), tmp_path / "out")
    for tars in (f"{bucket}/tars", f"{bucket}/tars/deep/*.tar"):
        out = f"{bucket}/{len(tars)}/out"
        job = make_job(tars)
        assert [shard.identity.split("/")[-1].split()[:2] for shard in job.source.shards] == [
            shard.identity.split()[:2]
            for shard in make_job(corpus).source.shards  # name and size
        ]
        run(job, out)
        there = in_store(store, out)
        assert {name for name in there if name != "report.json"} == set(contents(tmp_path / "out")) - {"report.json"}
        for name in there:
            if name.endswith(".arrayrecord"):
                assert there[name] == (tmp_path / "out" / name).read_bytes()
        assert verify_records(out) == []


class Killed(BaseException):
    pass


def test_killed_it_goes_on_and_ends_with_the_same_bytes(corpus, bucket, store, tmp_path, monkeypatch):
    job, out = make_job(corpus), f"{bucket}/out"
    run(job, tmp_path / "out")
    prepare_image, seen = shards.prepare_image, []

    def cut(*arguments):
        seen.append(1)
        if len(seen) == 9:
            raise Killed
        return prepare_image(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "prepare_image", cut)
        with pytest.raises(Killed):
            run(job, out)
    assert "manifest.json" not in in_store(store, out)
    assert ".prepare/00000.json" in in_store(store, out)
    with monkeypatch.context() as patch:
        patch.setattr(shards, "prepare_image", lambda *arguments: seen.append(1) or prepare_image(*arguments))
        run(job, out)
    assert len(seen) == 9 + 12  # the finished shard was not made again
    here = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert in_store(store, out) == here
    run(job, out)  # says what is there
    assert in_store(store, out) == here
    with pytest.raises(DataError, match="--out"):
        run(make_job(corpus, name="other"), out)


def test_the_tool(corpus, bucket, capsys):
    words = ["--source=webdataset", f"--path={corpus}", f"--out={bucket}/sets/mine", "--size=24", "--processes=1"]
    prepare.run(words)
    assert f"mine: 18 records in {bucket}/sets/mine" in capsys.readouterr().out
    assert len(open_records(f"{bucket}/sets/mine", "train")) > 10


@pytest.mark.parametrize("source", ["folder", "icons", "tfds"])
def test_sources_that_need_a_mount_say_so(source, bucket):
    with pytest.raises(DataError, match="Cloud Storage FUSE"):
        open_source(source, f"{bucket}/x", Fields())


def test_embedded_in_a_bucket_stopped_and_resumed(corpus, bucket, store, tmp_path):
    run(make_job(corpus), tmp_path / "here")
    place = copy(tmp_path / "here", f"{bucket}/set")
    shutil.copytree(tmp_path / "here", tmp_path / "whole")
    whole = embed_set(tmp_path / "whole", HashEncoder(), show=False)
    with pytest.raises(KeyboardInterrupt):
        embed_set(place, HashEncoder(calls=1), show=False)
    assert len(open_records(place, "train")) > 10  # the old set is still there
    again = HashEncoder()
    result = embed_set(place, again, show=False)
    assert len(again.asked) < whole.distinct
    assert result.manifest == whole.manifest
    assert in_store(store, place) == {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    assert verify_records(place) == []
    record = open_records(place, "train")[3]
    assert record["caption_embeddings"].shape == (len(record["captions"]), 6)
    assert embed_set(place, HashEncoder(), show=False).distinct == 0


def test_two_at_the_same_shards_of_a_bucket_are_refused(corpus, bucket, store, tmp_path, monkeypatch):
    run(make_job(corpus), tmp_path / "here")
    place = copy(tmp_path / "here", f"{bucket}/set")
    monkeypatch.setattr(lease, "RENEW", 0.1)
    monkeypatch.setattr(lease, "_was_here", lambda value: False)  # as another process sees it
    for held, part in (("0-of-2", None), ("0-of-2", (0, 2)), ("0-of-2", (1, 3)), ("whole", None), ("whole", (0, 2))):
        with (
            lease.leased(as_path(place) / ".embedding" / held),
            pytest.raises(DataError, match=rf"--set = '{place}': expected .*\(process {os.getpid()} on .* is\)"),
        ):
            embed_set(place, HashEncoder(), part=part, show=False)
    with lease.leased(as_path(place) / ".embedding" / "0-of-2"):
        assert not embed_set(place, HashEncoder(), part=(1, 2), show=False).finished
    assert embed_set(place, HashEncoder(), show=False).finished
    assert not [name for name in in_store(store, place) if name.startswith(".")]


def test_class_texts_in_a_bucket(bucket, tmp_path):
    from tests.data.record_sets import write_set

    write_set(tmp_path / "here")
    place = copy(tmp_path / "here", f"{bucket}/set")
    rows = embed_classes(place, HashEncoder())
    np.testing.assert_array_equal(load_arrays(as_path(place) / "class_embeddings.npy"), rows)
