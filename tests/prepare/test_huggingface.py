"""A dataset in the layout of the Hugging Face hub, streamed; without the library one line says what to install."""

import shutil
import sys

import pyarrow.parquet
import pytest

from tests.prepare.corpora import make_image
from xsample_jax.data.records import open_records
from xsample_jax.errors import DataError
from xsample_jax.prepare.example import Fields
from xsample_jax.prepare.huggingface import hub_source
from xsample_jax.tools import prepare


def write_hub_folder(root):
    """A local folder laid out as a repository of the hub: Parquet files of two splits, with images, texts, classes."""
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "picture": datasets.Image(),
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
        }
    )
    for split, numbers in (("train", range(7)), ("test", range(7, 10))):
        rows = {
            "picture": [{"bytes": make_image(number), "path": None} for number in numbers],
            "text": [f"animal {number}" for number in numbers],
            "label": [number % 2 for number in numbers],
        }
        table = datasets.Dataset.from_dict(rows, features=features)
        (root / "data").mkdir(parents=True, exist_ok=True)
        half = len(table) // 2
        for part, rows in enumerate((range(half), range(half, len(table)))):
            table.select(rows).to_parquet(root / "data" / f"{split}-{part:05d}-of-00002.parquet")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The library keeps what it writes in here. It has read the environment when it was imported."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


def test_a_hub_dataset_is_streamed(tmp_path, cache, capsys):
    write_hub_folder(tmp_path / "pets")
    flags = ["--source=hf", f"--path={tmp_path}/pets", f"--out={tmp_path}/set", "--processes=1"]
    assert prepare.main(flags) == 0
    for split, numbers in (("train", range(7)), ("test", range(7, 10))):
        source = open_records(tmp_path / "set", split)
        assert source.manifest.class_names == ("cat", "dog")
        found = [source[place] for place in range(len(source))]
        assert [record["captions"] for record in found] == [[f"animal {number}"] for number in numbers]
        assert [record["label"] for record in found] == [number % 2 for number in numbers]
        assert [record["image"] for record in found] == [make_image(number) for number in numbers]
    assert prepare.main([*flags[:2], f"--out={tmp_path}/other", "--label_field=lable"]) == 2
    assert "label" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert prepare.main(["--source=hf", f"--path={tmp_path}/empty", f"--out={tmp_path}/none"]) == 2


def test_a_local_folder_that_changed_is_other_input(tmp_path, cache):
    write_hub_folder(tmp_path / "pets")
    files = "  data_files:\n  - split: train\n    path: data/train-*\n  - split: test\n    path: data/test-*\n"
    (tmp_path / "pets" / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n{files}---\n")
    before = {shard.identity for shard in hub_source(str(tmp_path / "pets"), Fields()).shards}
    assert before == {shard.identity for shard in hub_source(str(tmp_path / "pets"), Fields()).shards}
    file = tmp_path / "pets" / "data" / "test-00000-of-00002.parquet"
    shutil.copy(tmp_path / "pets" / "data" / "train-00000-of-00002.parquet", file)
    assert not before & {shard.identity for shard in hub_source(str(tmp_path / "pets"), Fields()).shards}


@pytest.mark.parametrize("listed", [False, True])
def test_splits_with_other_names_of_classes_are_refused(tmp_path, cache, listed):
    """faults C6: numbers of the test split were read with the names of another split."""
    datasets = pytest.importorskip("datasets")
    (tmp_path / "pets").mkdir()
    names = {"train": ["cat", "dog"], "test": ["dog", "cat"]}
    for split in names:
        features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=names[split])}
        rows = {"image": [{"bytes": make_image(0), "path": None}], "label": [0]}
        table = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
        table.to_parquet(tmp_path / "pets" / f"{split}-00000-of-00001.parquet")
    if listed:
        files = "".join(f"  - split: {split}\n    path: {split}-*\n" for split in names)
        (tmp_path / "pets" / "README.md").write_text(
            f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}---\n"
        )
    with pytest.raises(DataError, match=r"class names of .*expected \('(cat|dog)', '(cat|dog)'\), as in the splits"):
        hub_source(str(tmp_path / "pets"), Fields())


def test_texts_that_were_asked_for_are_classes(tmp_path, cache):
    """faults C10: no names were known; as Parquet they were classes."""
    write_hub_folder(tmp_path / "pets")
    source = hub_source(str(tmp_path / "pets"), Fields(label="text"))
    assert source.class_names == tuple(f"animal {number}" for number in range(10))
    assert [example.label for example in source.shards[0].read()] == ["animal 0", "animal 1", "animal 2"]


def test_a_table_without_types_is_refused(tmp_path, cache):
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "train.csv").write_text("image,text\n0.png,zero\n1.png,one\n")
    with pytest.raises(DataError, match=r"--image_field = 'image'.*--table=FILE"):
        hub_source(str(tmp_path / "table"), Fields(image="image"))


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_two_columns_of_one_name_are_refused(tmp_path, cache, kind, capsys):
    """faults C3: Arrow's traceback for Parquet; of a CSV beside images the second column was lost without a word."""
    root = tmp_path / "pets"
    if kind == "parquet":
        write_hub_folder(root)
        file = root / "data" / "test-00001-of-00002.parquet"
        table = pyarrow.parquet.read_table(file)
        pyarrow.parquet.write_table(table.append_column("text", table["text"]), file)
    else:
        root.mkdir()
        (root / "a.png").write_bytes(make_image(0))
        texts = {"csv": "file_name,text,text\na.png,one,two\n"}
        texts["jsonl"] = '{"file_name": "a.png", "text": "one", "text": "two"}\n'
        (root / f"metadata.{kind}").write_text(texts[kind])
    assert prepare.main(["--source=hf", f"--path={root}", f"--out={tmp_path}/set"]) == 2
    said = capsys.readouterr().err
    assert "text" in said
    assert {"jsonl": "specified twice"}.get(kind, "names that occur once") in said
    assert not (tmp_path / "set").exists()


def test_only_the_names_of_a_csv_file_are_compared(tmp_path, cache):
    """faults C3: empty columns at the end, and equal values of a file without names, were names that come twice."""
    root = tmp_path / "pets"
    root.mkdir()
    (root / "a.png").write_bytes(make_image(0))
    (root / "metadata.csv").write_text("file_name,text,,\na.png,one,,\n")
    (example,) = hub_source(str(root), Fields()).shards[0].read()
    assert example.captions == ("one",)
    (root / "metadata.csv").write_text(f'file_name,"{"x" * 2**21}"\na.png,one\n')
    with pytest.raises(DataError, match=r"metadata\.csv = 'field larger.*names of the columns"):
        hub_source(str(root), Fields())
    plain, options = tmp_path / "plain", "header: null\n  names: [a, b, text]"
    plain.mkdir()
    (plain / "train.csv").write_text("1,1,one\n0,2,two\n")
    about = f"configs:\n- config_name: default\n  data_files: train.csv\n  {options}"
    (plain / "README.md").write_text(f"---\n{about}\n---\n")
    with pytest.raises(DataError, match="a column of images"):  # the columns are three
        hub_source(str(plain), Fields())


@pytest.mark.parametrize("path", ["user/name@main:cfg", "user/name@", "@main"])
def test_names_that_are_none(path):
    pytest.importorskip("datasets")
    with pytest.raises(DataError, match="USER/NAME:CONFIG@REVISION"):
        hub_source(path, Fields())


def test_without_the_library_one_line_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert prepare.main(["--source=hf", "--path=USER/NAME", f"--out={tmp_path}/set"]) == 2
    said = capsys.readouterr().err
    assert "pip install 'xsample_jax[hf]'" in said
    assert "Traceback" not in said
