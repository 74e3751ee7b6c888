"""model.init_from: the encoder starts from a file, the head anew; a checkpoint of the run wins."""

import jax
import numpy as np
import pytest

from tests.tiny import tiny_config, tiny_parts
from tests.weights.made import made_array
from xsample_jax import loop
from xsample_jax.config import default_config, find_problems
from xsample_jax.encoder import load_encoder, read_initial
from xsample_jax.errors import CheckpointError, DataError, Problems
from xsample_jax.loop import train
from xsample_jax.weights.families import FAMILIES, abstract_encoder, encoder_shapes, read_pretrained
from xsample_jax.weights.files import write_safetensors
from xsample_jax.weights.name_map import to_theirs

pytestmark = pytest.mark.usefixtures("shallow_resnet18", "shallow_vit")


def write_weights(path, config, family):
    """A file of that family with made-up weights for the encoder of `config`, and these weights as ours."""
    encoder = abstract_encoder(config)
    ours = {name: made_array(name, shape) for name, shape in encoder_shapes(encoder).items()}
    write_safetensors(path, to_theirs(FAMILIES[family], encoder, ours))
    return {f"encoder/{name}": value for name, value in ours.items()}


def fine_tuned(path, family="resnet", **changes):
    return tiny_config(model__init_from=str(path), model__init_family=family, **changes)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("resnet", {"objective__preset": "moco_v3", "optimizer__ema": 0.9}),
        ("timm_vit", {"model__encoder": "vit_ti", "model__layout": "timm"}),
    ],
)
def test_encoder_from_the_file_and_head_anew(tmp_path, family, changes):
    path = tmp_path / "w.safetensors"
    config = fine_tuned(path, family, **changes)
    expected = write_weights(path, config, family)
    parts = tiny_parts(config, jax.devices()[:2])
    scratch, state = parts.new_state(), parts.new_state(read_pretrained(config))
    everything = state.params | state.statistics
    assert expected.keys() == {name for name in everything if name.startswith("encoder/")}
    for name, value in expected.items():
        np.testing.assert_array_equal(everything[name], value, err_msg=name)
        if state.ema:
            np.testing.assert_array_equal(state.ema[name], value)
        if f"teacher/{name}" in state.memory:
            np.testing.assert_array_equal(state.memory[f"teacher/{name}"], value)
    assert (config.optimizer.ema is not None) == bool(state.ema)
    assert (config.objective.preset == "moco_v3") == any(name.startswith("teacher/") for name in state.memory)
    for name, value in scratch.params.items():
        if not name.startswith("encoder/"):
            np.testing.assert_array_equal(state.params[name], value, err_msg=name)


def test_a_checkpoint_of_the_run_wins(tmp_path, capsys):
    path = tmp_path / "w.safetensors"
    config = fine_tuned(path, steps=2, checkpoint__every=1)
    with pytest.raises(DataError, match=r"w\.safetensors.*an existing file"):
        train(config, tmp_path / "run")
    write_weights(path, config, "resnet")
    train(config, tmp_path / "run")
    assert "the encoder starts from" in capsys.readouterr().out
    path.unlink()
    (tmp_path / "run" / "evaluation.json").unlink()
    train(config, tmp_path / "run")
    assert "resumed at step 2" in capsys.readouterr().out


def test_a_file_for_another_width_names_all_that_does_not_fit(tmp_path):
    path = tmp_path / "w.safetensors"
    write_weights(path, fine_tuned(path, model__width=4), "resnet")
    config = fine_tuned(path)
    with pytest.raises(Problems) as caught:
        read_pretrained(config)
    assert len(caught.value.problems) == len(encoder_shapes(abstract_encoder(config)))


def test_the_encoder_of_another_run(tmp_path, monkeypatch, capsys):
    """faults D6: as load_encoder gives it, which is the average where that run kept one; what does not fit is named."""
    monkeypatch.setattr(loop, "write_report", lambda runs, path: None)
    train(tiny_config(steps=2, optimizer__ema=0.5, optimizer__learning_rate=0.1), tmp_path / "first")
    config = tiny_config(model__init_from=str(tmp_path / "first"), objective__preset="simclr")
    expected = load_encoder(tmp_path / "first").arrays
    capsys.readouterr()
    state = tiny_parts(config, jax.devices()[:2]).new_state(read_initial(config))
    assert f"the encoder starts from step 2 of {tmp_path / 'first'}" in capsys.readouterr().out
    everything = state.params | state.statistics
    for name, value in expected.items():
        np.testing.assert_array_equal(everything[f"encoder/{name}"], value, err_msg=name)
    assert {f"encoder/{name}" for name in expected} == {name for name in everything if name.startswith("encoder/")}
    with pytest.raises(Problems, match="encoder/stages") as caught:
        read_initial(tiny_config(model__init_from=str(tmp_path / "first"), model__width=4))
    assert len(caught.value.problems) == len(expected)
    with pytest.raises(CheckpointError, match="nowhere"):
        read_initial(tiny_config(model__init_from=str(tmp_path / "nowhere")))


def test_without_init_from_nothing_is_read():
    assert read_pretrained(tiny_config()) == {}


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"init_from": "a.npz"}, "model.init_family", "resnet, convnext, timm_vit"),
        ({"init_family": "resnet"}, "model.init_from", "a file of weights"),
        ({"init_from": "a", "init_family": "timm_vit"}, "model.init_family", "weights of resnet50: resnet"),
        (
            {"init_from": "a", "init_family": "open_clip_vit", "encoder": "vit_b"},
            "model.layout",
            "--config.model.layout=open_clip",
        ),
        ({"init_from": "a", "init_family": "resnet", "resume": "runs/x"}, "model.init_from", "resume_from"),
    ],
)
def test_rules(changes, field, words):
    config = default_config()
    config.steps = 1
    config.augment.size = 32
    config.checkpoint.resume_from = changes.pop("resume", None) if "resume" in changes else None
    config.model.update(changes)
    (problem,) = find_problems(config)
    assert problem.field == field
    assert words in str(problem)
