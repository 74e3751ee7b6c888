"""The command line, and what it makes in training."""

import io
import json

import pytest
from PIL import Image

from tests.prepare.corpora import picture, write_corpus, write_tar
from tests.tiny import tiny_config
from xsample_jax.data.decode import open_picture
from xsample_jax.data.record_reader import open_records
from xsample_jax.data.sources import EMOJI_FOLDER
from xsample_jax.errors import DataError
from xsample_jax.metrics.writers import read_jsonl
from xsample_jax.prepare.example import KINDS
from xsample_jax.tools.prepare import make_parser, run
from xsample_jax.train import train


def flags(source, path, out, *more):
    return [f"--source={source}", f"--path={path}", f"--out={out}", "--processes=1", *more]


def emoji_tars(folder, count=48):
    """The embedded set as img2dataset would have fetched it: JPEGs on white, first caption, group as label."""
    source = open_records(EMOJI_FOLDER, "train", channels=4)
    for tar in range(2):
        samples = {}
        for i in range(tar * count // 2, (tar + 1) * count // 2):
            record = source[i]
            image = open_picture(record["image"], 64)
            ground = Image.new("RGBA", image.size, "white")
            buffer = io.BytesIO()
            Image.alpha_composite(ground, image).convert("RGB").save(buffer, "JPEG", quality=95)
            row = {"caption": record["captions"][0], "label": record["attributes"]["group"]}
            text = record["captions"][0].encode()
            samples[f"{i:09d}"] = {"jpg": buffer.getvalue(), "txt": text, "json": json.dumps(row).encode()}
        write_tar(folder / f"{tar:05d}.tar", samples)
    return folder


@pytest.mark.slow
def test_a_webdataset_of_the_embedded_set_is_prepared_and_trained_on(tmp_path):
    out = tmp_path / "records"
    run(flags("webdataset", emoji_tars(tmp_path / "tars"), out, "--size=32"))
    assert len(open_records(out, "train")) == 48
    config = tiny_config(data__source="records", data__path=str(out), objective__preset="supcon", steps=1)
    train(config, str(tmp_path / "run"))
    losses = [line["loss"] for line in read_jsonl(tmp_path / "run" / "metrics.jsonl")]
    assert len(losses) == 1
    assert 0 < losses[0] < 10


def test_what_is_printed(tmp_path, capsys):
    corpus = write_corpus(tmp_path / "in", tars=1, each=10)
    write_tar(corpus / "bad.tar", {"a": {"jpg": b"", "txt": b"one two"}, "b": {"jpg": picture(width=99), "txt": b"."}})
    run(flags("webdataset", corpus, tmp_path / "my_set", "--size=30", "--splits=train=0.7,val=0.3"))
    printed = capsys.readouterr().out
    assert printed.startswith(f"my_set: 11 records in {tmp_path / 'my_set'}, fingerprint ")
    assert "captions: 11, of which 3 repeat another exactly" in printed
    assert "broken_image: 1 (does not decode: dropped)" in printed
    assert "near_empty_caption: 1 (" in printed
    assert "problems.jsonl" in printed


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--source=webdatasets"], "Did you mean webdataset"),
        (["--table=x.csv"], "--table = 'x.csv': expected nothing for --source=webdataset"),
        (["--image_field=x"], "--image_field"),
        (["--size=-1"], "--size = -1"),
        (["--quality=0"], "--quality"),
        (["--splits=train=0.5"], "--splits"),
        (["--processes=0"], "--processes"),
        (["--shard_size=0"], "--shard_size"),
        (["--class_names=nowhere.txt"], "--class_names"),
        (["--size=0", "--raw"], "--raw"),
        (["--source=folder", "--caption_fields=x"], "--table"),
    ],
)
def test_wrong_flags(tmp_path, more, message):
    corpus = write_corpus(tmp_path / "in", tars=1, each=1)
    with pytest.raises(DataError, match=message):
        run(flags("webdataset", corpus, tmp_path / "out", *more))
    assert not (tmp_path / "out").exists()


def test_runner_without_beam_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "apache_beam", None)
    with pytest.raises(DataError, match=r"xsample_jax\[beam\]"):
        run(flags("webdataset", write_corpus(tmp_path / "in"), tmp_path / "out", "--runner=DirectRunner"))


def test_an_unknown_flag_is_refused_unless_a_runner_may_know_it(tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(flags("webdataset", tmp_path, tmp_path / "out", "--sizes=3"))
    assert "--sizes=3" in capsys.readouterr().err


def test_documented_kinds_and_flags():
    from tests.prepare.test_prepare import ROOT

    text = (ROOT / "docs" / "data.md").read_text()
    for kind in KINDS:
        assert f"`{kind}`" in text, kind
    for action in make_parser()._actions:
        assert any(flag in text for flag in action.option_strings), action.option_strings
