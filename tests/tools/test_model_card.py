"""A run as a repository of the hub: what is in it, that it is read back, what an upload does; nothing is uploaded."""

import dataclasses
import json
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest

import xsample_jax
from tests.tiny import tiny_config
from tests.tools.synthetic_runs import write_run
from tests.weights.made import made_encoder
from xsample_jax.config import find_problems
from xsample_jax.encoder import read_initial
from xsample_jax.errors import CheckpointError, ConfigError, DataError
from xsample_jax.evals.metrics import bootstrap
from xsample_jax.models import resnet, vit
from xsample_jax.reports import model_card as module
from xsample_jax.reports.model_card import model_card, write_repository
from xsample_jax.reports.runs import load_runs
from xsample_jax.tools.export import export
from xsample_jax.tools.export import main as export_main
from xsample_jax.weights.hub import find_published, is_published

MODELS = {
    "resnet": {"encoder": "resnet18", "width": 16, "stem": "cifar"},
    "timm_vit": {"encoder": "vit_ti", "layout": "plain", "patch_size": 8},
    "open_clip_vit": {"encoder": "vit_ti", "layout": "open_clip", "patch_size": 8},
}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(resnet.LAYOUTS, 18, (resnet.BasicBlock, (1, 1)))
    monkeypatch.setitem(vit.VARIANTS, "ti", vit.Shape(48, 1, 3))


@pytest.fixture
def saved(tmp_path):
    """An encoder of made-up weights as one file, with the path of a dataset in its config."""
    encoder = made_encoder(MODELS["resnet"])
    config = encoder.config.copy_and_resolve_references().unlock()
    config.data.update(source="records", path="/home/someone/secret/birds")
    config.eval.suite = "none"
    dataclasses.replace(encoder, config=config).save(tmp_path / "e.npz")
    return tmp_path / "e.npz"


@pytest.mark.parametrize("family", MODELS)
def test_a_repository_is_read_back_and_starts_runs(family, tmp_path):
    encoder = made_encoder(MODELS[family])
    encoder.save(tmp_path / "e.npz")
    folder = tmp_path / "repository"
    assert "load_encoder" in write_repository(tmp_path / "e.npz", folder)
    again = xsample_jax.load_encoder(folder)
    assert (again.step, again.config.model.to_dict()) == (1, encoder.config.model.to_dict())
    published = find_published(str(folder))
    assert published.family == family
    changes = {f"model__{name}": value for name, value in MODELS[family].items()}
    config = tiny_config(model__init_from=str(folder), augment__size=32, **changes)
    config.augment.update(mean=encoder.config.augment.mean, std=encoder.config.augment.std)
    assert find_problems(config) == []
    started = read_initial(config)
    assert {name.removeprefix("encoder/") for name in started} == set(encoder.arrays) == set(again.arrays)
    for name, array in encoder.arrays.items():
        np.testing.assert_array_equal(again.arrays[name], array)
        np.testing.assert_array_equal(started[f"encoder/{name}"], array)
    about = json.loads((folder / "config.json").read_text())
    assert about["pretrained_cfg"]["input_size"] == [3, 32, 32]
    for damage in ({"family": "mlp", "keys": {}}, {"family": family, "keys": {"model.encoder": 3}}, []):
        (folder / "config.json").write_text(json.dumps(about | {"xsample_jax": damage}))
        with pytest.raises(DataError, match=r"config\.json"):
            find_published(str(folder))


def test_the_card_says_what_it_is_and_how_sure_its_results_are(tmp_path, saved):
    run = load_runs([write_run(tmp_path / "run", "birds", "xclr", strength=0.9, seed=0)])[0]
    step, metrics = run.evaluations[-1]
    encoder = dataclasses.replace(xsample_jax.load_encoder(saved), step=step)
    card = model_card(encoder, run, "hf:me/birds", "mit")
    for words in ("license: mit", "load_encoder('hf:me/birds')", "`xclr`", "model.init_from=hf:me/birds", "resnet18"):
        assert words in card
    name = next(name for name in metrics if name in run.examples)
    ends = bootstrap([run.examples[name]])
    assert f"| {100 * ends.low:.1f} to {100 * ends.high:.1f} | {len(run.examples[name].values):,} |" in card
    # The scores of single images are of the last evaluation: an earlier one has no intervals, another step no results.
    other = dataclasses.replace(run, evaluations=[(step, metrics), (step + 1, metrics)])
    assert " to " not in model_card(encoder, other, "x").partition("## Results")[2].partition("##")[0]
    assert "Nothing was evaluated" in model_card(dataclasses.replace(encoder, step=1), run, "x")
    assert "license: other  # fill in" in model_card(encoder, None, "x")


@pytest.mark.parametrize("place", ["/home/someone/secret", "secret"])
def test_no_folder_of_this_machine_is_published(saved, tmp_path, place, monkeypatch):
    encoder = xsample_jax.load_encoder(saved)
    config = encoder.config.copy_and_resolve_references().unlock()
    config.data.update(path=f"{place}/birds", mix=({"path": f"{place}/more", "share": 0.5},))
    config.model.init_from = f"{place}/run"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret" / "minilm").mkdir(parents=True)
    source = {"text_encoder": {"name": f"{place}/minilm", "dim": 6}}
    dataclasses.replace(encoder, config=config, text_source=source).save(tmp_path / "e.npz")
    folder = tmp_path / "secret" / "r"
    write_repository(tmp_path / "e.npz", folder)
    assert "- dataset: birds" in (folder / "README.md").read_text()
    for path in folder.iterdir():
        assert b"secret" not in path.read_bytes(), path
    with np.load(folder / "xsample_jax.npz") as kept:
        about = json.loads(bytes(kept["about.json"]))
    assert "secret" not in json.dumps(about)
    assert about["text"]["text_encoder"] == {"name": "minilm", "dim": 6}


def test_a_folder_holds_one_model_and_a_run_stays_a_run(saved, tmp_path):
    folder = tmp_path / "r"
    folder.mkdir()
    for name in ("open_clip_config.json", "open_clip_model.safetensors", "pytorch_model.bin", "tokenizer.json", "mine"):
        (folder / name).write_text("{}")
    write_repository(saved, folder, repository="me/birds")
    there = {path.name for path in folder.iterdir()}
    assert there == {"README.md", "config.json", "model.safetensors", "xsample_jax.npz", "mine"}
    assert "load_encoder('hf:me/birds')" in (folder / "README.md").read_text()
    assert xsample_jax.load_encoder(folder).step == 1
    for path in (folder, saved, "demo"):
        with pytest.raises(CheckpointError, match="thin network"):
            xsample_jax.load_encoder(path, slim=True)
        with pytest.raises(CheckpointError, match=r"step = 3.*one encoder"):
            xsample_jax.load_encoder(path, step=3)
    assert is_published(str(folder))
    (folder / "checkpoints").mkdir()
    assert not is_published(str(folder))
    with pytest.raises(ConfigError, match="not a run"):
        write_repository(saved, folder)


@pytest.mark.parametrize("before", ["timm", "open_clip"])
@pytest.mark.parametrize("at", ["export_safetensors", "_timm_config", "model_card"])
def test_a_killed_export_is_repeated(saved, tmp_path, monkeypatch, before, at):
    """faults B6: the old weights were gone and its card was there: "README.md would be lost"."""
    folder = tmp_path / "r"
    write_repository(saved, folder)
    if before == "open_clip":
        (folder / "config.json").rename(folder / "open_clip_config.json")
        (folder / "model.safetensors").rename(folder / "open_clip_model.safetensors")

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, at, killed)
        with pytest.raises(KeyboardInterrupt):
            write_repository(saved, folder)
    if at != "model_card":
        with pytest.raises(DataError):  # never weights beside the config of others
            xsample_jax.load_encoder(folder)
    write_repository(saved, folder)
    there = {path.name for path in folder.iterdir()}
    assert there == {"README.md", "config.json", "model.safetensors", "xsample_jax.npz"}
    assert xsample_jax.load_encoder(folder).step == 1


@pytest.mark.parametrize(
    ("form", "name"), [("hub", "README.md"), ("hub", "config.json"), ("open_clip", "tokenizer.json")]
)
def test_files_of_a_folder_without_a_model_stay(saved, tmp_path, form, name):
    """faults B6: --out=PROJECT put the card in the place of the README of a project."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / name).write_text("mine")
    with pytest.raises(ConfigError, match=f"--out.*{name} would be lost"):
        export(saved, form, folder)
    assert [path.name for path in folder.iterdir()] == [name]
    assert (folder / name).read_text() == "mine"


def test_the_card_of_a_decoder_of_captions_promises_no_projection(saved):
    encoder = dataclasses.replace(xsample_jax.load_encoder(saved), sides={"text/out/kernel": np.zeros((1, 1))})
    assert "project=True" in model_card(encoder, None, "x")
    config = encoder.config.copy_and_resolve_references().unlock()
    config.model.text.multimodal = 1
    assert "project=True" not in model_card(dataclasses.replace(encoder, config=config), None, "x")


def test_an_upload_is_a_new_private_repository_with_all_files(saved, monkeypatch, capsys):
    calls = []

    def upload(self, repo_id, folder_path, commit_message, delete_patterns):
        assert {"open_clip_config.json", "config.json", "xsample_jax.npz"} <= set(delete_patterns)
        calls.append((repo_id, sorted(path.name for path in Path(folder_path).iterdir())))

    monkeypatch.setattr(
        huggingface_hub.HfApi, "create_repo", lambda self, name, **options: calls.append((name, options))
    )
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload)
    assert export_main([f"--run={saved}", "--push=me/birds"]) == 0
    assert "https://huggingface.co/me/birds" in capsys.readouterr().out
    assert calls[0] == ("me/birds", {"private": True, "exist_ok": True})
    assert calls[1] == ("me/birds", ["README.md", "config.json", "model.safetensors", "xsample_jax.npz"])


def test_without_network_or_token_both_ways_out_are_named(saved, monkeypatch, capsys):
    def refused(self, name, **options):
        raise OSError("401 Client Error: Unauthorized\nand more lines")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refused)
    assert export_main([f"--run={saved}", "--push=me/birds"]) == 2
    said = capsys.readouterr().err.strip()
    assert "401 Client Error" in said and "hf auth login" in said and "--out=FOLDER --repository=me/birds" in said  # noqa: PT018
    assert "\n" not in said
    with pytest.raises(ConfigError, match="ORGANIZATION/NAME"):
        xsample_jax.push_to_hub(saved, "birds")


def test_flags_that_do_not_go_together(saved, tmp_path, capsys):
    for flags in (
        ["--push=a/b", "--out=x"],
        ["--push=a/b", "--format=onnx"],
        ["--out=x"],
        ["--push=a/b", "--repository=a/b"],
        ["--format=onnx", "--out=x", "--repository=a/b"],
        ["--format=onnx"],
    ):
        assert export_main([f"--run={saved}", *flags]) == 2
    assert "--format and --out, or --push" in capsys.readouterr().err
    assert export_main([f"--run={saved}", "--format=hub", f"--out={tmp_path / 'r'}"]) == 0
    assert (tmp_path / "r" / "README.md").exists()


def test_timm_opens_it(tmp_path):
    torch, timm = pytest.importorskip("torch"), pytest.importorskip("timm")
    folder, path = tmp_path / "r", tmp_path / "e.npz"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(vit.VARIANTS, "ti", vit.Shape(192, 12, 3))  # as timm has it
        encoder = made_encoder(MODELS["timm_vit"])
        encoder.save(path)
        write_repository(path, folder)
        x = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
        expected = np.asarray(encoder.module(x))
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.no_grad():
        found = model(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
