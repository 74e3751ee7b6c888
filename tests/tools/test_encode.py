"""tools.encode: features of a folder and of a split, the same as `Encoder.encode`'s; stopped, continued, bad input."""

import contextlib
import dataclasses
import io
import json
import os
import shutil

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from tests.objectives.synthetic import LinearEncoder
from tests.tiny import tiny_config
from xsample_jax.checkpoint import Checkpoints
from xsample_jax.config import config_to_json, resolve
from xsample_jax.data.sources import open_source
from xsample_jax.data.writer import write_records
from xsample_jax.encoder import load_encoder
from xsample_jax.errors import BAD_INPUT, DataError
from xsample_jax.evals import feature_table
from xsample_jax.models import towers
from xsample_jax.setup import build_run
from xsample_jax.state import Progress
from xsample_jax.tools.encode import main


@pytest.fixture(autouse=True)
def linear(monkeypatch):
    monkeypatch.setitem(towers.ENCODERS, "resnet18", lambda config, rngs: LinearEncoder(rngs))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with a checkpoint of an untrained state."""
    folder = tmp_path_factory.mktemp("encode") / "run"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(towers.ENCODERS, "resnet18", lambda config, rngs: LinearEncoder(rngs))
        config = tiny_config(objective__preset="simclr", name="a run")
        setup, _ = build_run(config)
        with contextlib.closing(Checkpoints(folder, config.checkpoint)) as checkpoints:
            checkpoints.save(setup.new_state(), Progress(step=1), config_to_json(config))
            checkpoints.wait()
    return folder


@pytest.fixture
def photos(tmp_path):
    """Seven images in two folders, in modes and formats that people have; a text beside them."""
    root, rng = tmp_path / "photos", np.random.default_rng(0)
    kinds = ("a.png", "b.JPG", "in/c.webp", "in/d.gif", "in/e.tiff", "in/f.bmp", "in/g.png")
    for number, name in enumerate(kinds):
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (40 + number, 50, 3), dtype=np.uint8)
        image = Image.fromarray(pixels)
        image = image.convert("L") if number == 6 else image
        image.save(file)
    (root / "notes.txt").write_text("no image")
    return root


def table(path):
    found = pyarrow.parquet.read_table(path)
    return found, np.stack(found["features"].to_numpy())


def test_a_folder_as_parquet_and_as_numpy(run, photos, tmp_path, capsys):
    out = tmp_path / "out.parquet"
    assert main([f"--run={run}", f"--path={photos}", f"--out={out}", "--batch_size=3"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"7 rows of features: {out}"
    found, features = table(out)
    assert found["name"].to_pylist() == [
        "a.png",
        "b.JPG",
        *(f"in/{name}" for name in ("c.webp", "d.gif", "e.tiff", "f.bmp", "g.png")),
    ]
    assert json.loads(found.schema.metadata[b"xsample_jax"]) == {"run": "a run", "step": 1, "encoder": "resnet18"}
    encoder = load_encoder(run)
    expected = encoder.encode(
        [np.asarray(Image.open(photos / name).convert("RGB")) for name in found["name"].to_pylist()]
    )
    # A JPEG is decoded by another library here; all other pixels are the same.
    np.testing.assert_allclose(features[1], expected[1], atol=0.05)
    np.testing.assert_allclose(np.delete(features, 1, 0), np.delete(expected, 1, 0), rtol=1e-4, atol=1e-5)
    assert main([f"--run={run}", f"--path={photos}", f"--out={tmp_path / 'out.npy'}"]) == 0
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), features, rtol=1e-4, atol=1e-5)
    assert json.loads((tmp_path / "out.json").read_text())["name"] == found["name"].to_pylist()
    assert main([f"--run={run}", f"--path={photos}", f"--out={tmp_path / 'out.tsv'}"]) == 0
    np.testing.assert_allclose(np.loadtxt(tmp_path / "out.tsv", delimiter="\t"), features, rtol=1e-4, atol=1e-4)
    assert (tmp_path / "out_metadata.tsv").read_text().splitlines() == json.loads((tmp_path / "out.json").read_text())[
        "name"
    ]
    names = ["out.json", "out.npy", "out.parquet", "out.tsv", "out_metadata.tsv", "photos"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_whatever_an_image_is_and_one_alone(run, photos):
    encoder, path = load_encoder(run), photos / "in" / "f.bmp"
    array = np.asarray(Image.open(path).convert("RGB"))
    one = encoder.encode(path)
    assert one.shape == (encoder.features,)
    for same in (array, str(path), path.read_bytes(), Image.open(path)):
        np.testing.assert_allclose(encoder.encode(same), one, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(encoder.encode([same, array]), [one, one], rtol=1e-5, atol=1e-6)
    gray = np.asarray(Image.open(photos / "in" / "g.png"))
    assert gray.ndim == 2
    np.testing.assert_allclose(encoder.encode(gray), encoder.encode(np.stack([gray] * 3, axis=2)), rtol=1e-5, atol=1e-6)


def test_a_split_of_the_runs_dataset(run, tmp_path):
    assert main([f"--run={run}", "--split=val_styles", f"--out={tmp_path / 'x.parquet'}"]) == 0
    found, features = table(tmp_path / "x.parquet")
    encoder = load_encoder(run)
    source = open_source(encoder.config.data, "val_styles")
    assert found["id"].to_pylist() == [source[row]["id"] for row in range(len(source))]
    assert found["caption"].to_pylist()[3] == source[3]["captions"][0]
    np.testing.assert_allclose(features[3], encoder.encode(source[3]["image"]), rtol=1e-4, atol=1e-5)


def test_another_dataset_keeps_its_own_labels(run, tmp_path, monkeypatch):
    encoder = load_encoder(run)
    config = encoder.config.copy_and_resolve_references().unlock()
    with config.data.ignore_type():
        config.data.label = "group"
    monkeypatch.setattr(
        "xsample_jax.encoder.load_encoder", lambda *args: dataclasses.replace(encoder, config=resolve(config))
    )
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    write_records(tmp_path / "set", "other", {"train": [{"id": 5, "image": buffer.getvalue(), "label": 1}]}, ("a", "b"))
    flags = [f"--data={tmp_path / 'set'}", "--split=train", f"--out={tmp_path / 'x.parquet'}"]
    assert main([f"--run={run}", *flags]) == 0
    assert table(tmp_path / "x.parquet")[0]["label"].to_pylist() == [1]


def test_stopped_it_continues_and_another_call_is_not_mixed_in(run, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(feature_table, "PART", 2)
    flags = [f"--run={run}", f"--path={photos}", f"--out={tmp_path / 'out.npy'}"]
    broken, good = photos / "in" / "e.tiff", (photos / "in" / "e.tiff").read_bytes()
    broken.write_bytes(good[:40])
    times = os.stat(broken)
    assert main(flags) == BAD_INPUT
    said = capsys.readouterr().err
    assert str(broken) in said
    assert "Replace it, or leave it out" in said
    parts = tmp_path / ".out.npy.parts"
    assert sorted(path.name for path in parts.iterdir()) == ["0.npy", "2.npy", "about.json"]
    first = os.stat(parts / "0.npy").st_mtime_ns
    assert main([*flags, "--skip_broken"]) == 0
    assert "(1 images left out)" in capsys.readouterr().out
    assert not parts.exists()
    assert len(np.load(tmp_path / "out.npy")) == 6
    assert "in/e.tiff" not in json.loads((tmp_path / "out.json").read_text())["name"]
    (tmp_path / "out.npy").unlink()
    (tmp_path / "out.json").unlink()

    assert main(flags) == BAD_INPUT  # leaves parts, of the broken file
    kept = os.stat(parts / "0.npy").st_mtime_ns
    assert kept != first
    broken.write_bytes(good)
    assert times.st_size != os.stat(broken).st_size
    assert main(flags) == BAD_INPUT
    assert f"rm -r {parts}" in capsys.readouterr().err
    assert os.stat(parts / "0.npy").st_mtime_ns == kept


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--path=nowhere", "--out=x.npy"], "--path = "),
        (["--path=.", "--out=x.csv"], "ends with .parquet or .npy or .tsv"),
        (["--path=.", "--out=no/folder/x.npy"], "mkdir -p"),
        (["--split=nosuch", "--out=x.npy"], "nosuch"),
        (["--path=.", "--data=.", "--out=x.npy"], "needs --split"),
        (["--path=.", "--batch_size=0", "--out=x.npy"], "expected 1 or more"),
    ],
)
def test_bad_input_is_one_line(run, photos, monkeypatch, capsys, flags, said):
    monkeypatch.chdir(photos)
    assert main([f"--run={run}", *flags]) == BAD_INPUT
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


def test_features_that_are_not_finite_are_no_row_of_a_table(run, photos, tmp_path, monkeypatch, capsys):
    """faults D: they were written, and whoever read the table found out."""
    from xsample_jax.encoder import Encoder

    real = Encoder.encode

    def poisoned(self, images, batch_size):
        rows = np.array(real(self, images, batch_size))
        rows[[str(image).endswith("d.gif") for image in images], 1] = np.nan
        return rows

    monkeypatch.setattr(Encoder, "encode", poisoned)
    flags = [f"--run={run}", f"--path={photos}", f"--out={tmp_path / 'out.npy'}"]
    assert main(flags) == BAD_INPUT
    assert "1 of 7 rows with NaN or infinity, the first is in/d.gif" in capsys.readouterr().err
    assert main([*flags, "--skip_broken"]) == 0
    assert "(1 images left out)" in capsys.readouterr().out
    assert np.isfinite(np.load(tmp_path / "out.npy")).all()


def test_names_that_are_not_utf_8_are_shown(run, photos, tmp_path, capsys):
    """faults B11: all images were encoded, and no table could be written."""
    odd = os.fsdecode(b"caf\xe9.png")
    shutil.copy(photos / "a.png", photos / odd)
    shown = ["a.png", "b.JPG", "caf\\xe9.png"]
    for suffix in (".parquet", ".npy", ".tsv"):
        assert main([f"--run={run}", f"--path={photos}", f"--out={tmp_path / f'out{suffix}'}"]) == 0
    assert table(tmp_path / "out.parquet")[0]["name"].to_pylist()[:3] == shown
    assert json.loads((tmp_path / "out.json").read_text())["name"][:3] == shown
    assert (tmp_path / "out_metadata.tsv").read_text().splitlines()[:3] == shown
    features = np.load(tmp_path / "out.npy")
    np.testing.assert_array_equal(features[0], features[2])
    capsys.readouterr()
    (photos / odd).write_bytes(b"no image")
    flags = [f"--run={run}", f"--path={photos}", f"--out={tmp_path / 'again.npy'}"]
    assert main(flags) == BAD_INPUT
    assert "caf\\udce9.png" in capsys.readouterr().err
    assert main([*flags, "--skip_broken"]) == 0
    assert capsys.readouterr().out.endswith("(1 images left out)\n")


def test_a_path_that_is_not_utf_8_is_said_at_the_end(run, photos, tmp_path, capsys):
    """faults B11: a traceback after the table was written."""
    out = tmp_path / os.fsdecode(b"caf\xe9.npy")
    assert main([f"--run={run}", f"--path={photos}", f"--out={out}"]) == 0
    assert out.exists()
    assert "caf\\udce9.npy" in capsys.readouterr().out


def test_a_pipe_is_no_image(run, photos):
    os.mkfifo(photos / "h.png")
    with pytest.raises(DataError, match=r"h\.png.*not a regular file"):
        load_encoder(run).encode(photos / "h.png")


@pytest.mark.parametrize(
    ("out", "beside"),
    [
        ("config.npy", "config.json"),
        ("manifest.npy", "manifest.json"),
        ("of.npy", "of.json"),
        ("of.tsv", "of_metadata.tsv"),
    ],
)
def test_a_file_beside_the_table_is_not_replaced(run, photos, tmp_path, capsys, out, beside):
    """faults B5: --out=RUN/config.npy wrote the names of the images into the run's config.json."""
    (tmp_path / beside).write_text("mine")
    assert main([f"--run={run}", f"--path={photos}", f"--out={tmp_path / out}"]) == BAD_INPUT
    assert f"another name: {beside} would be written too" in capsys.readouterr().err
    assert (tmp_path / beside).read_text() == "mine"
    assert not (tmp_path / out).exists()


def test_a_table_that_is_there_is_not_replaced(run, photos, tmp_path, capsys):
    """faults D6: one of another run or of other images was gone without a word."""
    flags = [f"--run={run}", f"--path={photos}", f"--out={tmp_path / 'out.npy'}"]
    assert main(flags) == 0
    (photos / "a.png").unlink()
    assert main(flags) == BAD_INPUT
    said = capsys.readouterr().err
    assert said.rstrip().endswith(f"rm {tmp_path / 'out.npy'} {tmp_path / 'out.json'}")
    assert len(json.loads((tmp_path / "out.json").read_text())["name"]) == 7


def test_a_call_that_was_killed_at_its_end_writes_its_table_again(run, photos, tmp_path, monkeypatch):
    """faults D6: the files are there, and the parts say that they are of this very call."""
    flags = [f"--run={run}", f"--path={photos}", f"--out={tmp_path / 'out.npy'}"]
    with monkeypatch.context() as patch:
        patch.setattr(feature_table.shutil, "rmtree", None)
        with pytest.raises(TypeError):
            main(flags)
    assert main(flags) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json", "out.npy", "photos"]


def test_a_link_to_nothing_is_a_broken_image(run, photos, tmp_path, capsys):
    """faults B11: one of them ended the call with --skip_broken, too."""
    (photos / "h.png").symlink_to("/nowhere.png")
    flags = [f"--run={run}", f"--path={photos}", f"--out={tmp_path / 'out.npy'}"]
    assert main(flags) == BAD_INPUT
    assert "h.png" in capsys.readouterr().err
    assert main([*flags, "--skip_broken"]) == 0
    assert capsys.readouterr().out.endswith("(1 images left out)\n")


def test_parts_without_an_image_are_for_skip_broken_only(run, photos, tmp_path, monkeypatch, capsys):
    """A killed call with --skip_broken: one without it reused its parts and left the image out, without an error."""
    (photos / "a.png").write_bytes(b"no image")
    images, out = feature_table.images_in(photos), tmp_path / "out.npy"
    encoder = load_encoder(run)
    with monkeypatch.context() as patch:
        patch.setattr(feature_table, "_write_numpy", None)  # ends the call where the table would be written
        with pytest.raises(TypeError):
            feature_table.write_features(encoder, images, out, skip=True)
    assert (tmp_path / ".out.npy.parts" / "0.npy").exists()
    assert main([f"--run={run}", f"--path={photos}", f"--out={out}"]) == BAD_INPUT
    assert "a.png" in capsys.readouterr().err
