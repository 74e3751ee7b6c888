"""A set is made whole or not at all: interrupted anywhere, it goes on and ends with the same bytes."""

import json
import os
import pathlib
import random
import resource
import signal
import subprocess
import sys
import time

import pytest

from tests.prepare.corpora import contents, make_job, run, sample, write_corpus, write_tar
from xsample_jax.data.records import open_records, read_manifest, verify_records
from xsample_jax.errors import DataError
from xsample_jax.io.locks import locked
from xsample_jax.prepare import prepare as prepare_module
from xsample_jax.prepare import shards
from xsample_jax.prepare.job import ImageOptions

ROOT = pathlib.Path(__file__).parent.parent.parent
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


class PowerCutError(BaseException):
    pass


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"), tars=3, each=12)


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory):
    """What an undisturbed run makes of the corpus."""
    out = tmp_path_factory.mktemp("whole") / "out"
    run(make_job(corpus), out)
    return contents(out)


def test_every_example_is_in_one_split_once(corpus, tmp_path):
    manifest, report = run(make_job(corpus), tmp_path / "out")
    assert verify_records(tmp_path / "out") == []
    records = {split: list(open_records(tmp_path / "out", split)) for split in manifest.splits}
    ids = [record["id"] for some in records.values() for record in some]
    assert len(ids) == len(set(ids)) == report["kept"] == 36
    assert len(records["train"]) > 2 * len(records["val"]) > 0
    stride = make_job(corpus).ids_per_shard
    for record in (record for some in records.values() for record in some):
        number = record["id"] // stride * 12 + record["id"] % stride
        assert record["captions"] == [f"caption number {number % 7}"]
        assert record["label"] == number % 3
    assert (report["captions"], report["duplicate_captions"]) == (36, 29)
    assert not (tmp_path / "out" / ".prepare").exists()


def test_processes_give_the_same_bytes(corpus, whole, tmp_path):
    run(make_job(corpus), tmp_path / "out", processes=2)
    assert contents(tmp_path / "out") == whole


def test_beam_gives_the_same_bytes(corpus, whole, tmp_path):
    pytest.importorskip("apache_beam")
    from xsample_jax.prepare.prepare import beam_runner

    prepare_module.prepare(make_job(corpus), tmp_path / "out", beam_runner("DirectRunner"))
    assert contents(tmp_path / "out") == whole


def test_power_cut_at_every_rename(corpus, whole, tmp_path, monkeypatch):
    """Each run loses power at the next rename; nothing can be opened before the last one, and then all is the same."""
    replace, left = os.replace, 0

    def cut(source, target):
        nonlocal left
        if left == 0:
            raise PowerCutError
        left -= 1
        replace(source, target)

    monkeypatch.setattr(os, "replace", cut)
    for renames in range(100):
        left = renames % 8 + 1
        try:
            run(make_job(corpus), tmp_path / "out")
            break
        except PowerCutError:
            with pytest.raises(DataError, match="manifest"):
                open_records(tmp_path / "out", "train")
    assert 4 < renames < 30
    assert contents(tmp_path / "out") == whole


def test_power_cut_while_records_are_written(corpus, whole, tmp_path, monkeypatch):
    image, calls = shards.prepare_image, []

    def cut(data, options):
        calls.append(data)
        if len(calls) in (3, 20, 40):
            raise PowerCutError
        return image(data, options)

    monkeypatch.setattr(shards, "prepare_image", cut)
    for _ in range(3):
        with pytest.raises(PowerCutError):
            run(make_job(corpus), tmp_path / "out")
        assert not list((tmp_path / "out" / ".prepare").glob("*.tmp/*"))
    run(make_job(corpus), tmp_path / "out")
    assert contents(tmp_path / "out") == whole
    assert len(calls) < 36 + 3 * 12  # a cut costs one input shard, not the work before it


@pytest.mark.slow
def test_killed_at_random_points_and_resumed(tmp_path):
    """SIGKILL of the whole command, with two processes, twice; then the bytes of a run that was left alone."""
    corpus = write_corpus(tmp_path / "in", tars=8, each=150)

    def command(out):
        flags = ["--source=webdataset", f"--path={corpus}", f"--out={out}", "--name=t", "--size=24", "--processes=2"]
        return [sys.executable, "-m", "xsample_jax.tools.prepare", *flags, "--splits=train=0.8,val=0.2"]

    def start(out):
        return subprocess.Popen(command(out), env=ENVIRONMENT, start_new_session=True, stderr=subprocess.PIPE)

    rng, killed = random.Random(0), 0
    for parts in (1, 4):
        process = start(tmp_path / "killed")
        deadline = time.monotonic() + 60
        while len(list((tmp_path / "killed" / ".prepare").glob("[0-9]*.json"))) < parts and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(rng.random() * 0.05)
        killed += process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert (tmp_path / "killed" / "manifest.json").exists() <= (process.returncode == 0)
    assert killed >= 1
    process = start(tmp_path / "killed")
    errors = process.communicate(timeout=60)[1].decode()
    assert process.returncode == 0, errors
    assert "going on: " in errors
    subprocess.run(command(tmp_path / "whole"), env=ENVIRONMENT, check=True, timeout=60, capture_output=True)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_a_full_disk_is_said_and_leaves_nothing_to_read(tmp_path):
    """Files of this process may not grow beyond a limit, which fails as a full disk does: in the middle of a write."""
    corpus = write_corpus(tmp_path / "in", tars=1, each=60)
    code = (
        "import resource, signal, sys\n"
        "from xsample_jax.tools import prepare\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "sys.exit(prepare.main())"
    )
    flags = ["--source=webdataset", f"--path={corpus}", f"--out={tmp_path / 'out'}", "--processes=1"]
    result = subprocess.run([sys.executable, "-c", code, *flags], env=ENVIRONMENT, capture_output=True, text=True)
    assert result.returncode == 2, result.stderr
    assert "room on the disk" in result.stderr
    assert "Traceback" not in result.stderr
    assert not list((tmp_path / "out").glob("*.arrayrecord"))
    assert not list((tmp_path / "out" / ".prepare").glob("*.tmp"))
    again = subprocess.run([sys.executable, "-m", "xsample_jax.tools.prepare", *flags], env=ENVIRONMENT, check=False)
    assert again.returncode == 0
    assert len(open_records(tmp_path / "out", "train")) == 60


def test_a_finished_set_is_recognized_and_another_refused(corpus, whole, tmp_path, monkeypatch):
    out = tmp_path / "out"
    first = run(make_job(corpus), out)
    monkeypatch.setattr(shards, "prepare_image", None)  # nothing is done a second time
    assert run(make_job(corpus), out) == first
    with pytest.raises(DataError, match="this very command"):
        run(make_job(corpus, image=ImageOptions(size=20)), out)
    assert contents(out) == whole


def test_work_of_another_job_is_not_mixed_in(corpus, tmp_path, monkeypatch):
    def cut(*_):
        raise PowerCutError

    with monkeypatch.context() as patch:
        patch.setattr(shards, "prepare_image", cut)
        with pytest.raises(PowerCutError):
            run(make_job(corpus), tmp_path / "out")
    for other in (
        {"splits": {"train": 1.0}},
        {"image": ImageOptions(24, 80)},
        {"require_caption": True},
        {"name": "u"},
    ):
        with pytest.raises(DataError, match="this very work was begun"):
            run(make_job(corpus, **other), tmp_path / "out")


def test_a_lost_or_cut_file_of_a_finished_shard_is_made_again(corpus, whole, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "_finish", lambda *_: (_ for _ in ()).throw(PowerCutError))
        with pytest.raises(PowerCutError):
            run(make_job(corpus), out)
    (out / "train-00000-of-00003.arrayrecord").unlink()
    os.truncate(out / "train-00001-of-00003.arrayrecord", 1000)
    run(make_job(corpus), out)
    assert contents(out) == whole


def test_two_at_once_are_refused(corpus, tmp_path):
    with locked(tmp_path / "out" / ".prepare"), pytest.raises(DataError, match="no other process"):
        run(make_job(corpus), tmp_path / "out")


def test_no_record_left_is_an_error_and_no_set(tmp_path):
    write_tar(tmp_path / "in" / "a.tar", {"x": sample(1, jpg=b""), "y": sample(2, jpg=b"<html>")})
    with pytest.raises(DataError, match="Found: broken_image 2"):
        run(make_job(tmp_path / "in"), tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_an_error_in_a_worker_process_arrives_as_it_is(tmp_path):
    for name in "ab":
        write_tar(tmp_path / "in" / f"{name}.tar", {name: sample(1, cls=b"cat")})
    with pytest.raises(DataError, match=r"label of [ab] = 'cat'"):
        run(make_job(tmp_path / "in"), tmp_path / "out", processes=2)


def test_more_examples_than_ids_are_refused(corpus, tmp_path, monkeypatch):
    from xsample_jax.prepare import job

    monkeypatch.setattr(job, "NARROW", 36)
    monkeypatch.setattr(job, "SMALL_SHARD", 10)
    with pytest.raises(DataError, match="at most 10 examples"):
        run(make_job(corpus), tmp_path / "out")


def test_problems_are_listed_with_their_shard(tmp_path):
    corpus = write_corpus(tmp_path / "in", tars=2, each=3)
    write_tar(corpus / "00001.tar", {"a": sample(1, jpg=b""), "b": sample(2, txt=b"."), "c": sample(3)})
    _, report = run(make_job(corpus), tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out" / "problems.jsonl").read_text().splitlines()]
    assert [line[:3] for line in lines] == [
        ["00001.tar", "a", "broken_image"], ["00001.tar", "b", "near_empty_caption"],
    ]  # fmt: skip
    assert (report["kept"], report["broken_image"], report["near_empty_caption"]) == (5, 1, 1)


def test_the_limit_of_open_files_grows_with_the_shards(tmp_path):
    corpus = write_corpus(tmp_path / "in", tars=70, each=1)
    run(make_job(corpus, splits={"train": 1.0}), tmp_path / "out")
    assert len(read_manifest(tmp_path / "out").splits["train"]["shards"]) == 70
    code = (
        "import resource\n"
        "from xsample_jax.data.records import open_records\n"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))\n"
        f"print(len([record for record in open_records({str(tmp_path / 'out')!r}, 'train')]))"
    )
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] > 128
    result = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True)
    assert result.stdout == "70\n", result.stderr


def test_a_finished_set_is_whole_and_tidy(corpus, whole, tmp_path):
    out = tmp_path / "out"
    run(make_job(corpus), out)
    (out / ".prepare").mkdir()  # as a kill right behind the manifest leaves it
    run(make_job(corpus), out)
    assert contents(out) == whole
    assert not (out / ".prepare").exists()
    (out / "report.json").write_text("[1]")
    with pytest.raises(DataError, match="this very command"):
        run(make_job(corpus), out)
    (out / "report.json").write_bytes(whole["report.json"])
    (out / "train-00001-of-00003.arrayrecord").unlink()
    with pytest.raises(DataError, match="missing"):
        run(make_job(corpus), out)


def test_records_of_other_work_are_not_left_beside_the_new(corpus, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "train-00000-of-00009.arrayrecord").write_bytes(b"")
    with pytest.raises(DataError, match=r"00009.*without records of other work"):
        run(make_job(corpus), tmp_path / "out")


@pytest.mark.parametrize("kind", ["file", "below a file"])
def test_a_folder_that_cannot_be_made(corpus, tmp_path, kind):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"--out = .*a folder that can be made and written to"):
        run(make_job(corpus), tmp_path / "file" if kind == "file" else tmp_path / "file" / "out")


def test_workers_end_with_their_parent(tmp_path):
    corpus = write_corpus(tmp_path / "in", tars=8, each=40)
    code = (
        "import sys\n"
        "from tests.prepare.corpora import make_job, run\n"
        "run(make_job(sys.argv[1]), sys.argv[2], processes=2)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(corpus), str(tmp_path / "out")], cwd=ROOT)
    children = pathlib.Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
    started = lambda: len(children.read_text().split()) >= 3  # noqa: E731  with the tracker of resources
    wait_until(started)
    workers = children.read_text().split()
    parent.kill()
    parent.wait()
    wait_until(lambda: not any(_alive(worker) for worker in workers))


def wait_until(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def _alive(process):
    try:
        return pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
