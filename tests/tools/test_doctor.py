"""The doctor finds what was broken on purpose, says how to mend it, and has nothing to say against a good run."""

import collections
import os

import numpy as np
import pytest
from PIL import Image

from tests.prepare.corpora import make_image
from tests.tiny import tiny_config
from xsample_jax.data.writer import write_records
from xsample_jax.reports.findings import NOTE, PROBLEM, check_data, check_devices, check_disk, check_host, diagnose
from xsample_jax.tools.doctor import main, run

DIM = 8
ENCODER = {"name": "e", "revision": "1", "pooling": "mean", "dim": DIM, "normalised": True, "template": "{caption}"}


def record(number, **changes):
    vector = np.random.default_rng(number).normal(size=(1, DIM))
    embedding = (vector / np.linalg.norm(vector)).astype(np.float16)
    made = {"id": number, "image": make_image(number), "label": number % 3, "captions": [f"caption {number}"]}
    return {**made, "caption_embeddings": embedding, **changes}


def write(folder, change=None, count=40, encoder=ENCODER):
    """A set in which `change(record)` was applied to each record."""
    records = [{**record(number), **(change(number) if change else {})} for number in range(count)]
    if encoder is None:
        records = [{key: value for key, value in r.items() if key != "caption_embeddings"} for r in records]
    write_records(folder, "t", {"train": records}, ["a", "b", "c"], text_encoder=encoder)
    return folder


def config_for(folder, **changes):
    return tiny_config(data__source="records", data__path=str(folder), **changes)


def found(folder, **changes):
    """The problems with the data, as text."""
    return [str(f) for f in check_data(config_for(folder, **changes)) if f.level == PROBLEM]


def test_a_good_run(tmp_path, capsys):
    findings = diagnose(config_for(write(tmp_path / "set")), str(tmp_path / "run"), tmp_path / "first.png")
    assert [str(f) for f in findings if f.level == PROBLEM] == []
    about = collections.Counter(f.about for f in findings)
    assert set(about) == {"config", "data", "records", "embeddings", "devices", "disk", "host"}
    assert all("\n" not in str(f) for f in findings)
    sheet = Image.open(tmp_path / "first.png")
    assert sheet.size == (4 * 192 + 30, 3 * 246 + 6)  # twelve images, four in a row, each with its caption
    assert not (tmp_path / "run").exists()


def test_missing_folder_manifest_and_other_fingerprint(tmp_path):
    (problem,) = found(tmp_path / "nowhere")
    assert "tools.prepare" in problem
    (tmp_path / "empty").mkdir()
    assert "not finished" in found(tmp_path / "empty")[0]
    write(tmp_path / "set")
    assert any("another version" in line for line in found(tmp_path / "set", data__fingerprint="0" * 64))
    assert any("split = 'trian'" in line for line in found(tmp_path / "set", data__split="trian"))


def test_cut_and_changed_files(tmp_path):
    folder = write(tmp_path / "set")
    (path,) = folder.glob("*.arrayrecord")
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0xFF
    path.write_bytes(data)
    assert any("another checksum" in line for line in found(folder))
    every = [str(f) for f in check_data(config_for(folder), every_file=True) if f.level == PROBLEM]
    assert any("SHA-256" in line for line in every)
    os.truncate(path, 1000)
    assert any("1000 bytes" in line for line in found(folder))


def test_broken_images(tmp_path):
    folder = write(tmp_path / "set", lambda number: {"image": b"no image"} if number in (3, 5, 6, 7) else {})
    lines = found(folder)
    assert sum(line.startswith("problem records") for line in lines) == 4
    assert "4 of 40 are broken" in lines[3]
    assert "--source=records" in lines[3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda number: {"caption_embeddings": 2 * record(number)["caption_embeddings"]}, "unit vectors"),
        (lambda number: {"caption_embeddings": record(0)["caption_embeddings"]}, "nearly all the same"),
        (lambda number: {"caption_embeddings": None} if number == 9 else {}, "1 records have none"),
    ],
)
def test_bad_embeddings(tmp_path, change, message):
    assert any(message in line and "tools.embed" in line for line in found(write(tmp_path / "set", change)))


@pytest.mark.parametrize(("same", "level"), [(30, PROBLEM), (5, NOTE)])
def test_captions_that_the_encoder_cannot_tell_apart(tmp_path, same, level):
    """faults.md C8: a language that the text encoder does not know gives one vector for all captions."""

    def change(number):
        unread = {"captions": [f"ข้อความ {number}"], "caption_embeddings": record(0)["caption_embeddings"][:1]}
        return unread if 0 < number <= same else {}

    findings = check_data(config_for(write(tmp_path / "set", change)))
    (line,) = [finding for finding in findings if "embedding of another one" in finding.text]
    assert line.level == level
    assert f"{same + 1} of " in line.text  # record 0 has that vector too
    assert "--model=NAME" in line.text


def notes(config):
    return [finding.text for finding in check_data(config) if finding.level == NOTE]


def test_class_names_that_a_reader_cannot_tell_apart(tmp_path):
    """faults.md C6."""
    names = ["crane", "crane", "Sea  Lion", "sea_lion", " "]
    write_records(tmp_path / "set", "t", {"train": [record(0)]}, names, text_encoder=ENCODER)
    findings = list(check_data(config_for(tmp_path / "set")))
    said = {finding.level: finding.text for finding in findings if "class" in finding.text}
    assert "'crane'" in next(text for text in notes(config_for(tmp_path / "set")) if "several classes" in text)
    assert any("'Sea  Lion', 'sea_lion'" in text for text in notes(config_for(tmp_path / "set")))
    assert "has no name" in said[PROBLEM]


def test_images_that_lose_their_subject_to_the_crop(tmp_path):
    """faults.md C11: the center square of an image of 40 x 20 pixels leaves out half of it."""
    wide = {"image": make_image(7, width=40, height=20)}
    folder = write(tmp_path / "set", lambda number: wide if number < 7 else {})
    assert any("7 of 40 lose more than a third to the crop" in text for text in notes(config_for(folder)))
    assert not any("the crop" in text for text in notes(config_for(folder, data__fit="pad")))


def test_images_on_both_sides_of_a_split(tmp_path, monkeypatch):
    """faults.md C12."""
    trained, evaluated = [record(n) for n in range(20)], [record(n, id=100 + n) for n in range(18, 24)]
    splits = {"train": trained, "val": evaluated}
    write_records(tmp_path / "set", "t", splits, ["a", "b", "c"], text_encoder=ENCODER)
    config = config_for(tmp_path / "set", eval__suite="probe", eval__split="val", eval__train_split="train")
    (said,) = [text for text in notes(config) if "are in train too" in text]
    assert said.startswith("2 of 6 images of val")
    monkeypatch.setattr("xsample_jax.reports.findings.CHECKED_BYTES", 10)
    assert any("are not compared" in text for text in notes(config))
    assert any("2 of 6" in finding.text for finding in check_data(config, every_file=True))


def test_broken_images_that_a_run_skips_are_no_problem(tmp_path):
    folder = write(tmp_path / "set", lambda number: {"image": b"no image"} if number in (0, 5, 6, 7) else {})
    assert found(folder, data__on_error="skip") == []
    folder = write(tmp_path / "all", lambda number: {"image": b"no image"})
    assert any("40 of 40 are broken" in line for line in found(folder, data__on_error="skip"))
    zero = {"caption_embeddings": np.zeros((1, DIM), np.float16)}
    folder = write(tmp_path / "zero", lambda number: zero if number == 5 else {})
    assert found(folder, data__on_error="skip") == []
    assert any("a zero vector" in line for line in found(folder))


def test_records_without_a_caption(tmp_path):
    nothing = {"captions": [], "caption_embeddings": np.zeros((0, DIM), np.float16)}
    folder = write(tmp_path / "set", lambda number: nothing if number == 9 else {})
    lines = found(folder)
    assert any("caption embedding of record" in line and "id 9" in line for line in lines)
    assert any("1 records have none" in line for line in lines)
    looked = [str(f) for f in check_data(config_for(folder))]
    assert any("39 of 40 looked at are whole; 40 with label, 39 with caption, 39 with embedding" in f for f in looked)
    assert found(folder, objective__preset="simclr") == []
    assert found(folder, data__on_error="skip") == []


def test_records_without_a_label(tmp_path):
    folder = write(tmp_path / "set", lambda number: {"label": -1} if number == 9 else {})
    options = {"objective__preset": "xclr_class_text"}
    assert any("label of record" in line and "id 9" in line for line in found(folder, **options))
    assert found(folder) == found(folder, objective__preset="supcon") == []  # an image of no class is its own
    folder = write(tmp_path / "none", lambda number: {"label": -1})
    assert any("none of 40 looked at has a label" in line for line in found(folder, objective__preset="supcon"))


def test_splits_of_the_evaluation(tmp_path):
    """What would be met after all training: no labels, no records, no such split."""
    evaluated = {"eval__suite": "probe", "eval__split": "val", "objective__preset": "xclr"}

    def write_both(name, val, classes=("a", "b", "c")):
        splits = {"train": [record(n) for n in range(40)], "val": val}
        write_records(tmp_path / name, "t", splits, classes, text_encoder=ENCODER)
        return tmp_path / name

    fine = write_both("fine", [record(100 + n) for n in range(9)])
    assert found(fine, **evaluated) == []
    (problem,) = found(fine, **evaluated | {"eval__split": "vla"})
    assert "Did you mean val" in problem
    unlabeled = [record(100 + n, label=-1) for n in range(9)]
    (problem,) = found(write_both("unlabeled", unlabeled, ()), **evaluated)
    assert "labels of split val" in problem
    (problem,) = found(write_both("classes", unlabeled), **evaluated)
    assert "labels of split val" in problem
    assert found(tmp_path / "unlabeled", **evaluated | {"eval__suite": "none"}) == []
    (problem,) = found(write_both("empty", []), **evaluated)
    assert "split val = 0" in problem
    (problem,) = found(write_both("broken", [record(100, image=b"no image")]), **evaluated)
    assert problem.startswith("problem records     split val: image of record")


def test_every_set_of_a_mixture_is_looked_at(tmp_path):
    folder = write(tmp_path / "set")
    other = write(tmp_path / "other", lambda number: {"image": b"no image"} if number == 3 else {})
    mix = {"data__mix": ({"path": str(other), "share": 0.5},)}
    (problem,) = found(folder, **mix)
    assert f"split train of {other}: image of record {other}" in problem
    (path,) = other.glob("*.arrayrecord")
    data = bytearray(path.read_bytes())
    data[-1] ^= 0xFF
    path.write_bytes(data)
    assert any(f"{path} has another checksum" in line for line in found(folder, **mix))
    os.truncate(path, 1000)
    assert any(f"{path} = '1000 bytes'" in line for line in found(folder, **mix))
    (problem,) = found(folder, data__mix=({"path": str(tmp_path / "nowhere"), "share": 0.5},))
    assert "data.mix[0].path" in problem


def test_a_finding_is_said_once(tmp_path):
    def said(folder, **changes):
        findings = diagnose(config_for(folder, **changes), str(tmp_path / "run"), tmp_path / "p.png")
        return [str(f) for f in findings if f.level == PROBLEM]

    broken = write(tmp_path / "broken", lambda number: {"image": b"no image"} if number == 0 else {})
    (problem,) = said(broken, steps=1)
    assert "id 0" in problem
    folder = write(tmp_path / "set")
    (problem,) = said(folder, data__split="trian")
    assert "'trian'" in problem
    (path,) = folder.glob("*.arrayrecord")
    os.truncate(path, 1000)
    (problem,) = said(folder)
    assert "1000 bytes" in problem


@pytest.mark.parametrize("image", ["folder", "file/p.png"])
def test_an_image_that_cannot_be_written_costs_no_finding(tmp_path, image):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    findings = diagnose(config_for(write(tmp_path / "set")), str(tmp_path / "run"), tmp_path / image)
    assert {"records", "devices", "host"} <= {f.about for f in findings}
    assert [f.level for f in findings if "--out" in f.text] == ["note"]


def test_a_workdir_that_is_a_file(tmp_path):
    (tmp_path / "file").touch()
    parts = type("P", (), {"abstract_state": {}, "config": tiny_config()})
    for workdir in (tmp_path / "file", tmp_path / "file" / "run"):
        (finding,) = check_disk(parts, str(workdir))
        assert finding.level == PROBLEM
        assert "is a file: --workdir" in finding.text


def test_a_set_that_lacks_what_the_objective_reads(tmp_path):
    folder = write(tmp_path / "set", encoder=None)
    assert any("caption_embedding" in line for line in found(folder))
    assert found(folder, objective__preset="simclr") == []
    findings = diagnose(config_for(folder), str(tmp_path), tmp_path / "first.png")
    assert not (tmp_path / "first.png").exists()
    assert findings[-1].about == "devices"


def test_mesh_that_does_not_fit():
    config = tiny_config()
    config.batch_size = 13
    lines = [str(f) for f in check_devices(config) if f.level == PROBLEM]
    assert any("batch_size" in line for line in lines)


def test_kernels_that_have_no_tpu():
    config = tiny_config(loss__impl="streaming", loss__kernel="pallas")
    assert any("loss.kernel" in str(f) for f in check_devices(config) if f.level == PROBLEM)


def test_full_disk_and_little_memory(monkeypatch, tmp_path):
    config = tiny_config()
    parts = type("P", (), {"abstract_state": {"w": np.zeros((1024, 1024), np.float32)}, "config": config})
    usage = collections.namedtuple("usage", "total used free")
    for free, level in ((2**20 * 4 * 3 - 1, PROBLEM), (2**20 * 4 * 3, "ok")):
        monkeypatch.setattr("shutil.disk_usage", lambda _, free=free: usage(0, 0, free))
        (finding,) = check_disk(parts, str(tmp_path / "not" / "there"))
        assert finding.level == level
        assert "3 checkpoints of 4 MiB" in finding.text
    config.data.prefetch = 10**9
    assert any("data.prefetch" in str(f) and f.level == PROBLEM for f in check_host(config, 3))


def test_command_line(tmp_path, capsys):
    folder = write(tmp_path / "set")
    flags = ["--config=configs/quickstart.py:smoke", "--config.data.source=records", f"--config.data.path={folder}"]
    code = run([*flags, "--config.augment.size=999", "--config.data.trheads=3"])
    printed = capsys.readouterr().out
    assert code == 1
    assert "Did you mean threads" in printed or "Did you mean data.threads" in printed
    assert "augment.size" in printed
    assert printed.endswith("2 problem(s)\n")
    assert main(["--config=configs/nowhere.py"]) == 1  # a finding, like every other
    assert "nowhere" in capsys.readouterr().out
    code = run([*flags, "--config.batch_size=16", f"--out={tmp_path / 'p.png'}", f"--workdir={tmp_path}"])
    printed = capsys.readouterr().out
    assert code == 0, printed
    assert printed.endswith("no problem found\n")
    assert (tmp_path / "p.png").exists()
