"""tools.caption and the evaluator captioning on a run that was never trained; bad input."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from tests.objectives.synthetic import LinearEncoder
from tests.tools.test_evaluate import SPLITS, save_run
from xsample_jax.checkpoint import trained_config
from xsample_jax.data.sources import open_source
from xsample_jax.errors import BAD_INPUT
from xsample_jax.models import towers
from xsample_jax.tools import caption, evaluate

TEXT = {"model__text__layers": 1, "model__text__multimodal": 1, "model__text__queries": 4, "model__text__length": 5}


@pytest.fixture(autouse=True, scope="module")
def _linear():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(towers.ENCODERS, "resnet18", lambda config, rngs: LinearEncoder(rngs))
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("caption") / "coca"
    save_run(folder, steps=(1,), objective__preset="coca", views=1, **TEXT)
    return folder


@pytest.fixture
def photos(tmp_path):
    folder, rng = tmp_path / "photos", np.random.default_rng(0)
    folder.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(folder / name)
    (folder / "broken.png").write_text("no image")
    return folder


def test_captions_of_a_folder_and_of_a_split(run, photos, tmp_path, capsys):
    out = tmp_path / "captions.jsonl"
    flags = [f"--run={run}", f"--path={photos}", f"--out={out}", "--batch_size=3"]
    assert caption.main(flags) == BAD_INPUT
    assert "broken.png" in capsys.readouterr().err
    assert not out.exists()
    assert caption.main([*flags, "--skip_broken"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"3 captions: {out} (1 images left out)"
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["name"] for row in rows] == ["a.png", "b.png", "c.png"]
    assert all(isinstance(row["caption"], str) and row["perplexity"] > 1 for row in rows)
    before = out.read_bytes()
    assert caption.main([*flags, "--skip_broken"]) == BAD_INPUT  # faults D6: it was replaced
    assert f"rm {out}" in capsys.readouterr().err
    assert out.read_bytes() == before
    table = tmp_path / "captions.tsv"
    assert caption.main([f"--run={run}", "--split=test_styles", f"--out={table}"]) == 0
    with table.open() as lines:
        found = list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    source = open_source(trained_config(run, 1).data, "test_styles")
    assert len(found) == len(source)
    assert [int(row["id"]) for row in found[:3]] == [source[n]["id"] for n in range(3)]
    assert found[0]["given"] == source[0]["captions"][0]


def test_a_split_is_measured_beside_its_own_and_other_images(run, tmp_path):
    flags = [f"--run={run}", "--evals=captioning", *SPLITS, "--config.eval.baselines=()", f"--out={tmp_path / 'out'}"]
    assert evaluate.run(flags) == 0
    metrics = json.loads((tmp_path / "out" / "evaluation.json").read_text())["metrics"]
    own, other = (metrics[f"captioning/perplexity/{of}_image"]["value"] for of in ("own", "other"))
    assert own > 1
    assert other == pytest.approx(own, rel=0.2)  # nothing was learned
    first = metrics["captioning/own_image_first"]
    assert 0.2 < first["value"] < 0.8
    assert first["n"] == metrics["captioning/loss/own_image"]["n"] > 100
    assert first["chance"] == 0.5


def test_a_run_without_a_decoder_is_refused(tmp_path, capsys, photos):
    save_run(tmp_path / "simclr", steps=(1,), objective__preset="simclr")
    flags = [f"--run={tmp_path / 'simclr'}", f"--path={photos}", f"--out={tmp_path / 'x.tsv'}"]
    assert caption.main(flags) == BAD_INPUT
    said = capsys.readouterr().err
    assert "objective.preset = 'simclr'" in said
    assert "coca or cosmo" in said
    assert evaluate.main([f"--run={tmp_path / 'simclr'}", "--evals=captioning", *SPLITS]) == BAD_INPUT
    assert "a decoder of captions" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--path=photos", "--out=x.csv"], ".jsonl or .tsv"),
        (["--path=photos", "--out=nowhere/x.tsv"], "mkdir"),
        (["--path=photos", "--split=test", "--out=x.tsv"], "--path"),
        (["--split=nothing", "--out=x.tsv"], "nothing"),
        (["--out=x.tsv", "--batch_size=0"], "--batch_size"),
    ],
)
def test_wrong_flags(run, photos, flags, says, monkeypatch, capsys):
    monkeypatch.chdir(photos.parent)
    assert caption.main([f"--run={run}", *flags]) == BAD_INPUT
    assert says in capsys.readouterr().err
