"""A run whose folder and records are in a bucket: killed, resumed, damaged, evaluated as on a disk."""

import json
import signal
from pathlib import Path

import pytest

from tests.lives import Lives, differences
from xsample_jax.data.sources import EMOJI_FOLDER
from xsample_jax.errors import BAD_INPUT, FINISHED, REQUEUE
from xsample_jax.io.paths import as_path, file_sizes, upload
from xsample_jax.io.run_dir import read_history
from xsample_jax.metrics.jsonl import read_jsonl

SPLIT = "--config.data.source=records", "--config.data.split=val", "--config.checkpoint.every=4"


@pytest.fixture(scope="module")
def lives(store):
    with Lives() as server:
        yield server


@pytest.fixture(scope="module")
def records(store):
    """The validation split of the emoji set in a bucket."""
    place = as_path("gs://records/emoji")
    for name in ("manifest.json", "tokenizer.json", "val-00000-of-00001.arrayrecord"):
        upload(EMOJI_FOLDER / name, place / name)
    return str(place)


@pytest.fixture(scope="module")
def whole(lives, tmp_path_factory):
    """An undisturbed run on a disk, from records on a disk."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    life = lives.run(folder, *SPLIT, f"--config.data.path={EMOJI_FOLDER}")
    assert life.code == FINISHED, life.err
    return folder


@pytest.mark.slow
def test_killed_and_stopped_a_run_in_a_bucket_ends_bit_identical(lives, records, whole, bucket, store):
    run = f"{bucket}/runs/a"
    arguments = (run, *SPLIT, f"--config.data.path={records}")
    killed = lives.run(*arguments, signals=[(11, 0.02, signal.SIGKILL)])
    assert killed.code == -signal.SIGKILL, killed.err
    assert as_path(f"{run}/.lock").exists()
    lines = read_jsonl(f"{run}/metrics.jsonl")
    names = store.names(bucket.removeprefix("gs://"), "runs/a/checkpoints/")
    done = [int(name.split("/")[3]) for name in names if name.count("/") == 4 and name.endswith("/commit_success.txt")]
    assert [line["step"] for line in lines][: max(done)] == list(range(1, max(done) + 1))  # lines come first

    stopped = lives.run(*arguments, signals=[(3, 0, signal.SIGTERM)])
    assert stopped.code == REQUEUE, stopped.err
    assert "resumed at step" in stopped.out
    assert not as_path(f"{run}/.lock").exists()
    ended = lives.run(*arguments)
    assert ended.code == FINISHED, ended.err
    assert differences(whole, run) == (0, [])
    assert [line["step"] for line in read_jsonl(f"{run}/metrics.jsonl")] == list(range(1, 13))

    name = bucket.removeprefix("gs://")
    files = {path.removeprefix("runs/a/").split("/")[0] for path in store.names(name, "runs/a/")}
    on_disk = {path.name for path in whole.iterdir()} - {".lock", "report_figures"}
    assert files - {"history.jsonl"} == on_disk - {"history.jsonl"}
    assert not Path("gs:").exists()  # nothing has taken the name for a local one
    again = lives.run(*arguments)
    assert again.code == FINISHED
    assert f"finished. Its report: {run}/report.html" in again.out


@pytest.mark.slow
def test_a_damaged_checkpoint_in_a_bucket_is_set_aside(lives, whole, bucket, store):
    run, arguments = f"{bucket}/run", (*SPLIT, f"--config.data.path={EMOJI_FOLDER}")
    stopped = lives.run(run, *arguments, signals=[(6, 0, signal.SIGTERM)])
    assert stopped.code == REQUEUE, stopped.err
    name = bucket.removeprefix("gs://")
    data = [path for path in store.names(name, "run/checkpoints/6/state/") if "/d/" in path]
    for path in data:
        store.put(name, path, store.read(name, path)[::-1])
    ended = lives.run(run, *arguments)
    assert ended.code == FINISHED, ended.err
    assert "checkpoint 6 is damaged, going back to 4" in ended.err
    assert differences(whole, run) == (0, [])
    (event,) = [event for event in read_history(as_path(run)) if event["event"].startswith("a damaged")]
    assert event["moved"] == f"{run}/damaged/6-0"
    assert store.names(name, "run/damaged/6-0/")


@pytest.mark.slow
def test_a_second_run_in_the_same_folder_of_a_bucket_is_refused(lives, bucket):
    place = as_path(f"{bucket}/run")
    # Another machine, which writes while the second run looks.
    (place / ".lock").write_text(json.dumps({"host": "elsewhere", "process": 7}))
    quick = (
        "import xsample_jax.io.locks as l; f = l.Lease.take\n"
        "import json, threading, time\n"
        "def other(self):\n"
        "    def renew():\n"
        "        for _ in range(100):\n"
        "            self._objects.write(l.LOCK, json.dumps({'host': 'elsewhere', 'process': 7}).encode()).result()\n"
        "            time.sleep(0.1)\n"
        "    threading.Thread(target=renew, daemon=True).start()\n"
        "    f(self)\n"
        "l.Lease.take = other"
    )
    refused = lives.run(f"{bucket}/run", hook=quick)
    assert refused.code == BAD_INPUT, refused.err
    assert "process 7 on elsewhere" in refused.err
    assert "Traceback" not in refused.err
    assert list(file_sizes(place)) == [".lock"]
