"""The command line; tests/test_raw_to_evaluated.py has what is made of its sets."""

import json

import numpy as np
import pytest

from tests.captions.tiny_models import write_model
from tests.prepare.corpora import contents, make_image, write_corpus, write_tar
from xsample_jax.captions.encoders import encode_texts
from xsample_jax.data.records import open_records
from xsample_jax.data.writer import write_records
from xsample_jax.errors import ConfigError, DataError
from xsample_jax.prepare.example import KINDS
from xsample_jax.prepare.shards import STATE
from xsample_jax.tools.prepare import make_parser, read_class_names, run


def flags(source, path, out, *more):
    return [f"--source={source}", f"--path={path}", f"--out={out}", "--processes=1", *more]


def test_what_is_printed(tmp_path, capsys):
    corpus = write_corpus(tmp_path / "in", tars=1, each=10)
    write_tar(
        corpus / "bad.tar", {"a": {"jpg": b"", "txt": b"one two"}, "b": {"jpg": make_image(width=99), "txt": b"."}}
    )
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
        (["--source=folder", "--image_field=x"], "--table"),
        (["--splits=train=0.5,val=0.5", "--split_by_folder"], "nothing beside --split_by_folder"),
        (["--source=records", "--splits=train=1"], "--splits = 'train=1': expected nothing for --source=records"),
        (["--shard_size=5"], "--shard_size = 5: expected nothing for --source=webdataset"),
    ],
)
def test_wrong_flags(tmp_path, more, message):
    corpus = write_corpus(tmp_path / "in", tars=1, each=1)
    with pytest.raises(DataError, match=message):
        run(flags("webdataset", corpus, tmp_path / "out", *more))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("way", ["below", "at", "link", "dots", "deep"])
def test_a_set_below_the_folder_that_is_read_is_refused(tmp_path, way):
    """faults C10: what was written was input of the next call of the same command."""
    corpus = tmp_path / "in"
    corpus.mkdir()
    (corpus / "a.jpg").write_bytes(make_image(0))
    (tmp_path / "link").symlink_to(corpus)
    outs = {"below": corpus / "set", "link": tmp_path / "link" / "set", "dots": tmp_path / "x" / ".." / "in" / "set"}
    outs |= {"deep": corpus / "one" / "two" / "set", "at": tmp_path / "link"}
    with pytest.raises(ConfigError, match="--out"):
        run(flags("folder", corpus, outs[way]))
    assert [path.name for path in corpus.iterdir()] == ["a.jpg"]
    run(flags("folder", corpus, tmp_path / "in_set"))
    with pytest.raises(ConfigError, match="not below --path"):
        run(flags("folder", tmp_path / "link", outs["below"]))


def test_another_set_in_its_place_is_refused_before_the_input_is_listed(tmp_path, monkeypatch):
    """faults C9: millions of files were listed before the first look into --out."""
    corpus = write_corpus(tmp_path / "in", tars=1, each=2)
    run(flags("webdataset", corpus, tmp_path / "set"))
    write_records(tmp_path / "other", "other", {"train": [{"id": 0, "image": make_image(0)}]})
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "x.arrayrecord").write_bytes(b"")
    (tmp_path / "begun" / STATE).mkdir(parents=True)
    (tmp_path / "begun" / STATE / "job.json").write_text('{"job": "1", "job_parts": {"name": "2"}}')
    report = tmp_path / "set" / "report.json"
    text = report.read_text()
    report.write_text(json.dumps({name: value for name, value in json.loads(text).items() if name != "job_parts"}))
    run(flags("webdataset", corpus, tmp_path / "set"))  # the same command, of 0.1: it is there
    report.write_text(text)
    run(flags("webdataset", corpus, tmp_path / "set"))
    monkeypatch.setattr("xsample_jax.prepare.sources.open_source", lambda *arguments: pytest.fail("it was listed"))
    for out, more, message in (
        ("set", ["--size=30"], "Changed since: --size"),
        ("set", ["--splits=train=0.5,val=0.5"], "Changed since: --splits"),
        ("other", [], "an empty folder"),
        ("foreign", [], "records of other work"),
        ("begun", [], "this very work was begun.*Changed since: --name"),
    ):
        with pytest.raises(DataError, match=message):
            run(flags("webdataset", corpus, tmp_path / out, *more))


def test_runner_without_beam_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "apache_beam", None)
    with pytest.raises(DataError, match=r"xsample_jax\[beam\]"):
        run(flags("webdataset", write_corpus(tmp_path / "in"), tmp_path / "out", "--runner=DirectRunner"))


def test_an_unknown_flag_is_refused_unless_a_runner_may_know_it(tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(flags("webdataset", tmp_path, tmp_path / "out", "--sizes=3"))
    assert "--sizes=3 (did you mean --size?)" in capsys.readouterr().err
    with pytest.raises(SystemExit):  # Beam would go on without it
        run(flags("webdataset", tmp_path, tmp_path / "out", "--runner=DirectRunner", "--require_captions"))
    assert "did you mean --require_caption?" in capsys.readouterr().err


def test_class_names_are_text(tmp_path):
    (tmp_path / "names").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"--class_names.*UTF-8"):
        read_class_names(tmp_path / "names")
    (tmp_path / "names").write_text("\ufeffcat\ndog\n", encoding="utf-8")
    assert read_class_names(tmp_path / "names") == ("cat", "dog")


def test_documented_kinds_and_flags():
    from tests.prepare.test_prepare import ROOT

    text = (ROOT / "docs" / "data.md").read_text()
    for kind in KINDS:
        assert f"`{kind}`" in text, kind
    for action in make_parser()._actions:
        assert any(flag in text for flag in action.option_strings), action.option_strings


def test_embedded_in_the_same_command_and_nothing_the_second_time(tmp_path, capsys):
    corpus = write_corpus(tmp_path / "in", tars=1, each=6)
    small = write_model(tmp_path / "small", "bert")
    words = flags("webdataset", corpus, tmp_path / "out", f"--embed={small}")
    with pytest.raises(DataError, match="model"):
        run(flags("webdataset", corpus, tmp_path / "out", f"--embed={tmp_path}"))
    assert not (tmp_path / "out").exists()
    run(words)
    assert "embeddings by small" in capsys.readouterr().out
    whole = contents(tmp_path / "out")
    record = open_records(tmp_path / "out", "train")[0]
    vectors, _ = encode_texts(record["captions"], str(small))
    np.testing.assert_allclose(record["caption_embeddings"], vectors, atol=2e-3)
    run(words)
    assert contents(tmp_path / "out") == whole
