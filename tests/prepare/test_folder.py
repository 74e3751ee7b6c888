"""Folders of images, with folder names or a table as labels and captions."""

import errno
import json
import os
import shutil

import pyarrow
import pyarrow.parquet
import pytest

from tests.prepare.corpora import make_image
from xsample_jax.data.records import open_records
from xsample_jax.errors import DataError
from xsample_jax.prepare.example import Fields, Problem
from xsample_jax.prepare.folder import folder_source, read_table
from xsample_jax.prepare.job import ImageOptions, Job
from xsample_jax.prepare.prepare import local_runner, prepare

NAMES = ["cat/1.jpg", "cat/2.JPEG", "dog/1.png", "dog/notes.txt", "dog/.hidden.jpg", "top.jpg"]


@pytest.fixture
def photos(tmp_path):
    for number, name in enumerate(NAMES):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make_image(number, kind="PNG" if name.endswith("png") else "JPEG"))
    return tmp_path / "photos"


def records(source, out):
    """{split: [(label name, captions), ...]} in the order of the records."""
    manifest, report = prepare(Job("t", source, {"train": 1.0}, ImageOptions(None)), out, local_runner(1))
    name = lambda label: label if label < 0 or not manifest.class_names else manifest.class_names[label]  # noqa: E731
    found = {split: [(name(r["label"]), r["captions"]) for r in open_records(out, split)] for split in manifest.splits}
    return found, report


def test_folder_names_are_labels(photos, tmp_path):
    source = folder_source(str(photos), Fields())
    assert source.class_names == ("cat", "dog")
    found, report = records(source, tmp_path / "out")
    assert [label for label, _ in found["train"]] == ["cat", "cat", "dog", -1]
    assert report["no_caption"] == 4
    assert open_records(tmp_path / "out", "train")[0]["image"] == make_image(0)


def test_input_shards_do_not_change_what_is_read(photos, tmp_path):
    whole, _ = records(folder_source(str(photos), Fields()), tmp_path / "whole")
    source = folder_source(str(photos), Fields(), shard_size=3)
    assert len(source.shards) == 2
    assert records(source, tmp_path / "parts")[0] == whole


def test_folders_as_splits(tmp_path):
    for name in ("train/cat/1.jpg", "train/dog/2.jpg", "val/dog/3.jpg"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(make_image(1))
    found, _ = records(folder_source(str(tmp_path / "in"), Fields(), split_by_folder=True), tmp_path / "out")
    assert {split: [label for label, _ in some] for split, some in found.items()} == {
        "train": ["cat", "dog"], "val": ["dog"],
    }  # fmt: skip


def test_a_folder_that_cannot_name_a_split(photos, tmp_path):
    (photos / "top.jpg").unlink()
    table = write_table(tmp_path / "t.jsonl", [{"image": "../elsewhere/1.jpg"}])
    for name in ("v1.train", "tr-ain"):
        (photos / "dog").rename(photos / name)
        with pytest.raises(DataError, match=rf"--split_by_folder = '{name}': expected letters.*Rename"):
            folder_source(str(photos), Fields(), split_by_folder=True)
        (photos / name).rename(photos / "dog")
    with pytest.raises(DataError, match=r"--split_by_folder = '\.\.'"):
        folder_source(str(photos), Fields(), table, split_by_folder=True)


def write_table(path, rows):
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        comma = "\t" if path.suffix == ".tsv" else ","
        lines = [list(rows[0])] + [
            ['"' + str(value).replace('"', '""') + '"' for value in row.values()] for row in rows
        ]
        path.write_text("\ufeff" + "\n".join(comma.join(line) for line in lines) + "\n", encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
def test_tables(photos, tmp_path, kind):
    rows = [
        {"file": "dog/1.png", "caption": 'a "dog", sitting', "label": "dog"},
        {"file": "cat/1.jpg", "caption": "un chat\n🐈", "label": "cat"},
        {"file": "./cat/1.jpg", "caption": "a cat", "label": "cat"},
        {"file": "gone.jpg", "caption": "nothing", "label": "cat"},
    ]
    table = write_table(tmp_path / f"table.{kind}", rows)
    found, report = records(folder_source(str(photos), Fields(), table), tmp_path / "out")
    assert found["train"] == [("cat", ["un chat 🐈", "a cat"]), ("dog", ['a "dog", sitting'])]
    assert report["no_image"] == 1


def test_columns_by_name_and_labels_as_numbers(photos, tmp_path):
    rows = [{"img": "top.jpg", "short": "s", "long": "a long text", "k": 7}, {"img": "cat/1.jpg", "long": "l", "k": 2}]
    table = write_table(tmp_path / "t.jsonl", rows)
    fields = Fields(captions=("long", "short"), label="k", image="img")
    found, _ = records(folder_source(str(photos), fields, table), tmp_path / "out")
    assert found["train"] == [(2, ["l"]), (7, ["a long text", "s"])]
    for fields, flag in ((Fields(image="imgs"), "--image_field"), (Fields(image="img", captions=("lon",)), "long")):
        with pytest.raises(DataError, match=flag):
            folder_source(str(photos), fields, table)
    with pytest.raises(DataError, match="--image_field=COLUMN"):
        folder_source(str(photos), Fields(), table)


def test_missing_values_are_no_caption_and_no_label(photos, tmp_path):
    table = write_table(tmp_path / "t.parquet", [{"image": "top.jpg", "caption": None, "label": None}])
    found, _ = records(folder_source(str(photos), Fields(), table), tmp_path / "out")
    assert found["train"] == [(-1, [])]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "image,caption\na.jpg,one, two\n", "line 2"),
        ("t.csv", "image,caption\n", "at least one row"),
        ("t.jsonl", '{"image": "a.jpg"}\n{"image"\n', "line 2"),
        ("t.jsonl", "[1]\n", "JSON map"),
        ("t.parquet", "no parquet", "readable table"),
        ("t.xlsx", "", "a .csv"),
    ],
)
def test_bad_tables(photos, tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        folder_source(str(photos), Fields(), str(tmp_path / name))
    with pytest.raises(DataError, match="existing file"):
        folder_source(str(photos), Fields(), "nowhere.csv")


def test_two_labels_of_one_image_are_refused(photos, tmp_path):
    rows = [{"image": "top.jpg", "label": "a"}, {"image": "top.jpg", "label": "b"}]
    with pytest.raises(DataError, match=r"label of top\.jpg"):
        folder_source(str(photos), Fields(), write_table(tmp_path / "t.jsonl", rows))


def test_an_entry_of_a_table_that_is_no_label(photos, tmp_path):
    rows = [{"image": "top.jpg", "label": [1, 2], "k": 2.5}, {"image": "cat/1.jpg", "label": 1, "k": 3.0}]
    for name in ("t.jsonl", "t.parquet"):
        rows[1]["label"] = [1] if name == "t.parquet" else 1
        table = write_table(tmp_path / name, rows)
        labels = [row[2] for shard in folder_source(str(photos), Fields(), table).shards for row in shard.read.args[1]]
        assert labels == ([None, None] if name == "t.parquet" else [1, None])
        with pytest.raises(DataError, match=rf"^k of top\.jpg in .*{name} = 2\.5: expected a whole number or a text"):
            folder_source(str(photos), Fields(label="k"), table)


def test_no_images(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match="None is there"):
        folder_source(str(tmp_path), Fields())
    with pytest.raises(DataError, match="existing folder"):
        folder_source(str(tmp_path / "nowhere"), Fields())


def test_hidden_folders_and_links_in_circles(photos, tmp_path):
    (photos / "cat" / "loop").symlink_to(photos)
    (photos / "dog" / "here").symlink_to(photos / "dog")
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "back").symlink_to(photos)
    (tmp_path / "far" / "4.JPG").write_bytes(make_image(9))
    (photos / "far").symlink_to(tmp_path / "far")
    (photos / ".checkpoints").mkdir()
    (photos / ".checkpoints" / "1.jpg").write_bytes(make_image(9))
    rows = [row[0] for shard in folder_source(str(photos), Fields()).shards for row in shard.read.args[1]]
    assert rows == ["cat/1.jpg", "cat/2.JPEG", "dog/1.png", "far/4.JPG", "top.jpg"]


def test_a_folder_elsewhere_is_other_work(photos, tmp_path):
    job = Job("t", folder_source(str(photos), Fields()), {"train": 1.0})
    shutil.copytree(photos, tmp_path / "again")
    assert Job("t", folder_source(str(tmp_path / "again"), Fields()), {"train": 1.0}).fingerprint != job.fingerprint
    assert Job("t", folder_source(str(photos), Fields()), {"train": 1.0}).fingerprint == job.fingerprint


def test_labels_as_pandas_writes_them(photos, tmp_path):
    """Numbers beside a missing one are 3.0; a column with a name in it is one of names, as they stand."""
    (tmp_path / "t.CSV").write_text("image,label\ncat/1.jpg,3.0\ncat/2.JPEG,10.0\ntop.jpg,\n")
    source = folder_source(str(photos), Fields(), str(tmp_path / "t.CSV"))
    assert ([row[2] for row in source.shards[0].read.args[1]], source.class_names) == ([3, 10, None], ())
    (tmp_path / "t.csv").write_text("image,label\ncat/1.jpg,007\ncat/2.JPEG,7\ntop.jpg,bond\n")
    source = folder_source(str(photos), Fields(), str(tmp_path / "t.csv"))
    assert [row[2] for row in source.shards[0].read.args[1]] == ["007", "7", "bond"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("comma", [",", "\t"])
def test_blanks_beside_the_names_of_columns(photos, tmp_path, comma, encoding):
    """faults C3: captions and labels of "image, caption, label" were lost, with exit code 0."""
    table = tmp_path / ("t.csv" if comma == "," else "t.tsv")
    lines = ["caption , image, label", '"one, two", top.jpg, cat', 'three, cat/1.jpg, "dog"']
    table.write_bytes("\n".join(lines).replace(", ", f"{comma} ").replace("one\t", "one,").encode(encoding))
    source = folder_source(str(photos), Fields(captions=("caption",)), str(table))
    assert source.shards[0].read.args[1] == [
        ("cat/1.jpg", ("three",), "dog", ()),
        ("top.jpg", ("one, two",), "cat", ()),
    ]
    table.write_text(f"image{comma}a{comma} a\ntop.jpg{comma}x{comma}y\n")
    with pytest.raises(DataError, match=r"= 'a': expected names that occur once"):
        folder_source(str(photos), Fields(), str(table))


def test_columns_without_a_name_are_not_read(photos, tmp_path):
    """faults C3: spreadsheets end every line with empty columns, which were names that come twice."""
    table = tmp_path / "t.csv"
    table.write_text("image,caption,,\ntop.jpg,one two,,a note\n")
    assert read_table(table) == [{"image": "top.jpg", "caption": "one two"}]
    assert folder_source(str(photos), Fields(), str(table)).notes == ()


@pytest.mark.parametrize(("name", "mark"), [("t.csv", ";"), ("t.csv", "\t"), ("t.tsv", ","), ("t.tsv", ";")])
def test_what_separates_the_names_separates_all(photos, tmp_path, name, mark):
    """faults C3: a table as spreadsheets write it where a comma is a decimal point was one column, and no reason."""
    (tmp_path / name).write_text(f"image{mark}caption\ntop.jpg{mark}one two\n")
    source = folder_source(str(photos), Fields(), str(tmp_path / name))
    assert source.shards[0].read.args[1] == [("top.jpg", ("one two",), None, ())]


def test_mixed_separators_are_named(photos, tmp_path):
    """faults C3"""
    (tmp_path / "t.csv").write_text("image;caption,label\ntop.jpg;one,cat\n")
    with pytest.raises(DataError, match=r"names have semicolons in them"):
        folder_source(str(photos), Fields(), str(tmp_path / "t.csv"))
    with pytest.raises(DataError, match=r"--caption_fields = 'caption'.*names have semicolons in them"):
        folder_source(str(photos), Fields(captions=("caption",), image="image;caption"), str(tmp_path / "t.csv"))


def test_the_name_of_a_class_is_not_guessed(photos, tmp_path):
    """faults C3: of Latin-1 names, letters became U+FFFD, and classes that differed there became one."""
    (photos / "top.cls").write_bytes("Käfer".encode("latin-1"))
    (problem,) = [
        found for found in folder_source(str(photos), Fields()).shards[0].read() if isinstance(found, Problem)
    ]
    assert (problem.kind, "utf-8" in problem.detail) == ("broken_metadata", True)


@pytest.mark.parametrize("value", [None, 3, {"bytes": "x", "path": "a.jpg"}, ""])
def test_an_image_column_without_paths(photos, tmp_path, value):
    table = write_table(tmp_path / "t.jsonl", [{"image": "top.jpg"}, {"image": value}])
    with pytest.raises(DataError, match=r"image in row 2 of .*the path of an image.*--image_field"):
        folder_source(str(photos), Fields(), table)


def test_columns_that_only_later_rows_have(photos, tmp_path):
    table = write_table(tmp_path / "t.jsonl", [{"image": "top.jpg"}, {"image": "cat/1.jpg", "title": "a cat"}])
    found, _ = records(folder_source(str(photos), Fields(captions=("title",)), table), tmp_path / "out")
    assert found["train"] == [(-1, ["a cat"]), (-1, [])]


def test_an_image_that_cannot_be_read_now_stops_the_work(photos, tmp_path, monkeypatch):
    source = folder_source(str(photos), Fields())

    def flaky(path):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("pathlib.Path.read_bytes", flaky)
    with pytest.raises(DataError, match=r"image cat/1\.jpg = 'Input/output error'.*same command"):
        list(source.shards[0].read())


def test_a_class_name_that_no_manifest_could_hold(tmp_path):
    folder = os.path.join(os.fsencode(tmp_path), b"in", b"caf\xe9")
    os.makedirs(folder)
    with open(os.path.join(folder, b"1.jpg"), "wb") as file:
        file.write(make_image(1))
    with pytest.raises(DataError, match=r"class name = .*udce9.*UTF-8.*Rename"):
        Job("t", folder_source(str(tmp_path / "in"), Fields()), {"train": 1.0})


@pytest.mark.parametrize("name", ["metadata.jsonl", "train/metadata.csv"])
def test_the_table_of_an_image_folder_is_named(photos, tmp_path, name):
    """faults C4: the form of Hugging Face's ImageFolder; its captions were lost without a word."""
    (photos / "train").mkdir()
    table = write_table(photos / name, [{"file_name": "top.jpg", "text": "a cat"}])
    note = folder_source(str(photos), Fields()).notes[-1]
    assert f"The table {name} is not read" in note
    assert ("--table=" if name == "metadata.jsonl" else "--source=hf") in note
    found, _ = records(folder_source(str(photos), Fields(), table), tmp_path / "out")
    assert found == {"train": [(-1, ["a cat"])]}


def test_columns_of_texts_that_are_not_read_are_named(photos, tmp_path):
    """faults C14"""
    rows = [{"image": "top.jpg", "alt": "a cat here", "label": "big cat", "code": "x7"}]
    notes = folder_source(str(photos), Fields(), write_table(tmp_path / "t.csv", rows)).notes
    assert notes[-1].endswith("--caption_fields takes alt.")


def test_a_long_caption_of_a_table_is_cut_and_a_longer_one_refused(photos, tmp_path):
    """faults C14: more than 131,072 characters stopped the command."""
    table = write_table(tmp_path / "t.csv", [{"image": "top.jpg", "caption": "word " * 100_000}])
    _, report = records(folder_source(str(photos), Fields(), table), tmp_path / "out")
    assert report["cut_caption"] == 1
    write_table(tmp_path / "t.csv", [{"image": "top.jpg", "caption": "word " * 300_000}])
    with pytest.raises(DataError, match=r"t.csv, line 2 = 'field larger than field limit"):
        folder_source(str(photos), Fields(), table)


def test_an_entry_that_occurs_twice_in_json_is_refused(photos, tmp_path):
    """faults C3: the last was read. Equal ones do no harm."""
    table = tmp_path / "t.jsonl"
    table.write_text('{"image": "top.jpg", "caption": "one", "caption": "two"}\n')
    with pytest.raises(DataError, match="the entry 'caption' occurs twice"):
        folder_source(str(photos), Fields(), str(table))
    (photos / "top.json").write_text('{"caption": "one", "caption": "two"}')
    (photos / "dog" / "1.json").write_text('{"caption": "one", "caption": "one"}')
    found, report = records(folder_source(str(photos), Fields()), tmp_path / "out")
    assert report["broken_metadata"] == 1
    assert [captions for _, captions in found["train"]] == [[], [], ["one"]]
