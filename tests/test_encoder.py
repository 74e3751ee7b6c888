"""The public API: train, load_encoder and its encode, evaluate; and a run's encoder in other formats."""

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import xsample_jax
import xsample_jax.encoder as encoder_module
from tests.tiny import tiny_config
from xsample_jax.checkpoint import Checkpoints
from xsample_jax.data.decode import decode_image
from xsample_jax.errors import CheckpointError, ConfigError, DataError, Problems
from xsample_jax.io.checkpoint_files import find_checkpoint
from xsample_jax.setup import build_run
from xsample_jax.tools.export import main as export_main
from xsample_jax.weights.families import FAMILIES, import_encoder
from xsample_jax.weights.files import read_safetensors

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of two steps with a moving average, its config and its folder."""
    from xsample_jax.models import resnet

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(resnet.LAYOUTS, 18, (resnet.BasicBlock, (1, 1)))
        folder = tmp_path_factory.mktemp("run")
        config = tiny_config(steps=2, optimizer__ema=0.5, checkpoint__every=1)
        patch.setattr("xsample_jax.loop.write_report", lambda runs, path: None)
        xsample_jax.train(config, folder)
        yield config, folder


@pytest.fixture(scope="module")
def encoder(run):
    return xsample_jax.load_encoder(run[1])


def test_encode_is_what_the_evaluation_computes(run, encoder):
    config, folder = run
    parts, examples = build_run(config)
    images = np.stack([examples[i]["image"] for i in range(8)])
    checkpoints = Checkpoints(folder, config.checkpoint, own=False)
    state, _ = checkpoints.restore(parts.abstract_state)
    checkpoints.close()
    expected, _ = parts.encode(state, images)
    features = encoder.encode(images)
    assert (features.shape, features.dtype) == ((8, encoder.features), np.float32)
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(features[0] - features[1]).max() > 1e-3
    assert any((state.ema[name] != state.params[name]).any() for name in state.params if name.startswith("encoder/"))
    assert encoder.step == 2


def test_batches_sizes_and_alpha(encoder):
    images = np.random.default_rng(0).integers(0, 256, (5, 50, 40, 3), dtype=np.uint8)
    whole = encoder.encode(images)
    np.testing.assert_allclose(encoder.encode(images, batch_size=2), whole, rtol=1e-4, atol=1e-5)
    files = [io.BytesIO() for _ in images]
    for image, file in zip(images, files):
        Image.fromarray(image).save(file, "png")
    delivered = [decode_image(file.getvalue(), 32, 4) for file in files]  # what the host gives to an evaluation
    np.testing.assert_allclose(encoder.encode(delivered), whole, rtol=1e-4, atol=1e-5)
    mixed = encoder.encode([images[0], delivered[1], images[2, :20, :30]])
    np.testing.assert_allclose(mixed[:2], whole[:2], rtol=1e-4, atol=1e-5)
    opaque = np.concatenate([images, np.full((5, 50, 40, 1), 255, np.uint8)], axis=-1)
    np.testing.assert_allclose(encoder.encode(opaque), whole, rtol=1e-4, atol=1e-5)
    clear = opaque.copy()
    clear[..., 3] = 0
    assert np.ptp(encoder.encode(clear), axis=0).max() < 1e-5  # only the background is left
    assert encoder.encode([]).shape == (0, encoder.features)
    for wrong in (images.astype(np.float32), images[..., :2]):
        with pytest.raises(DataError, match=r"image 0 = .*uint8 \[height, width, 3\]"):
            encoder.encode(wrong)


def test_as_many_rows_as_images(encoder):
    """faults C1: one gray image was forty, iterators a TypeError, and batch_size=-1 no rows."""
    images = np.random.default_rng(0).integers(0, 256, (5, 50, 40, 3), dtype=np.uint8)
    whole = encoder.encode(images)
    np.testing.assert_allclose(encoder.encode(image for image in images), whole, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(encoder.encode(jax.numpy.asarray(images[0])), whole[0], rtol=1e-4, atol=1e-5)
    assert encoder.encode(images[0, :, :, :1]).shape == (encoder.features,)
    for given, batch_size in ((images, -1), (images, 0), (images[0], 0), ([], 0), (None, 64), ({}, 64)):
        with pytest.raises(DataError):
            encoder.encode(given, batch_size)


def test_other_steps_and_missing_runs(run, tmp_path):
    assert xsample_jax.load_encoder(run[1], step=1).step == 1
    with pytest.raises(CheckpointError, match=r"step = 7.*1, 2"):
        xsample_jax.load_encoder(run[1], step=7)
    for call in (xsample_jax.load_encoder, xsample_jax.evaluate):
        with pytest.raises(CheckpointError, match="a run folder"):
            call(tmp_path)


@pytest.mark.parametrize("name", ["checkpoints", "checkpoints/3", "x.npz", "demo"])
def test_a_folder_with_checkpoints_is_a_run_whatever_its_name(run, tmp_path, monkeypatch, name):
    """faults B1: what trains there, or is copied there, is read again; ./demo is not the encoder of the package."""
    shutil.copytree(run[1], tmp_path / name)
    for others in ("²", "007", "x"):  # a folder checkpoints/² was a ValueError
        (tmp_path / name / "checkpoints" / others).mkdir()
    monkeypatch.chdir(tmp_path)
    for path in (name, Path(name), tmp_path / name):
        assert find_checkpoint(path) == (tmp_path / name, 2)
        assert find_checkpoint(f"{path}/checkpoints") == (tmp_path / name, 2)
        assert find_checkpoint(f"{path}/checkpoints/1") == (tmp_path / name, 1)
        assert xsample_jax.load_encoder(path).step == 2
    config = run[0].copy_and_resolve_references().unlock()
    config.model.init_from = name
    assert xsample_jax.config.resolve(config).model.init_from == name
    (tmp_path / name).rename(tmp_path / "elsewhere")
    monkeypatch.setattr(encoder_module, "_read_saved", lambda path: path)
    assert xsample_jax.load_encoder("demo") == encoder_module.DEMO_FILE


def test_train_takes_a_file_and_reports_what_is_wrong(tmp_path):
    config = xsample_jax.load_config(f"{ROOT}/configs/quickstart.py:smoke").copy_and_resolve_references().unlock()
    config.batch_size, config.views = 0, 1
    with pytest.raises(Problems, match="batch_size"):
        xsample_jax.train(config, tmp_path)
    with pytest.raises(ConfigError, match=r"quickstrat\.py.*quickstart"):
        xsample_jax.train(f"{ROOT}/configs/quickstrat.py", tmp_path)


def test_evaluate_again(run):
    metrics = xsample_jax.evaluate(run[1], suite="probe", split="val_styles", train_split="val")
    assert 0 < metrics["label/knn"] <= 1
    with pytest.raises(Problems, match=r"eval\.suite.*Did you mean probe"):
        xsample_jax.evaluate(run[1], suite="prob")


def test_importing_the_package_imports_no_jax():
    code = "import sys, xsample_jax; assert 'jax' not in sys.modules and 'numpy' not in sys.modules; dir(xsample_jax)"
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        xsample_jax.trian  # noqa: B018


def test_safetensors_comes_back_as_the_same_encoder(run, encoder, tmp_path, capsys):
    out = tmp_path / "e.safetensors"
    assert export_main(["--checkpoint", str(run[1]), "--format=safetensors", f"--out={out}"]) == 0
    assert "timm.create_model('resnet18', num_classes=0) but with" in capsys.readouterr().out
    tensors = read_safetensors(out)
    assert tensors["bn1.num_batches_tracked"] == 2
    back = import_encoder(encoder.config, FAMILIES["resnet"], tensors, "e")
    assert back.keys() == encoder.arrays.keys()
    for name, value in back.items():
        np.testing.assert_array_equal(value, encoder.arrays[name])


def test_jax_export_runs_without_this_package(run, encoder, tmp_path, capsys):
    out = tmp_path / "e.jax"
    assert export_main(["--checkpoint", str(run[1]), "--format=jax_export", f"--out={out}"]) == 0
    assert "[n, 32, 32, 4, the last of them alpha]" in capsys.readouterr().out
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 4), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    code = f"""
import sys, jax, numpy as np
function = jax.export.deserialize(bytearray(open({str(out)!r}, "rb").read()))
assert set(function.platforms) == {{"cpu", "cuda", "tpu"}}
images = np.load({str(tmp_path / "images.npy")!r})
np.save({str(tmp_path / "rows.npy")!r}, np.concatenate([function.call(images[:1]), function.call(images[1:])]))
assert not [name for name in sys.modules if name.startswith(("xsample_jax", "flax"))]
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    np.testing.assert_allclose(np.load(tmp_path / "rows.npy"), encoder.encode(images), rtol=1e-4, atol=1e-5)


def test_export_of_nothing(tmp_path, capsys):
    assert export_main(["--checkpoint", str(tmp_path), "--format=safetensors", f"--out={tmp_path / 'x'}"]) == 2
    assert "a run folder" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_said(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run[1], folder)
    for path in (folder / "checkpoints" / "2" / "state").rglob("*"):
        if path.is_file() and path.stat().st_size > 4096:
            content = bytearray(path.read_bytes())
            content[len(content) // 2 : len(content) // 2 + 64] = os.urandom(64)
            path.write_bytes(content)
    with pytest.raises(CheckpointError):
        xsample_jax.load_encoder(folder)
    assert xsample_jax.load_encoder(folder, step=1).step == 1
    assert len(jax.devices()) == 8  # of this process; the run was trained on all of them


def test_onnx_without_its_extra_says_so(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    assert export_main(["--checkpoint", str(run[1]), "--format=onnx", f"--out={tmp_path / 'e.onnx'}"]) == 2
    assert "pip install -e .[onnx]" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_one_file_gives_the_same_features(encoder, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    encoder.save(tmp_path / "e.npz")
    again = xsample_jax.load_encoder(tmp_path / "e.npz")
    np.testing.assert_array_equal(again.encode(images), encoder.encode(images))
    assert (again.step, again.config.to_dict()) == (encoder.step, encoder.config.to_dict())
    with pytest.raises(DataError, match=r"ends with \.npz"):
        encoder.save(tmp_path / "e.bin")
    with pytest.raises(DataError, match=r"a folder that exists\. Make it: mkdir -p"):  # faults B5: a raw error
        encoder.save(tmp_path / "no" / "e.npz")
    with np.load(tmp_path / "e.npz") as file:
        arrays = dict(file)
    one = next(name for name in arrays if name.endswith("kernel"))
    wrong = {"no about": {k: v for k, v in arrays.items() if k != "about.json"}, "no kernel": arrays.copy()}
    wrong["not json"] = arrays | {"about.json": np.frombuffer(b"{", np.uint8)}
    wrong["another shape"] = arrays | {one: arrays[one][..., :1]}
    del wrong["no kernel"][one]
    for content in wrong.values():
        np.savez(tmp_path / "wrong.npz", **content)
        with pytest.raises(DataError, match="Save it again"):
            xsample_jax.load_encoder(tmp_path / "wrong.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "e.npz").read_bytes()[:100])
    for name in ("cut.npz", "missing.npz"):
        with pytest.raises(DataError, match=name):
            xsample_jax.load_encoder(tmp_path / name)
