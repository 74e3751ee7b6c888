"""Soups: an average is an average, evaluation, export and init_from read it, and other models are refused."""

import contextlib
import json

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.models.test_lora_and_patches import FROZEN, small_vit
from tests.tiny import tiny_config
from tests.tools.test_evaluate import save_run
from xsample_jax.checkpoint import Checkpoints
from xsample_jax.config import config_to_json
from xsample_jax.encoder import load_encoder, read_initial
from xsample_jax.errors import BAD_INPUT
from xsample_jax.evals.evaluate import load_model, read_config
from xsample_jax.export import average_weights, write_soup
from xsample_jax.io.checkpoint_files import find_checkpoint, read_arrays, saved_arrays
from xsample_jax.models import resnet
from xsample_jax.models.vit import LORA, add_lora
from xsample_jax.state import Progress, TrainState, to_flat
from xsample_jax.tools import export
from xsample_jax.tools.soup import main


@pytest.fixture(autouse=True)
def _one_block(monkeypatch):
    monkeypatch.setitem(resnet.LAYOUTS, 18, (resnet.BasicBlock, (1,)))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    save_run(folder / "a", steps=(1, 2), seed=0)
    save_run(folder / "b", steps=(2,), seed=1, optimizer__ema=0.5)
    save_run(folder / "narrow", steps=(2,), augment__size=24, model__head__dim=8)
    return folder


def arrays_of(run):
    where = find_checkpoint(run)
    found = read_arrays(*where, saved_arrays(*where), sharding=None)
    return {name: found["ema"].get(name, of) for part in ("params", "statistics") for name, of in found[part].items()}


def test_a_soup_is_the_mean_and_everything_reads_it(runs, tmp_path, capsys):
    out = tmp_path / "soup"
    assert main([str(runs / "a"), str(runs / "b"), str(runs / "a" / "checkpoints" / "1"), f"--out={out}"]) == 0
    printed = capsys.readouterr().out
    assert "averaged over 3 runs, step 2" in printed
    assert "batch norms" in printed
    a, b, soup = (arrays_of(of) for of in (runs / "a", runs / "b", out))
    assert soup.keys() == a.keys()
    for name in soup:
        np.testing.assert_allclose(soup[name], (2 * a[name] + b[name]) / 3, rtol=1e-6, atol=1e-7)
    where = find_checkpoint(out)
    loaded = load_model(*where, read_config(*where))
    assert not loaded.state.ema
    encoder = load_encoder(out)
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 4), dtype=np.uint8)
    seen = loaded.parts.encode(loaded.state, images)[0]
    np.testing.assert_allclose(encoder.forward(images), seen, rtol=1e-4, atol=1e-5)
    assert export.main([f"--run={out}", "--format=safetensors", f"--out={tmp_path / 'e.safetensors'}"]) == 0
    started = read_initial(tiny_config(model__width=16, model__init_from=str(out)))
    assert {name for name in soup if name.startswith("encoder/")} == started.keys()
    event = json.loads((out / "history.jsonl").read_text().splitlines()[0])
    assert len(event["runs"]) == 3
    assert main([str(runs / "a"), str(runs / "b"), f"--out={out}"]) == BAD_INPUT
    assert "a folder that is not a run" in capsys.readouterr().err


def test_a_soup_of_one_model_is_that_model_to_the_bit():
    model = {"params": {"w": np.float32([0.1, 1e-30, 3e8])}, "statistics": {"m": np.float32([7])}}
    for part, of in average_weights([model, model, model]).items():
        for name, array in of.items():
            np.testing.assert_array_equal(array, model[part][name])
            assert array.dtype == np.float32


def test_low_rank_factors_are_merged_before_they_are_averaged(tmp_path):
    config = tiny_config(model__encoder="vit_ti", model__lora=3, optimizer__rules=FROZEN)
    shapes = to_flat(nnx.state(nnx.eval_shape(lambda: add_lora(small_vit(), 3, nnx.Rngs(0)))))
    runs, expected = [tmp_path / "a", tmp_path / "b"], []
    for seed, run in enumerate(runs):
        rng = np.random.default_rng(seed)
        arrays = {f"encoder/{name}": rng.normal(size=of.shape).astype(np.float32) for name, of in shapes.items()}
        state = TrainState(jnp.int32(1), {name: jnp.asarray(of) for name, of in arrays.items()}, {}, (), {}, {})
        with contextlib.closing(Checkpoints(run, config.checkpoint)) as checkpoints:
            checkpoints.save(state, Progress(1, 16), config_to_json(config))
            checkpoints.wait()
        expected.append(arrays)
    write_soup(runs, tmp_path / "soup")
    encoder = load_encoder(tmp_path / "soup")
    assert encoder.config.model.lora == 0
    assert not any(LORA in name for name in arrays_of(tmp_path / "soup"))
    place = "blocks/1/mlp/expand"
    maps = [
        arrays[f"encoder/{place}/kernel"] + arrays[f"encoder/{place}{LORA}a"] @ arrays[f"encoder/{place}{LORA}b"]
        for arrays in expected
    ]
    np.testing.assert_allclose(encoder.arrays[f"{place}/kernel"], np.mean(maps, axis=0), rtol=1e-5, atol=1e-6)


def test_other_models_are_one_error_and_nothing_is_written(runs, tmp_path, capsys):
    out = tmp_path / "soup"
    assert main([str(runs / "a"), str(runs / "narrow"), f"--out={out}"]) == BAD_INPUT
    said = capsys.readouterr().err.strip()
    assert "\n" not in said
    for words in ("augment.size = 24, not 32", "head/", "arrays differ"):
        assert words in said
    save_run(tmp_path / "heads", steps=(2,), model__text__heads=8)  # the same arrays, another function
    assert main([str(runs / "a"), str(tmp_path / "heads"), f"--out={out}"]) == BAD_INPUT
    assert "model.text.heads = 8, not " in capsys.readouterr().err
    classes = {"objective__preset": "classifier", "data__label": "group", "eval__suite": "none"}
    for number, order in enumerate((1, -1)):  # rows of the same shapes, of classes in another order
        save_run(tmp_path / f"classes{number}", steps=(2,), classes=("a", "b")[::order], **classes)
    assert main([str(tmp_path / "classes0"), str(tmp_path / "classes1"), f"--out={out}"]) == BAD_INPUT
    assert "rows learned for other classes" in capsys.readouterr().err
    assert main([str(runs / "a"), f"--out={out}"]) == BAD_INPUT
    assert "two runs or more" in capsys.readouterr().err
    assert not out.exists()
