"""Caption encoding, with a stand-in for sentence-transformers: the real one is too heavy for the suite."""

import hashlib
import shutil
import subprocess
import sys
import types

import huggingface_hub
import numpy as np
import pytest

from xsample_jax.captions import sentence_model as model_identity
from xsample_jax.captions.encoders import checked_unit_rows, encode_texts, round_rows
from xsample_jax.data.records import unit_rows
from xsample_jax.errors import ConfigError, DataError


class FakeEncoder(list):
    """Two numbers per text: its length and 1; modules as sentence-transformers has them."""

    dtype, prompts, default_prompt_name = "torch.float32", {"query": "find: "}, None

    def __init__(self, model, device=None):
        if model == "nowhere":
            raise OSError("no such model")
        if model == "damaged":
            raise Exception("invalid header")  # SafetensorError is of no other kind
        super().__init__([types.SimpleNamespace(), types.SimpleNamespace(pooling_mode="mean")])
        self.seen = []

    def get_max_seq_length(self):
        return 77

    def eval(self):
        return self

    def encode(self, texts, batch_size=1, convert_to_numpy=True, show_progress_bar=False):
        return np.array([[len(text), 1] for text in texts], np.float32).reshape(-1, 2)


@pytest.fixture
def fake(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "sentence_transformers", types.SimpleNamespace(SentenceTransformer=FakeEncoder))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda model, local_files_only: tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    return tmp_path


def test_rows_of_unit_length_and_description(fake):
    rows, info = encode_texts(["abc", ""], "some/model", "torch")
    np.testing.assert_allclose(rows, [[3 / np.sqrt(10), 1 / np.sqrt(10)], [0, 1]], rtol=1e-6)
    assert rows.dtype == np.float32
    assert info == {
        "name": "some/model",
        "revision": "sha256:" + hashlib.sha256(b"weights").hexdigest(),
        "pooling": "mean",
        "dim": 2,
        "max_length": 77,
        "normalised": True,
        "template": "{caption}",
    }


def test_template_goes_around_the_text(fake):
    rows, info = encode_texts(["abc"], "m", "torch", template="a photo of {caption}")
    np.testing.assert_allclose(rows[0, 0] / rows[0, 1], len("a photo of abc"), rtol=1e-5)
    assert info["template"] == "a photo of {caption}"


def test_no_texts(fake):
    rows, info = encode_texts([], "m", "torch")
    assert rows.shape == (0, 2)
    assert info["dim"] == 2


def test_known_weights_get_their_official_name_wherever_they_lie(fake, monkeypatch):
    monkeypatch.setattr(model_identity, "KNOWN_WEIGHTS", {hashlib.sha256(b"weights").hexdigest(): "official/name"})
    assert encode_texts(["a"], str(fake), "torch")[1]["name"] == "official/name"
    monkeypatch.setattr(model_identity, "KNOWN_WEIGHTS", {})
    assert encode_texts(["a"], str(fake), "torch")[1]["name"] == fake.name  # never the path of a machine


def test_other_weights_are_told_apart(fake):
    """CLIP's folders have theirs one level down; old ones are pickled."""

    def revision():
        return encode_texts(["a"], str(fake), "torch")[1]["revision"]

    seen = [revision()]
    (fake / "checkpoint-100").mkdir()
    for name in ("pytorch_model.bin", "checkpoint-100/model.safetensors"):
        (fake / name).write_bytes(b"not read")
    assert revision() == seen[0]
    for name in ("0_CLIPModel/model.safetensors", "pytorch_model.bin"):
        (fake / "model.safetensors").unlink(missing_ok=True)
        (fake / name).parent.mkdir(exist_ok=True)
        for content in (b"some", b"other"):
            (fake / name).write_bytes(content)
            seen.append(revision())
    assert len(set(seen)) == 5
    shutil.rmtree(fake / "0_CLIPModel")
    (fake / "pytorch_model.bin").unlink()
    assert revision() == "unknown"


def test_prompt_and_type_of_a_torch_model_are_said(fake, monkeypatch):
    monkeypatch.setattr(FakeEncoder, "default_prompt_name", "query")
    monkeypatch.setattr(FakeEncoder, "dtype", "torch.bfloat16")
    info = encode_texts(["a"], "m", "torch")[1]
    assert (info["prompt"], info["dtype"]) == ("find: ", "bfloat16")


def test_unloadable_model(fake):
    with pytest.raises(DataError, match=r"model = 'nowhere'.*no such model"):
        encode_texts(["a"], "nowhere", "torch")
    with pytest.raises(DataError, match=r"model = 'damaged'.*invalid header"):
        encode_texts(["a"], "damaged", "torch")


def test_a_device_that_torch_does_not_have(fake, monkeypatch):
    def move(encoder, device):
        if device != "cpu":
            raise RuntimeError(f"Expected one of cpu, cuda device type at start of device string: {device}\nmore")

    monkeypatch.setattr(FakeEncoder, "to", move, raising=False)
    assert encode_texts(["a"], "m", "torch", device="cpu")[1]["name"] == "m"
    with pytest.raises(ConfigError, match=r"--device = 'gpu'.*device string: gpu$"):
        encode_texts(["a"], "m", "torch", device="gpu")


def test_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ImportError, match=r"xsample_jax\[text\]"):
        encode_texts(["a"], backend="torch")


def test_importing_the_module_imports_no_torch():
    code = (
        "import sys, xsample_jax.captions.encoders, xsample_jax.data.captions, xsample_jax.data.sources;"
        "print([m for m in ('torch', 'tensorflow', 'sentence_transformers', 'transformers') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_checked_unit_rows_refuses_zero_and_nan():
    with pytest.raises(DataError, match="row 1"):
        checked_unit_rows(np.array([[1.0, 0], [0, 0]]))
    with pytest.raises(DataError, match="row 0"):
        checked_unit_rows(np.array([[np.nan, 0]]))
    with pytest.raises(DataError, match=r"embedding of 'b' = 'length 0.0'"):
        checked_unit_rows(np.array([[1.0, 0], [0, 0]]), ["a", "b"])


def test_round_rows_error_is_as_documented():
    rng = np.random.default_rng(0)
    rows = checked_unit_rows(rng.normal(size=(200, 768)))
    rounded = round_rows(rows, 1 / 512)
    assert rounded.dtype == np.float16
    np.testing.assert_array_equal(rounded.astype(np.float64) * 512 % 1, 0)
    assert np.abs(rounded - rows).max() <= 0.5 / 512 + 1e-7
    exact, after = rows @ rows.T, checked_unit_rows(rounded) @ checked_unit_rows(rounded).T
    error = (after - exact)[np.triu_indices(200, 1)].std()
    assert 0.5 < error / (1 / 512 / np.sqrt(6)) < 1.2


@pytest.mark.parametrize("size", [1e-300, 1e-44, 1e-22, 1.0, 1e19, 1e30, 1e300])
def test_rows_of_any_length_are_made_unit(size):
    """faults C3: the squares of small numbers have few bits in float32, those of large ones are infinite."""
    rows = np.random.default_rng(0).normal(size=(3, 8))
    exact = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    for scale in (checked_unit_rows, unit_rows):
        np.testing.assert_allclose(scale(rows * size), exact, rtol=1e-5)
        if 1e-38 < size < 1e38:
            np.testing.assert_allclose(scale((rows * size).astype(np.float32)), exact, rtol=1e-5)
    subnormal = np.array([[3e-45, -4e-45], [0, 0]], np.float32)  # 2 and -3 of the smallest number
    np.testing.assert_allclose(unit_rows(subnormal), [[2 / 13**0.5, -3 / 13**0.5], [0, 0]], rtol=1e-6)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_rows_without_a_length_do_not_warn(bad):
    """faults C3: infinity by infinity was a RuntimeWarning beside the message about these rows."""
    for small in (1.0, 1e-30):  # rows that are scaled first, beside it
        found = unit_rows(np.array([[bad, 1.0], [3 * small, 4 * small]]))
        assert np.isnan(found[0]).any()
        np.testing.assert_allclose(found[1], [0.6, 0.8], rtol=1e-6)
