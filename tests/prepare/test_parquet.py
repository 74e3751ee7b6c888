"""Columns of Parquet files: types in which texts and images are kept, names of columns, entries inside of others."""

import pyarrow
import pyarrow.parquet
import pytest

from tests.prepare.corpora import make_image
from xsample_jax.captions.vectors import read_columns
from xsample_jax.data.records import open_records
from xsample_jax.errors import DataError
from xsample_jax.prepare.example import Fields
from xsample_jax.prepare.folder import folder_source
from xsample_jax.prepare.job import ImageOptions, Job
from xsample_jax.prepare.parquet import parquet_source
from xsample_jax.prepare.prepare import local_runner, prepare

IMAGES = [make_image(number, kind="BMP", width=8, height=8) for number in range(3)]  # of one length
NO_FIELDS = Fields()
NAMES = ["dog", "cat", "dog"]


def source_of(folder, fields=NO_FIELDS, **columns):
    pyarrow.parquet.write_table(pyarrow.table({"image": IMAGES} | columns), folder / "a.parquet")
    return parquet_source(str(folder), fields)


def records_of(source, out):
    prepare(Job("t", source, {"train": 1.0}, ImageOptions(None)), out, local_runner(1))
    return list(open_records(out, "train"))


@pytest.mark.parametrize(
    "kind", ["binary", "large_binary", "binary_view", "string", "large_string", "string_view", "dictionary", "fixed"]
)
def test_labels_of_every_type_of_text_are_classes(tmp_path, kind):
    """faults C4: those of bytes and of string_view were refused, as no names were known."""
    if kind == "dictionary":
        labels = pyarrow.array(NAMES).dictionary_encode()
    else:
        names = NAMES if "string" in kind else [name.encode() for name in NAMES]
        labels = pyarrow.array(names, pyarrow.binary(3) if kind == "fixed" else getattr(pyarrow, kind)())
    source = source_of(tmp_path, Fields(image="image", label="label"), label=labels)
    assert source.class_names == ("cat", "dog")
    assert [record["label"] for record in records_of(source, tmp_path / "out")] == [1, 0, 1]


@pytest.mark.parametrize("kind", ["large_binary", "binary_view", "fixed"])
def test_images_of_every_type_of_bytes(tmp_path, kind):
    """faults C4"""
    size = len(IMAGES[0])
    images = pyarrow.array(IMAGES, pyarrow.binary(size) if kind == "fixed" else getattr(pyarrow, kind)())
    source = source_of(tmp_path, Fields(), image=images)
    assert len(records_of(source, tmp_path / "out")) == 3


def test_labels_and_attributes_inside_of_a_column(tmp_path):
    """faults C4: texts in an entry of a struct were no classes."""
    inner = pyarrow.array([{"lab": name, "hue": name[0]} for name in NAMES])
    source = source_of(tmp_path, Fields(label="json/lab", attributes=("json/hue",)), json=inner)
    assert (source.class_names, source.attributes) == (("cat", "dog"), {"json/hue": ("c", "d")})
    found = records_of(source, tmp_path / "out")
    assert [(record["label"], record["attributes"]["json/hue"]) for record in found] == [(1, 1), (0, 0), (1, 1)]
    with pytest.raises(DataError, match="--label_field = 'json/lob'"):
        source_of(tmp_path, Fields(label="json/lob"), json=inner)


def test_columns_as_webdataset_names_its_members(tmp_path):
    """faults C4: the columns txt and cls were not read."""
    found = records_of(source_of(tmp_path, txt=["one", "two", "three"], cls=[4, 5, 6]), tmp_path / "out")
    assert [(record["captions"], record["label"]) for record in found] == [(["one"], 4), (["two"], 5), (["three"], 6)]


def test_a_name_that_two_columns_have_is_refused(tmp_path):
    """faults C3: the last was read, the first lost."""
    twice = [pyarrow.array(["a.jpg"]), pyarrow.array(["first"]), pyarrow.array(["second"])]
    table = pyarrow.table([*twice, pyarrow.array(IMAGES[:1])], names=["path", "caption", "caption", "image"])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    pyarrow.parquet.write_table(table.drop(["image"]), tmp_path / "b.parquet")
    reads = [
        lambda: parquet_source(str(tmp_path / "a.parquet"), Fields()),
        lambda: folder_source(str(tmp_path), Fields(), str(tmp_path / "b.parquet")),
        lambda: read_columns(tmp_path / "b.parquet", "--path"),
    ]
    for read in reads:
        with pytest.raises(DataError, match="'caption': expected names that occur once"):
            read()


def test_texts_that_nobody_reads_are_named(tmp_path):
    """faults C14: captions: 0, and no word about the column alt."""
    assert "--caption_fields takes alt." in source_of(tmp_path, alt=NAMES, label=[0, 1, 0]).notes[-1]
    assert len(source_of(tmp_path, alt=NAMES, caption=NAMES).notes) == 1
