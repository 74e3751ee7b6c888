"""Labels that are names, numbers, or names that look like numbers: every record gets the class that it says."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from tests.prepare.corpora import make_image, sample, write_tar
from xsample_jax.data.records import open_records
from xsample_jax.errors import DataError
from xsample_jax.prepare import huggingface, tfds
from xsample_jax.prepare.example import Example, Fields, Problem, Source, read_column
from xsample_jax.prepare.folder import folder_source
from xsample_jax.prepare.job import ImageOptions, Job
from xsample_jax.prepare.parquet import parquet_source
from xsample_jax.prepare.prepare import local_runner, prepare
from xsample_jax.prepare.sources import Options, open_source
from xsample_jax.prepare.vectors import vectors_source
from xsample_jax.prepare.webdataset import webdataset_source
from xsample_jax.tools.prepare import read_class_names

ASKED = ("--label_field",)
MIXED = ["0", "1", "2", "a", "b", "c"]


def make(source, out, asked=()):
    return prepare(Job("t", source, {"train": 1.0}, ImageOptions(None), asked=asked), out, local_runner(1))


def names_of(source, out, asked=()):
    """(name of the class of each record, or its number where there are no names; the report)."""
    manifest, report = make(source, out, asked)
    labels = [record["label"] for record in open_records(out, "train")]
    return [manifest.class_names[k] if manifest.class_names and k >= 0 else k for k in labels], report


def write_images(path, **columns):
    count = len(next(iter(columns.values())))
    columns = {"image": [make_image(number) for number in range(count)]} | columns
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return str(path)


def source_of(kind, labels, names, folder):
    """The same labels as a column of each kind of input."""
    fields = Fields(label="label", class_names=tuple(names))
    if kind == "vectors":
        np.savez(folder / "v.npz", vectors=np.eye(len(labels), dtype=np.float32), label=np.array(labels))
        return vectors_source(str(folder / "v.npz"), fields, 4)
    if kind == "parquet":
        return parquet_source(write_images(folder / "p.parquet", label=labels), fields)
    if kind == "tars":
        rows = [sample(k, json=json.dumps({"label": label}).encode()) for k, label in enumerate(labels)]
        write_tar(folder / "a.tar", [(f"{k:03d}", row) for k, row in enumerate(rows)])
        return webdataset_source(str(folder), fields)
    for number in range(len(labels)):
        (folder / f"{number}.jpg").write_bytes(make_image(number))
    lines = [f"{number}.jpg,{label}" for number, label in enumerate(labels)]
    (folder / "t.csv").write_text("\n".join(["image,label", *lines]) + "\n")
    return folder_source(str(folder), fields, str(folder / "t.csv"))


@pytest.mark.parametrize("kind", ["vectors", "parquet", "table"])
def test_a_column_with_a_name_is_one_of_names(kind, tmp_path):
    """faults C6: "0", "1" and "2" of vectors and of Parquet became the classes a, b and c."""
    found, _ = names_of(source_of(kind, MIXED, (), tmp_path), tmp_path / "out", ASKED)
    assert found == MIXED


@pytest.mark.parametrize("kind", ["vectors", "parquet", "table", "tars"])
@pytest.mark.parametrize(
    ("labels", "names"),
    [(MIXED, ["a", "b", "c", "0", "1", "2"]), (["1", "2"], ["1", "2", "3"]), (["B", "1", "0"], ["A", "B", "0", "1"])],
)
def test_a_text_that_is_the_name_of_a_class_is_that_class(kind, labels, names, tmp_path):
    """faults C6: the number in it was taken for an index, whatever class has that name."""
    assert names_of(source_of(kind, labels, names, tmp_path), tmp_path / "out", ASKED)[0] == labels


def test_members_cls_are_names_where_names_look_like_other_numbers(tmp_path):
    """faults C6: "1" became the class "2", and "3" none."""
    members = {f"{k:03d}": sample(k, json=None, cls=text) for k, text in enumerate([b"1", b"3.0", b"0", b"-1"])}
    write_tar(tmp_path / "a.tar", members)
    source = webdataset_source(str(tmp_path), Fields(class_names=("1", "2", "3")))
    found, report = names_of(source, tmp_path / "out")
    assert (found, report["unknown_label"]) == (["1", "3", -1, -1], 1)


def test_numbers_are_indices_of_words(tmp_path):
    """Texts too, and where names are the numbers of their classes both are the same."""
    job = Job("t", source_of("tars", ["1"], ("cat", "dog"), tmp_path), {"train": 1.0})
    assert [job.label_index(label, "k") for label in ("cat", "1", "1.0", 1, "-1", None)] == [0, 1, 1, 1, -1, -1]
    with pytest.raises(DataError, match="label of k = '2': expected the name of a class or its number"):
        job.label_index("2", "k")
    shards = job.source.shards
    digits = Job("t", Source(shards, tuple("0123")), {"train": 1.0})
    assert [digits.label_index(label, "k") for label in ("2", "2.0", 2)] == [2, 2, 2]
    years = Job("t", Source(shards, ("1999", "2000"), labels_are_names=True), {"train": 1.0})
    assert [years.label_index(label, "k") for label in ("2000", "2000.0", 1)] == [1, 1, 1]  # a number is an index
    with pytest.raises(DataError, match="label of k"):
        years.label_index("1", "k")


@pytest.mark.parametrize("missing", ["nan", "NaN", "None", "<NA>"])
def test_what_stands_for_a_missing_number_is_no_class(missing, tmp_path):
    """faults C5: one nan made names of all numbers of its column, and a class of itself."""
    labels, names, notes = read_column(["0.0", "1.0", missing, missing, None])
    assert (labels, names) == ([0, 1, None, None, None], {})
    assert notes == [f"{missing} among labels that are numbers: no label (2 times)."]
    assert read_column(["cat", missing])[1]["class_names"] == tuple(sorted(["cat", missing]))
    assert read_column([missing])[0] == [missing]
    found, report = names_of(source_of("table", ["0.0", "2.0", missing], (), tmp_path), tmp_path / "out", ASKED)
    assert (found, "no label" in report["notes"][0]) == ([0, 2, -1], True)


def test_missing_numbers_of_parquet_and_tars(tmp_path):
    """faults C5: counted, and no reason to stop."""
    for kind in ("parquet", "tars"):
        (tmp_path / kind).mkdir()
        source = source_of(kind, ["0", "2.0", "nan"], (), tmp_path / kind)
        found, report = names_of(source, tmp_path / f"{kind}_out", ASKED)
        assert (found, report["missing_field"]) == ([0, 2, -1], 1)


def test_texts_of_parquet_that_nobody_asked_for_do_not_stop_the_work(tmp_path):
    """faults C10: no flag left them out. Asked for, they are the classes."""
    path = write_images(tmp_path / "p.parquet", label=["a person", "1", "two dogs"])
    found, report = names_of(parquet_source(path, Fields()), tmp_path / "out")
    assert (found, report["unknown_label"]) == ([-1, -1, -1], 3)
    assert "--label_field=label makes them classes" in report["notes"][1]
    found, _ = names_of(parquet_source(path, Fields(label="label")), tmp_path / "asked", ASKED)
    assert found == ["a person", "1", "two dogs"]


def test_a_number_that_no_record_can_hold_is_no_class(tmp_path):
    """faults C10: it ended the work with a message that named no fix."""
    path = write_images(tmp_path / "p.parquet", label=[10**12, 5, 2**31 - 1])
    found, report = names_of(parquet_source(path, Fields()), tmp_path / "out")
    assert (found, report["unknown_label"]) == ([-1, 5, -1], 2)
    with pytest.raises(
        DataError, match=r"label of p\.parquet/0 = 1000000000000: expected a number from 0 to 2147483646"
    ):
        make(parquet_source(path, Fields(label="label")), tmp_path / "asked", ASKED)
    write_tar(tmp_path / "a.tar", {"000": sample(0, cls=b"99999999999"), "001": sample(1, cls=b"7")})
    found, report = names_of(webdataset_source(str(tmp_path / "a.tar"), Fields()), tmp_path / "tars")
    assert (found, report["unknown_label"]) == ([-1, 7], 1)


def test_a_mask_is_not_taken_for_the_image(tmp_path):
    """faults C4: the first column of bytes was."""
    images, masks = ([make_image(number + start) for number in range(2)] for start in (0, 9))
    tables = {"a": {"mask": masks, "image": images}, "b": {"mask": masks, "photo": images}}
    for name, columns in tables.items():
        (tmp_path / name).mkdir()
        pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / name / "x.parquet")
    _, report = make(parquet_source(str(tmp_path / "a"), Fields()), tmp_path / "out")
    assert [record["image"] for record in open_records(tmp_path / "out", "train")] == images
    assert report["notes"] == ["The images are those of the column image."]
    with pytest.raises(DataError, match=r"mask, photo.*--image_field=COLUMN"):
        parquet_source(str(tmp_path / "b"), Fields())
    make(parquet_source(str(tmp_path / "b"), Fields(image="photo")), tmp_path / "photo")
    assert [record["image"] for record in open_records(tmp_path / "photo", "train")] == images


def test_shares_beside_splits_of_the_input_are_refused(tmp_path):
    """faults C3: --splits was ignored without a word."""
    write_images(tmp_path / "train-00000-of-00001.parquet", label=[0, 1])
    options = Options(splits="train=0.5,test=0.5")
    with pytest.raises(DataError, match=r"--splits = 'train=0\.5,test=0\.5': expected nothing: .* splits of its own"):
        open_source("parquet", str(tmp_path), Fields(), options)
    write_images(tmp_path / "more.parquet", label=[0, 1])
    source = open_source("parquet", str(tmp_path), Fields(), options)
    assert source.notes[-1] == "--splits divides 1 of 2 input shards; the others name theirs."


def test_texts_of_tfds_and_of_the_hub_that_nobody_asked_for(monkeypatch):
    """faults C10: one label that is a text ended the work."""
    rows = [{"image": {"bytes": b"x"}, "label": "a person"}, {"image": {"bytes": b"x"}, "label": "3"}]
    hub = SimpleNamespace(num_shards=1, shard=lambda **_: hub, cast_column=lambda *_: rows)
    module = SimpleNamespace(load_dataset=lambda **_: hub, Image=lambda decode: None)
    monkeypatch.setitem(sys.modules, "datasets", module)
    monkeypatch.setattr(tfds, "_builder", lambda path: SimpleNamespace(as_data_source=lambda **_: rows))
    for fields, expected in ((Fields(), [None, "3"]), (Fields(label="label"), ["a person", "3"])):
        for items in (
            list(huggingface.read_shard({}, "train", 0, "image", fields)),
            list(tfds.read_range("t", "train", 0, 2, fields)),
        ):
            assert [item.label for item in items if isinstance(item, Example)] == expected
            kinds = [item.kind for item in items if isinstance(item, Problem)]
            assert kinds == ["unknown_label"] * (expected[0] is None)


@pytest.mark.parametrize("text", ["Cat\nDog\n", "0 cat\n1 dog\n"])
def test_names_of_classes_that_no_label_has_are_an_error(tmp_path, text):
    """faults C3: every label was lost, with exit code 0; and an empty file was no list at all."""
    for name in ("cat", "dog"):
        (tmp_path / "in" / name).mkdir(parents=True)
        (tmp_path / "in" / name / "1.jpg").write_bytes(make_image(1))
    fields = Fields(class_names=tuple(text.splitlines()))
    with pytest.raises(DataError, match="--class_names = 'in no example'"):
        make(folder_source(str(tmp_path / "in"), fields), tmp_path / "out", asked=("--class_names",))
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(DataError, match=r"--class_names.*It is empty"):
        read_class_names(tmp_path / "empty.txt")
