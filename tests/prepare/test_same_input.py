"""A folder holds one job's work: other input or other entries are refused, never answered with the old or mixed in."""

import json
import os

import pytest

from tests.prepare.corpora import make_image
from xsample_jax.data.records import open_records
from xsample_jax.errors import DataError
from xsample_jax.prepare import prepare as prepare_module
from xsample_jax.prepare.example import Fields
from xsample_jax.prepare.folder import folder_source
from xsample_jax.prepare.job import ImageOptions, Job
from xsample_jax.prepare.prepare import local_runner, prepare
from xsample_jax.prepare.shards import prepare_shard, read_part
from xsample_jax.prepare.tfds import _digest_of_files


@pytest.fixture
def photos(tmp_path):
    root = tmp_path / "in"
    root.mkdir()
    for number in range(4):
        (root / f"{number}.jpg").write_bytes(make_image(number))
        row = {"short": f"short {number}", "long": f"long text {number}", "k": number % 2, "z": 3}
        (root / f"{number}.json").write_text(json.dumps(row))
    return root


FIELDS = Fields(captions=("short",), label="k")


def make(root, out, fields=FIELDS, table=None, runner=None, **options):
    source = folder_source(str(root), fields, table, shard_size=2)
    job = Job("t", source, {"train": 1.0}, **({"image": ImageOptions(None)} | options))
    return prepare(job, out, runner or local_runner(1))


@pytest.mark.parametrize("name", ["0.jpg", "3.json", "1.txt", "1.cls"])
def test_a_file_that_changed_is_other_input(photos, tmp_path, name):
    """faults C3: the same command handed out the old set, with exit code 0."""
    first = make(photos, tmp_path / "out")
    assert make(photos, tmp_path / "out") == first
    (photos / name).write_bytes(make_image(9) if name.endswith("jpg") else b'{"short": "changed", "k": 1}')
    with pytest.raises(DataError, match=r"very command.*Changed since: the input \(files by name, size and time"):
        make(photos, tmp_path / "out")


def test_a_file_of_the_same_size_that_was_written_later_is_other_input(photos, tmp_path):
    make(photos, tmp_path / "out")
    os.utime(photos / "2.jpg", ns=(1, 1))
    with pytest.raises(DataError, match="very command"):
        make(photos, tmp_path / "out")


@pytest.mark.parametrize("fields", [Fields(("long",), "k"), Fields(("short",), "z"), Fields(("short",))], ids=str)
def test_other_entries_are_other_work(photos, tmp_path, fields):
    """faults C3: --caption_fields and --label_field of the JSON beside images did not count."""
    make(photos, tmp_path / "out")
    with pytest.raises(DataError, match="Changed since: the input"):
        make(photos, tmp_path / "out", fields)


def test_an_image_of_a_table_that_changed_is_other_input(photos, tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("image,short,k\n0.jpg,a cat,0\n")
    make(photos, tmp_path / "out", table=str(table))
    (photos / "1.jpg").write_bytes(make_image(9))  # the table does not name it
    make(photos, tmp_path / "out", table=str(table))
    (photos / "0.jpg").write_bytes(make_image(9))
    with pytest.raises(DataError, match="very command"):
        make(photos, tmp_path / "out", table=str(table))


def test_texts_that_change_between_two_calls_are_not_mixed(photos, tmp_path):
    """faults C3: half of the finished set had the old captions."""

    def stop(job, numbers, out):
        yield prepare_shard(job, numbers[0], out)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(photos, tmp_path / "out", runner=stop)
    (photos / "3.json").write_text('{"short": "changed", "k": 1}')
    with pytest.raises(DataError, match=r"very work was begun.*Changed since: the input"):
        make(photos, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize("text", ["[]", "{}", '{"splits": []}', '{"splits": {"train": 1}}'])
def test_a_part_that_is_none_is_made_again(tmp_path, text):
    """faults C9: JSON of another kind in the place of a part was an AttributeError."""
    (tmp_path / prepare_module.STATE).mkdir()
    (tmp_path / prepare_module.STATE / "00000.json").write_text(text)
    assert read_part(tmp_path, 0, {}) is None


def test_what_differs_is_said(photos, tmp_path):
    """faults C14: flags by their names; of a set of an earlier version only that it may be one."""
    out = tmp_path / "out"
    make(photos, out)
    with pytest.raises(DataError, match=r"Changed since: --size, --quality, --raw or --fit; --require_caption\."):
        make(photos, out, image=ImageOptions(20), require_caption=True)
    report = json.loads((out / "report.json").read_text())
    (out / "report.json").write_text(json.dumps(report | {"job": "0" * 64, "job_parts": None}))
    with pytest.raises(DataError, match="or of an earlier version"):
        make(photos, out)
    assert len(open_records(out, "train")) == 4  # reading does not ask whose work it is
    for parts in ([1], "name"):
        (out / "report.json").write_text(json.dumps(report | {"job": "0" * 64, "job_parts": parts}))
        job = Job("t", prepare_module.NOT_LISTED, {"train": 1.0}, image=ImageOptions(None))
        prepare_module.check_place(job, out)  # as for a set of an earlier version, the input decides
        with pytest.raises(DataError, match="or of an earlier version"):
            make(photos, out)
    (out / "manifest.json").unlink()
    state = out / prepare_module.STATE
    state.mkdir()
    (state / prepare_module.JOB).write_text("0" * 64)  # as earlier versions wrote it
    with pytest.raises(DataError, match="or of an earlier version"):
        make(photos, out)


def test_a_tfds_version_that_was_made_anew_is_other_input(tmp_path):
    """faults C3: name and number of examples were all that counted."""
    file = tmp_path / "t-train.array_record-00000-of-00001"
    file.write_bytes(b"old")
    before = _digest_of_files(tmp_path)
    assert _digest_of_files(tmp_path) == before
    file.write_bytes(b"newer")
    assert _digest_of_files(tmp_path) != before
