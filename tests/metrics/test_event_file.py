"""TensorBoard's event files: read back with another implementation, and written with neither torch nor TensorFlow."""

import math
import os
import pathlib
import struct
import subprocess
import sys

import numpy as np
import pytest

from xsample_jax.metrics.writers import EventFile, TensorBoardWriter, checksum

ROOT = pathlib.Path(__file__).parent.parent.parent


def records(path):
    """The data of each TFRecord, its checksums not looked at."""
    rest, found = path.read_bytes(), []
    while rest:
        (length,) = struct.unpack("<Q", rest[:8])
        found.append(rest[12 : 12 + length])
        rest = rest[16 + length :]
    return found


def test_checksum_has_the_published_values():
    # RFC 3720, appendix B.4, and the check value of the catalog of CRCs.
    assert checksum(b"123456789") == 0xE3069283
    assert checksum(bytes(32)) == 0x8A9136AA
    assert checksum(b"\xff" * 32) == 0x62A8AB43
    assert checksum(bytes(range(32))) == 0x46DD794E


def test_file_is_byte_for_byte_that_of_tensorboardx(tmp_path):
    """Its protocol buffers are compiled from TensorFlow's definitions: fields in the wrong place do not come back."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    record_writer = pytest.importorskip("tensorboardX.record_writer")
    file = EventFile(tmp_path / "ours", purge_step=301)
    file.write(301, {"loss": 1.5, "eval/übung": -0.1})
    file.write(2**40, {"n" * 200: 3})
    file.close()
    (path,) = (tmp_path / "ours").iterdir()
    theirs = record_writer.RecordWriter(str(tmp_path / "theirs"))
    events = []
    for data in records(path):
        events.append(event_pb2.Event.FromString(data))
        theirs.write(events[-1].SerializeToString())
    theirs.close()
    assert (tmp_path / "theirs").read_bytes() == path.read_bytes()

    assert [event.step for event in events] == [0, 301, 301, 2**40]
    assert events[0].file_version == "brain.Event:2"
    assert events[1].session_log.status == event_pb2.SessionLog.START
    numbers = [{value.tag: value.simple_value for value in event.summary.value} for event in events[2:]]
    assert numbers == [{"loss": 1.5, "eval/übung": float(np.float32(-0.1))}, {"n" * 200: 3.0}]
    assert all(abs(event.wall_time - path.stat().st_mtime) < 60 for event in events)


def test_events_are_on_disk_at_once_and_what_is_not_a_number_is_left_out(tmp_path):
    writer = TensorBoardWriter(tmp_path)
    writer.write(np.int64(3), {"loss": np.float32(1.5), "bad": math.nan, "large": 1e300, "word": "text"})
    (path,) = tmp_path.iterdir()
    last = records(path)[-1]
    assert b"\x04loss\x15" + struct.pack("<f", 1.5) in last
    assert b"\x05large\x15" + struct.pack("<f", np.finfo(np.float32).max) in last
    assert b"bad" not in last
    assert b"word" not in last
    writer.close()


def test_resumed_run_writes_a_later_file_that_purges_from_its_first_step(tmp_path):
    first = TensorBoardWriter(tmp_path)
    first.write(10, {"loss": 1.0})  # killed without close()
    (before,) = tmp_path.iterdir()
    TensorBoardWriter(tmp_path, resume_step=7).close()
    one, two = sorted(tmp_path.iterdir())
    assert one == before
    # Event.step = 8, SessionLog.status = START: TensorBoard hides steps >= 8 of older files.
    assert records(two)[1][9:] == b"\x10\x08\x3a\x02\x08\x01"


def test_writing_loads_neither_torch_nor_tensorflow(tmp_path):
    for name in ("torch", "tensorflow"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'a').write('{name} ')")
    code = (
        "from xsample_jax.metrics.progress_bar import ProgressLine\n"
        "from xsample_jax.metrics.writers import open_writers\n"
        f"writers = open_writers({str(tmp_path / 'run')!r}, ProgressLine(2))\n"
        "writers.write(1, {'loss': 1.0})\n"
        "writers.close()\n"
    )
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    (events,) = (tmp_path / "run" / "tensorboard").iterdir()
    assert b"loss" in events.read_bytes()
    assert not (tmp_path / "imported").exists(), (tmp_path / "imported").read_text()
    # The note would tell.
    subprocess.run([sys.executable, "-c", "import torch"], env=environment, check=True)
    assert (tmp_path / "imported").read_text() == "torch "
