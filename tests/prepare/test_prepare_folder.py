"""data.source=folder: prepared once into a cache; the run is one of records, and another folder is another dataset."""

import pytest

from tests.prepare.corpora import make_image
from xsample_jax.config import default_config, resolve
from xsample_jax.data.records import open_records
from xsample_jax.data.sources import open_source
from xsample_jax.errors import ConfigError
from xsample_jax.prepare.prepare import prepare_folder


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for number in range(40):
        folder = tmp_path / "photos" / ("cat" if number % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.jpg").write_bytes(make_image(number))
    config = default_config()
    config.steps = 1
    config.objective.preset = "simclr"
    config.data.update(source="folder", path=str(tmp_path / "photos"))
    config.eval.update(suite="probe", split="test")
    return resolve(config)


def test_a_folder_is_prepared_once(config, tmp_path, capsys):
    first = prepare_folder(config)
    assert (first.data.source, config.data.source) == ("records", "folder")
    sizes = {split: entry["count"] for split, entry in open_records(first.data.path, "train").manifest.splits.items()}
    assert sum(sizes.values()) == 40
    assert sizes["train"] > sizes["test"] > 0
    assert open_source(first.data, "train").manifest.class_names == ("cat", "dog")
    assert f"records in {first.data.path}" in capsys.readouterr().out
    again = prepare_folder(config)
    assert again.to_dict() == first.to_dict()
    assert prepare_folder(first) is first
    (tmp_path / "photos" / "cat" / "new.jpg").write_bytes(make_image(99))
    assert prepare_folder(config).data.path != first.data.path


def test_what_is_passed_over_is_said(config, tmp_path, capsys):
    """faults C3: a run trained without them and without a word."""
    (tmp_path / "photos" / "cat" / "half.jpg").write_bytes(make_image(1)[:50])
    (tmp_path / "photos" / "cat" / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (tmp_path / "photos" / "cat" / "notes.md").write_text("?")
    prepare_folder(config)
    said = capsys.readouterr().out
    assert all(words in said for words in ("40 records", "broken_image: 1", "no_image: 1", "skipped, files .md: 1"))


def test_an_image_or_a_caption_that_changed_makes_another_dataset(config, tmp_path):
    image, caption = tmp_path / "photos" / "cat" / "1.jpg", tmp_path / "photos" / "cat" / "1.txt"
    caption.write_text("a cat")
    paths = [prepare_folder(config).data.path]
    image.write_bytes(make_image(99))
    paths.append(prepare_folder(config).data.path)
    caption.write_text("a dog")
    paths.append(prepare_folder(config).data.path)
    assert len(set(paths)) == 3
    records = [record for split in ("train", "test") for record in open_records(paths[-1], split)]
    assert [record["captions"] for record in records if record["captions"]] == [["a dog"]]


def test_folders_named_like_splits_are_splits(config, tmp_path):
    (tmp_path / "photos").rename(tmp_path / "train")
    (tmp_path / "all").mkdir()
    (tmp_path / "train").rename(tmp_path / "all" / "train")
    changed = config.copy_and_resolve_references().unlock()
    changed.data.path = str(tmp_path / "all")
    source = open_records(prepare_folder(resolve(changed)).data.path, "train")
    assert len(source) == 40
    assert set(source.manifest.splits) == {"train"}


def test_elsewhere_it_is_refused_with_the_command(config):
    with pytest.raises(ConfigError, match=r"tools\.prepare --source=folder"):
        open_source(config.data, "train")
