"""Images of a run's generators as a dataset: what they say of themselves, mixed with real ones, bad input."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.objectives.synthetic import LinearEncoder
from tests.tiny import tiny_config
from xsample_jax.checkpoint import Checkpoints
from xsample_jax.config import config_to_json, load_config
from xsample_jax.config.load import import_file
from xsample_jax.data.loader import draw_order
from xsample_jax.data.records import open_records, read_manifest, verify_records
from xsample_jax.data.sources import EMOJI_FOLDER, open_training_source
from xsample_jax.errors import BAD_INPUT
from xsample_jax.models import towers
from xsample_jax.reports.generated_images import write_generated
from xsample_jax.setup import build_run
from xsample_jax.state import Progress
from xsample_jax.tools.generate import main

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """name -> a run folder with a checkpoint of an untrained state, and its config."""
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(towers.ENCODERS, "resnet18", lambda config, rngs: LinearEncoder(rngs))
        for name, preset, kind in (("pair", "xclr", "pair"), ("label", "supcon", "hard"), ("hard", "simclr", "hard"),
                                   ("plain", "simclr", None), ("control", "simclr", "augmented")):  # fmt: skip
            config = tiny_config(objective__preset=preset, objective__generator__kind=kind,
                                 objective__generator__width=4, data__fraction=0.5, name=name)  # fmt: skip
            folder = tmp_path_factory.mktemp(name) / "run"
            folder.mkdir()
            setup, _ = build_run(config)
            with contextlib.closing(Checkpoints(folder, config.checkpoint)) as checkpoints:
                checkpoints.save(setup.new_state(), Progress(step=1), config_to_json(config))
                checkpoints.wait()
            made[name] = folder, config
    return made


def read(folder):
    source = open_records(folder, "train", channels=4)
    records = [source[i] for i in range(len(source))]
    return records, np.stack([np.asarray(Image.open(io.BytesIO(record["image"]))) for record in records])


def test_images_of_a_pair_have_the_captions_they_are_made_from(runs, tmp_path):
    folder, config = runs["pair"]
    assert main([f"--run={folder}", f"--out={tmp_path / 'set'}", "--count=70"]) == 0
    records, images = read(tmp_path / "set")
    assert verify_records(tmp_path / "set") == []
    assert images.shape == (70, config.data.image_size, config.data.image_size, 4)
    assert [record["id"] for record in records] == list(range(70))
    assert len({image.tobytes() for image in images}) == 70
    _, examples = build_run(config)
    for place in (0, 33, 69):
        real = examples.source[place]
        assert records[place]["captions"] == real["captions"]
        np.testing.assert_array_equal(records[place]["caption_embeddings"], real["caption_embeddings"])
        assert records[place]["label"] == -1  # X-CLR reads no class
    assert read_manifest(tmp_path / "set").text_encoder == read_manifest(EMOJI_FOLDER).text_encoder
    # The same numbers give the same images, whatever their number.
    write_generated(folder, tmp_path / "fewer", 5)
    np.testing.assert_array_equal(read(tmp_path / "fewer")[1], images[:5])


def test_images_made_from_classes_and_from_nothing(runs, tmp_path):
    write_generated(runs["label"][0], tmp_path / "label", 6, split="made")
    manifest = read_manifest(tmp_path / "label")
    source = open_records(tmp_path / "label", "made")
    _, examples = build_run(runs["label"][1])
    assert [source[i]["label"] for i in range(6)] == [examples.source[i]["label"] for i in range(6)]
    assert manifest.class_names == read_manifest(EMOJI_FOLDER).class_names
    assert source[0]["captions"] == []
    write_generated(runs["hard"][0], tmp_path / "none", 6)
    records, images = read(tmp_path / "none")
    assert {record["label"] for record in records} == {-1}
    assert not any(record["captions"] for record in records)
    assert read_manifest(tmp_path / "none").class_names == ()
    assert images.std(axis=0).max() > 1


def test_a_generated_set_is_mixed_with_the_real_one_in_the_share_of_the_recipe(runs, tmp_path):
    write_generated(runs["hard"][0], tmp_path / "set", 40)
    recipe = import_file(ROOT / "configs" / "recipes" / "adainf.py")
    config = load_config(str(ROOT / "configs/recipes/adainf.py"))
    share = config.data.mix[0]["share"]
    assert share == pytest.approx(2 / 3)
    data = config.data.copy_and_resolve_references()
    data.unlock()
    data.update(path=str(EMOJI_FOLDER), mix=({"path": str(tmp_path / "set"), "share": share},))
    source, rates = open_training_source(data)
    real = len(source) - 40
    assert source[real]["captions"] == []
    index = draw_order(len(source), 0, rates)
    drawn = np.array([index(place) for place in range(3 * len(source))])
    assert np.mean(drawn >= real) == pytest.approx(share, abs=0.02)
    assert recipe.real_share(real, 40, 1) == pytest.approx(real / (real + 40))


def test_the_share_and_the_augmentation_of_the_paper():
    """A number of the golden file: 50,000 real images ten times beside 1,000,000 generated ones."""
    recipe = import_file(ROOT / "configs" / "recipes" / "adainf.py")
    assert recipe.real_share(50_000, 1_000_000, 10) == pytest.approx(1 / 3)
    assert (10 * 50_000 + 1_000_000) // 256 == 5859
    weak = load_config(str(ROOT / "configs/recipes/adainf.py"))
    strong = load_config(str(ROOT / "configs/recipes/adainf.py:real,strong"))
    assert (weak.augment.crop_scale, weak.augment.jitter) == ((0.2, 1.0), 0.4)
    assert weak.augment.jitter_strength == (0.4, 0.4, 0.4, 0.1)
    assert (strong.augment.crop_scale, strong.augment.jitter) == ((0.08, 1.0), 0.8)
    assert strong.augment.jitter_strength == (0.8, 0.8, 0.8, 0.2)
    for config in (weak, strong):
        assert (config.augment.gray, config.augment.blur, config.objective.temperature) == (0.2, 0.5, 0.2)
        assert (config.optimizer.name, config.batch_size) == ("lars", 256)
    assert strong.data.mix == ()


@pytest.mark.parametrize("name", ["plain", "control"])
def test_a_run_without_a_generator_is_refused(runs, name, tmp_path, capsys):
    assert main([f"--run={runs[name][0]}", f"--out={tmp_path / 'set'}"]) == BAD_INPUT
    said = capsys.readouterr().err
    assert "a run that trained a generator" in said
    assert not (tmp_path / "set").exists()


def test_counts_folders_and_damage_are_one_line(runs, tmp_path, capsys):
    run = runs["hard"][0]
    assert main([f"--run={run}", f"--out={tmp_path / 'set'}", f"--count={10**30}"]) == BAD_INPUT
    assert "at most 2,147,483,647" in capsys.readouterr().err
    assert main([f"--run={run}", f"--out={tmp_path / 'set'}", "--count=0"]) == BAD_INPUT
    assert main([f"--run={run}", f"--out={tmp_path / 'set'}", "--step=7"]) == BAD_INPUT
    write_generated(run, tmp_path / "full", 1)
    assert main([f"--run={run}", f"--out={tmp_path / 'full'}", "--count=1"]) == BAD_INPUT
    said = capsys.readouterr().err.strip().splitlines()
    said = [line for line in said if line.startswith("error: ")]
    assert len(said) == 3
    assert "at least one image" in said[0]
    assert "step = 7" in said[1]
    assert "without a finished set" in said[2]
    assert json.loads((tmp_path / "full" / "manifest.json").read_text())["splits"]["train"]["count"] == 1
