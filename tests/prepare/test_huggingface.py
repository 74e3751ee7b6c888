"""A dataset in the layout of the Hugging Face hub, streamed; without the library one line says what to install."""

import sys

import pytest

from tests.prepare.corpora import make_image
from xsample_jax.data.records import open_records
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


def test_a_hub_dataset_is_streamed(tmp_path, monkeypatch, capsys):
    write_hub_folder(tmp_path / "pets")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
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


def test_without_the_library_one_line_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert prepare.main(["--source=hf", "--path=USER/NAME", f"--out={tmp_path}/set"]) == 2
    said = capsys.readouterr().err
    assert "pip install 'xsample_jax[hf]'" in said
    assert "Traceback" not in said
