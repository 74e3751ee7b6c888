"""Tars of img2dataset: what is read, and what becomes of odd and damaged ones."""

import io
import json
import os
import shutil
import tarfile
import tracemalloc

import pytest

from tests.prepare.corpora import make_image, make_job, run, run_one, sample, write_corpus, write_tar
from xsample_jax.data.records import open_records
from xsample_jax.errors import DataError
from xsample_jax.prepare.example import Example, Fields, Problem
from xsample_jax.prepare.webdataset import read_tar, webdataset_source


def kinds(problems):
    return [(key, kind) for _, key, kind, _ in problems]


def test_examples_in_order_with_caption_and_label(tmp_path):
    write_tar(tmp_path / "a.tar", {"000": sample(0), "sub/001": sample(1)})
    first, second = read_tar(str(tmp_path / "a.tar"), Fields())
    assert first == Example("000", sample(0)["jpg"], ("caption number 0",), 0)
    assert (second.key, second.label) == ("sub/001", 1)


def test_caption_and_label_fields(tmp_path):
    row = {"alt": ["one", None, "two"], "title": "three", "class": "cat"}
    write_tar(tmp_path / "a.tar", {"000": sample(0, json=json.dumps(row).encode(), cls=b"5\n")})
    path = str(tmp_path / "a.tar")
    (example,) = read_tar(path, Fields(captions=("title", "alt"), label="class"))
    assert (example.captions, example.label) == (("three", "one", "two"), "cat")
    (example,) = read_tar(path, Fields())
    assert (example.captions, example.label) == (("caption number 0",), "5")


def test_caption_of_json_where_there_is_no_txt(tmp_path):
    write_tar(tmp_path / "a.tar", {"000": sample(0, txt=None)})
    assert next(read_tar(str(tmp_path / "a.tar"), Fields())).captions == ("caption number 0",)


def test_files_of_a_mac_and_unknown_members_are_passed_over(tmp_path):
    members = {"000": sample(0, npy=b"12"), "._000": {"jpg": b"resource fork"}}
    write_tar(tmp_path / "a.tar", members)
    assert len(list(read_tar(str(tmp_path / "a.tar"), Fields()))) == 1


def test_images_that_are_not_read_are_said(tmp_path):
    """WebDataset takes what is behind the first dot for the kind of a member; links have no bytes of their own."""
    path = write_tar(tmp_path / "a.tar", {"000": sample(0), "img.v2": sample(1), "001": {"avif": b"x", "txt": b"t"}})
    with tarfile.open(path, "a") as tar:
        for name, kind in (("002.jpg", tarfile.LNKTYPE), ("003.JPG", tarfile.SYMTYPE), ("004.npy", tarfile.LNKTYPE)):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, "000.jpg"
            tar.addfile(link)
    found = list(read_tar(str(path), Fields()))
    assert sorted(item.key for item in found if isinstance(item, Example)) == ["000"]
    assert {(item.key, item.kind, item.detail) for item in found if isinstance(item, Problem)} == {
        ("img.v2.jpg", "unread_image", ".v2.jpg"),
        ("001.avif", "unread_image", ".avif"),
        ("001", "no_image", "only txt"),
        ("002.jpg", "unread_image", "a link"),
        ("003.JPG", "unread_image", "a link"),
    }


def test_fields_and_the_content_of_tars_are_part_of_the_work(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"000": sample(0)})
    first = make_job(tmp_path)
    others = [make_job(tmp_path, fields) for fields in (Fields(captions=("alt",)), Fields(label="k"))]
    write_tar(path, {"000": sample(0, txt=b"caption number 9")})  # as long as before
    os.utime(path, ns=(0, 10**18))
    others.append(make_job(tmp_path))
    assert len({job.fingerprint for job in (first, *others)}) == 4


def test_compressed_and_odd_names_of_tars(tmp_path):
    write_tar(tmp_path / "deep" / "B.TAR", {"001": sample(1)})
    write_tar(tmp_path / ".hidden" / "c.tar", {"002": sample(2)})
    assert [shard.name for shard in webdataset_source(str(tmp_path), Fields()).shards] == ["deep/B.TAR"]
    for name in ("x.tar.gz", "x.tgz", "x.tar.zst"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(DataError, match=rf"{name}.*not compressed"):
            webdataset_source(str(tmp_path), Fields())
        (tmp_path / name).unlink()
    with pytest.raises(DataError, match="a file that can be read"):
        list(read_tar(str(tmp_path / "gone.tar"), Fields()))


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"jpg": b""}, "broken_image"),
        ({"jpg": make_image(1)[:300]}, "broken_image"),
        ({"jpg": None}, "no_image"),
        ({"json": b"{"}, "broken_metadata"),
        ({"json": b"[1]"}, "broken_metadata"),
        ({"json": b"[" * 100_000}, "broken_metadata"),
    ],
)
def test_dropped_and_said(tmp_path, change, kind):
    record, report, problems = run_one(tmp_path, sample(1, **change))
    assert record is None
    assert (report["kept"], report[kind]) == (1, 1)
    assert kinds(problems) == [("odd", kind)]


@pytest.mark.parametrize("label", ["[1, 2]", '{"a": 1}', "2.7", "Infinity"])
def test_an_entry_that_is_no_label_drops_the_example_only_where_it_was_asked_for(tmp_path, label):
    odd = sample(1, json=b'{"label": %s}' % label.encode())
    record, report, problems = run_one(tmp_path / "unasked", odd)
    assert (record["label"], report["kept"], problems) == (-1, 2, [])
    (tmp_path / "asked" / "in").mkdir(parents=True)
    shutil.copy(tmp_path / "unasked" / "in" / "a.tar", tmp_path / "asked" / "in")
    good, problem = read_tar(str(tmp_path / "asked" / "in" / "a.tar"), Fields(label="label"))
    assert good.label == 0
    assert (problem.key, problem.kind) == ("odd", "broken_metadata")
    assert "expected a whole number or a text" in problem.detail


def test_missing_caption_is_kept_or_dropped(tmp_path):
    record, report, problems = run_one(tmp_path / "kept", sample(1, txt=None, json=None))
    assert (record["captions"], report["no_caption"]) == ([], 1)
    assert kinds(problems) == [("odd", "no_caption")]
    record, report, _ = run_one(tmp_path / "dropped", sample(1, txt=b" \n"), require_caption=True)
    assert (record, report["kept"], report["no_caption"]) == (None, 1, 1)


def test_long_caption_emoji_right_to_left_and_bytes_that_are_no_text(tmp_path):
    record, report, _ = run_one(tmp_path / "long", sample(1, txt=b"word " * 2000))
    assert report["cut_caption"] == 1
    assert 3900 < len(record["captions"][0]) <= 4000
    text = "🐏 \u202bכבש\u202c خروف"
    record, report, problems = run_one(tmp_path / "scripts", sample(1, txt=text.encode()))
    assert (record["captions"], problems) == ([text], [])
    record, report, _ = run_one(tmp_path / "latin", sample(1, txt="café table".encode("latin-1")))
    assert (record["captions"], report["not_unicode"]) == (["caf\ufffd table"], 1)


def test_of_a_key_that_comes_twice_the_first_is_kept(tmp_path):
    write_tar(tmp_path / "in" / "a.tar", [("x", sample(1)), ("y", sample(2)), ("x", sample(3))])
    manifest, report = run(make_job(tmp_path / "in"), tmp_path / "out")
    assert (report["kept"], report["duplicate_key"]) == (2, 1)
    kept = [r["captions"][0] for split in manifest.splits for r in open_records(tmp_path / "out", split)]
    assert sorted(kept) == ["caption number 1", "caption number 2"]


def test_a_key_without_a_caption_leaves_its_place_to_one_with(tmp_path):
    write_tar(tmp_path / "in" / "a.tar", [("0", sample(0, txt=None, json=None)), ("1", sample(1)), ("0", sample(2))])
    _, report = run(make_job(tmp_path / "in", require_caption=True), tmp_path / "out")
    assert (report["kept"], report["no_caption"], report.get("duplicate_key", 0)) == (2, 1, 0)


def test_a_suffix_that_comes_twice_begins_another_example(tmp_path):
    write_tar(tmp_path / "a.tar", [("x", sample(1)), ("x", sample(2))])
    assert [example.key for example in read_tar(str(tmp_path / "a.tar"), Fields())] == ["x", "x"]


def test_keys_of_other_tars_are_counted_and_kept(tmp_path):
    for name in "ab":
        write_tar(tmp_path / "in" / f"{name}.tar", {"x": sample(1), "y": sample(2)})
    _, report = run(make_job(tmp_path / "in"), tmp_path / "out")
    assert (report["kept"], report["duplicate_keys_across_shards"]) == (4, 2)
    assert (report["captions"], report["duplicate_captions"]) == (4, 2)


def test_a_tar_cut_anywhere_gives_what_is_whole_and_says_so(tmp_path):
    whole = write_tar(tmp_path / "a.tar", {f"{number:03d}": sample(number) for number in range(3)}).read_bytes()
    expected = list(read_tar(str(tmp_path / "a.tar"), Fields()))
    assert len(expected) == 3
    end = len(whole.rstrip(b"\0"))
    data_end = -(-end // 512) * 512
    (tmp_path / "a.tar").write_bytes(whole[: data_end + 512])  # one block of zeros is enough
    assert list(read_tar(str(tmp_path / "a.tar"), Fields())) == expected
    for cut in [0, 100, 512, 700, *range(1024, data_end + 1, 512), data_end - 100, data_end + 10]:
        (tmp_path / "a.tar").write_bytes(whole[:cut])
        *examples, problem = read_tar(str(tmp_path / "a.tar"), Fields())
        assert (problem.key, problem.kind) == ("a.tar", "truncated_tar"), cut
        for example, right in zip(examples, expected):
            # The last one may lack members that come after its image only if the cut is right between two members.
            assert isinstance(example, Problem) or example.image == right.image


def test_a_damaged_header_in_the_middle_is_not_the_end(tmp_path):
    path = write_tar(tmp_path / "a.tar", {f"{number:03d}": sample(number) for number in range(3)})
    data = bytearray(path.read_bytes())
    place = data.index(b"001.txt")
    data[place : place + 100] = b"\xff" * 100
    path.write_bytes(data)
    *examples, problem = read_tar(str(path), Fields())
    assert problem.kind == "truncated_tar"
    assert f"byte {place}" in problem.detail
    assert examples[0].key == "000"


def test_a_truncated_tar_is_reported_and_the_rest_of_the_corpus_is_there(tmp_path):
    corpus = write_corpus(tmp_path / "in", tars=2, each=5)
    data = (corpus / "00000.tar").read_bytes()
    (corpus / "00000.tar").write_bytes(data[: data.index(b"000000003.jpg") + 600])
    _, report = run(make_job(corpus), tmp_path / "out")
    assert (report["kept"], report["truncated_tar"]) == (8, 1)


def test_memory_does_not_grow_with_the_tar(tmp_path):
    def peak(count):
        path = write_tar(tmp_path / f"{count}.tar", ((f"{n:05d}", {"jpg": bytes(5000)}) for n in range(count)))
        tracemalloc.start()
        for _ in read_tar(str(path), Fields()):
            pass
        result = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return result

    peak(10)
    assert peak(2000) < peak(100) + 20_000  # the tar is 10 MB larger


def test_names_of_classes_come_from_the_user(tmp_path):
    write_tar(tmp_path / "in" / "a.tar", {"x": sample(1, cls=b"cat"), "y": sample(2, cls=b"dog")})
    with pytest.raises(DataError, match=r"label of x.*--class_names"):
        run(make_job(tmp_path / "in"), tmp_path / "out")
    fields = Fields(class_names=("dog", "cat"))
    manifest, _ = run(make_job(tmp_path / "in", fields, splits={"train": 1.0}), tmp_path / "out2")
    assert [record["label"] for record in open_records(tmp_path / "out2", "train")] == [1, 0]
    assert manifest.class_names == ("dog", "cat")
    (tmp_path / "in" / "a.tar").unlink()
    write_tar(tmp_path / "in" / "a.tar", {"x": sample(1, cls=b"2")})
    _, report = run(make_job(tmp_path / "in", fields), tmp_path / "out3")  # one odd label does not stop the work
    assert (report["kept"], report["unknown_label"]) == (1, 1)


def test_patterns_folders_and_splits(tmp_path):
    write_corpus(tmp_path / "c" / "train", tars=2)
    write_corpus(tmp_path / "c" / "val", tars=1)
    assert [s.name for s in webdataset_source(str(tmp_path / "c/train/*1.tar"), Fields()).shards] == ["00001.tar"]
    several = webdataset_source(str(tmp_path / "c" / "*" / "00000.tar"), Fields(), split_by_folder=True).shards
    assert [(s.name, s.split) for s in several] == [("train/00000.tar", "train"), ("val/00000.tar", "val")]
    shards = webdataset_source(str(tmp_path / "c"), Fields(), split_by_folder=True).shards
    assert [(s.name, s.split) for s in shards] == [
        ("train/00000.tar", "train"), ("train/00001.tar", "train"), ("val/00000.tar", "val"),
    ]  # fmt: skip
    with pytest.raises(DataError, match="--split_by_folder"):
        webdataset_source(str(tmp_path / "c/train"), Fields(), split_by_folder=True)
    with pytest.raises(DataError, match=r"No \*\.tar"):
        webdataset_source(str(tmp_path / "nowhere"), Fields())
    write_corpus(tmp_path / "c" / "v1.train", tars=1)
    with pytest.raises(DataError, match=r"--split_by_folder = 'v1\.train': expected letters, digits and underscores"):
        webdataset_source(str(tmp_path / "c"), Fields(), split_by_folder=True)


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_and_members_of_every_kind_of_tar(tmp_path, kind):
    """Long names are stored in three ways, none of which the short way to read a header may break."""
    keys = ["a", "sträße/b", "x" * 90 + "/" + "y" * 60, *["z" * 200] * (kind != tarfile.USTAR_FORMAT)]
    with tarfile.open(tmp_path / "a.tar", "w", format=kind) as tar:
        folder = tarfile.TarInfo("folder.jpg")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for number, key in enumerate(keys):
            info = tarfile.TarInfo(f"{key}.jpg")
            info.size, info.mtime = len(make_image(number)), 1234567.5
            tar.addfile(info, io.BytesIO(make_image(number)))
    found = list(read_tar(str(tmp_path / "a.tar"), Fields()))
    assert [(item.key, item.image) for item in found] == [(key, make_image(n)) for n, key in enumerate(keys)]
