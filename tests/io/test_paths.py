"""Paths here and in buckets are used alike."""

import pathlib

import pytest

from xsample_jax.errors import ConfigError
from xsample_jax.io import paths
from xsample_jax.io.paths import absolute, as_path, fetched, file_sizes, local_copy_of, matching, move_in


def test_what_is_local_stays_a_path_of_pathlib(tmp_path):
    assert as_path("runs/a") == pathlib.Path("runs/a")
    assert type(as_path(str(tmp_path))) is type(tmp_path)
    assert absolute("runs/a") == pathlib.Path.cwd() / "runs/a"
    assert not paths.in_bucket("runs/gs:/a")


def test_a_path_in_a_bucket_keeps_its_two_slashes(bucket):
    path = as_path(f"{bucket}/runs/a/")
    assert str(path / "b") == f"{bucket}/runs/a/b"
    assert str(absolute(path)) == f"{bucket}/runs/a"
    assert path.name == "a"
    assert as_path(path) == path
    assert str(as_path(pathlib.Path(f"{bucket}/runs/a"))) == f"{bucket}/runs/a"  # which has lost a slash


@pytest.mark.parametrize("text", ["s3://bucket/a", "gs://", "gs:///a", "http://host/a"])
def test_other_stores_are_refused_with_the_way_round(text):
    with pytest.raises(ConfigError, match=r"--workdir = .*gs://BUCKET/NAME"):
        as_path(text, "--workdir")


def test_without_gcsfs_the_error_names_the_extra(monkeypatch):
    monkeypatch.setattr(paths.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"gcsfs.*xsample_jax\[gcs\]"):
        as_path("gs://bucket/a")


def test_sizes_are_those_of_the_files_of_one_folder(bucket, tmp_path):
    for folder in (tmp_path, as_path(f"{bucket}/set")):
        (folder / "deep").mkdir(parents=True, exist_ok=True)
        (folder / "a").write_bytes(b"12345")
        (folder / "deep" / "b").write_bytes(b"1")
        assert file_sizes(folder) == {"a": 5}
        assert file_sizes(folder / "none") == {}


def test_a_file_moves_to_its_place_as_a_whole(bucket, tmp_path):
    for place in (tmp_path / "there", as_path(f"{bucket}/there")):
        for text in ("one", "two"):
            (tmp_path / "made").write_text(text)
            move_in(tmp_path / "made", place)
            assert place.read_text() == text
            assert not (tmp_path / "made").exists()


def test_what_is_written_for_a_bucket_gets_there_with_what_lies_beside_it(bucket, store):
    with local_copy_of(f"{bucket}/out/page.html") as local:
        local.write_text("page")
        (local.parent / "page_figures").mkdir()
        (local.parent / "page_figures" / "1.png").write_text("image")
    assert store.names(bucket.removeprefix("gs://")) == ["out/page.html", "out/page_figures/1.png"]
    with fetched(f"{bucket}/out/page.html") as local:
        assert local.read_text() == "page"
    assert not local.exists()


def test_patterns_find_objects_at_any_depth(bucket):
    for name in ("a.tar", "x/b.tar", "x/y/c.tar", "x/d.txt"):
        as_path(f"{bucket}/tars/{name}").write_text(name)
    found = {str(path): about for path, about in matching(f"{bucket}/tars/**/*.tar").items()}
    assert {path: int(about.split()[0]) for path, about in found.items()} == {
        f"{bucket}/tars/a.tar": 5,
        f"{bucket}/tars/x/b.tar": 7,
        f"{bucket}/tars/x/y/c.tar": 9,
    }
    assert [path.name for path in matching(f"{bucket}/tars/x/*.tar")] == ["b.tar"]
    as_path(f"{bucket}/tars/a.tar").write_text("A.tar")  # as long as before
    again = {str(path): about for path, about in matching(f"{bucket}/tars/**/*.tar").items()}
    assert [path for path in found if again[path] != found[path]] == [f"{bucket}/tars/a.tar"]
