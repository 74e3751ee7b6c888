"""Files of weights: what torch and we wrote, and what is refused."""

import io
import pickle
import re
import shutil
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.weights.made import made_encoder
from xsample_jax.errors import DataError
from xsample_jax.export import export_jax
from xsample_jax.io.files import atomic_write
from xsample_jax.models.vit import LAYOUTS
from xsample_jax.weights.files import read_safetensors, read_weights, write_safetensors

TORCH = Path(__file__).parent / "torch.pth"  # by make_goldens.py


def test_what_torch_saved():
    tensors = read_weights(TORCH)
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    assert set(tensors) == {"plain", "transposed", "column", "half", "brain", "count", "parameter", "empty"}
    np.testing.assert_array_equal(tensors["plain"], base)
    np.testing.assert_array_equal(tensors["transposed"], base.T)
    np.testing.assert_array_equal(tensors["column"], base[:, 2])
    np.testing.assert_array_equal(tensors["parameter"], base + 1)
    assert tensors["half"].dtype == np.float16
    np.testing.assert_array_equal(tensors["half"], base)
    assert tensors["brain"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(tensors["brain"].astype(np.float32), base)
    assert (tensors["count"].shape, tensors["count"].dtype, int(tensors["count"])) == ((), np.int64, 5)
    assert tensors["empty"].shape == (0, 3)


def rewritten(tmp_path, change):
    """A copy of torch.pth whose files {name: bytes} went through `change`."""
    with zipfile.ZipFile(TORCH) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    path = tmp_path / "changed.pth"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in change(files).items():
            archive.writestr(name, content)
    return path


def test_nothing_in_the_file_runs(tmp_path):
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (exec, (f"open({str(marker)!r}, 'w')",))

    def change(files):
        name = next(name for name in files if name.endswith("data.pkl"))
        return files | {name: pickle.dumps({"state_dict": {"a": Evil()}}, protocol=2)}

    with pytest.raises(DataError, match="names with tensors"):
        read_weights(rewritten(tmp_path, change))
    assert not marker.exists()


def test_damaged_and_other_torch_files(tmp_path):
    short = rewritten(tmp_path, lambda files: {name: content[:40] for name, content in files.items()})
    with pytest.raises(DataError, match=r"changed\.pth.*safetensors\.torch"):
        read_weights(short)
    storages = lambda files: {n: c[:8] if "/data/" in n else c for n, c in files.items()}  # noqa: E731
    with pytest.raises(DataError, match="can be read"):
        read_weights(rewritten(tmp_path, storages))
    script = rewritten(tmp_path, lambda files: files | {"archive/constants.pkl": b""})
    with pytest.raises(DataError, match="TorchScript"):
        read_weights(script)
    old = tmp_path / "old.pth"
    old.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(DataError, match=r"torch >= 1\.6"):
        read_weights(old)
    with pytest.raises(DataError, match="an existing file"):
        read_weights(tmp_path / "none.bin")


def test_npz_and_unknown_endings(tmp_path):
    np.savez(tmp_path / "a.npz", **{"b/kernel": np.ones((2, 3))})
    np.testing.assert_array_equal(read_weights(tmp_path / "a.npz")["b/kernel"], np.ones((2, 3)))
    np.savez(tmp_path / "o.npz", a=np.array([object()], dtype=object))
    for name, content in (("broken.npz", b"PK no"), ("text.npz", b"abc")):
        (tmp_path / name).write_bytes(content)
    for name in ("o.npz", "broken.npz", "text.npz"):
        with pytest.raises(DataError, match=r"an \.npz file"):
            read_weights(tmp_path / name)
    with pytest.raises(DataError, match=r"ends in \.safetensors, \.npz, \.pth"):
        read_weights(tmp_path / "a.ckpt")
    shutil.copy(TORCH, tmp_path / "pytorch_model.bin")
    assert "plain" in read_weights(tmp_path / "pytorch_model.bin")


def test_safetensors_round_trip(tmp_path):
    path = tmp_path / "a.safetensors"
    tensors = {
        "b": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "a": np.array(3, np.int64),
        "c": np.ones((2, 0), np.float16),
        "d": np.arange(4).astype(jnp.bfloat16),
    }
    write_safetensors(path, tensors, {"load": "x"})
    found = read_safetensors(path)
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)
    raw = io.BytesIO(path.read_bytes())
    size = int.from_bytes(raw.read(8), "little")
    assert size % 8 == 0
    assert re.search(rb'"__metadata__": ?{"load": ?"x"}', raw.read(size))
    plain = tmp_path / "plain.txt"
    atomic_write(plain, lambda partial: partial.write_text("x"))
    assert path.stat().st_mode == plain.stat().st_mode  # an export is read by others
    write_safetensors(path, tensors, {})
    assert b"__metadata__" not in path.read_bytes()


KINDS = {
    **{layout: {"encoder": "vit_ti", "layout": layout, "patch_size": 8} for layout in LAYOUTS},
    "resnet": {"encoder": "resnet18", "width": 8},
    "convnext": {"encoder": "convnext_atto"},
    "convnextv2": {"encoder": "convnextv2_atto"},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("shallow_resnet18", "shallow_vit")
def test_every_kind_of_encoder_is_exported_for_any_number_of_images(kind, tmp_path):
    """faults D4: len() of a batch of any size is an error, so the layout siglip had no export."""
    encoder = made_encoder(KINDS[kind], 32)
    export_jax(encoder, tmp_path / "e.jax", ("cpu",))
    function = jax.export.deserialize(bytearray((tmp_path / "e.jax").read_bytes()))
    assert str(function.in_avals[0].shape[0]) == "n"
    assert str(function.out_avals[0].shape) == f"(n, {encoder.features})"
