"""Embeddings into a dataset: right rows, one encoding per text, resumable to the byte, never half a set."""

import dataclasses
import hashlib
import json
import os
import re
import resource
import shutil

import numpy as np
import pytest

from tests.captions.tiny_models import write_model
from tests.data.record_sets import make_record
from xsample_jax.captions import embed
from xsample_jax.captions import embed_state as embed_work
from xsample_jax.captions.embed import CaptionForm, embed_classes, embed_set
from xsample_jax.data.records import open_records, read_manifest, verify_records
from xsample_jax.data.writer import manifest_text, write_records
from xsample_jax.errors import DataError
from xsample_jax.io.files import PARTIAL
from xsample_jax.tools.embed import main

DIM = 6


def vector(text: str) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
    row = np.random.RandomState(seed).standard_normal(DIM).astype(np.float32)
    return row / np.linalg.norm(row)


class HashEncoder:
    """A vector for each text by its hash; keeps what it was asked for; stops after `calls` calls."""

    def __init__(self, name="hash", calls=None):
        self.info = {"name": name, "revision": "1", "pooling": "mean", "dim": DIM}
        self.asked, self.calls = [], calls

    def encode(self, texts, advance=lambda count: None):
        if self.calls is not None:
            self.calls -= 1
            if self.calls < 0:
                raise KeyboardInterrupt
        self.asked += texts
        advance(len(texts))
        return np.array([3 * vector(text) for text in texts], np.float32).reshape(-1, DIM)


def captions_of(number: int) -> list[str]:
    """None, one or two captions; "the same" everywhere; emoji, right-to-left and very long text among them."""
    special = {2: ["🐏 sheep"], 3: ["مرحبا"], 5: ["x" * 10_000], 7: []}
    return special.get(number, [f"image {number % 27}", "the same"][: 1 + number % 2])


@pytest.fixture
def plain(tmp_path):
    folder = tmp_path / "plain"

    def record(number):
        kept = {key: value for key, value in make_record(number).items() if key != "caption_embeddings"}
        return kept | {"captions": captions_of(number)}

    splits = {"train": map(record, range(25)), "test": map(record, range(25, 29))}
    write_records(folder, "tiny", splits, ["a", "b", "c"], {"style": ["x", "y"]}, shard_size=10, options="group_size:3")
    return folder


def contents(folder) -> dict[str, bytes]:
    """What the files hold, but for those that a killed process was writing: they go after a day."""
    files = (path for path in folder.rglob("*") if path.is_file() and not PARTIAL.fullmatch(path.name))
    return {path.name: path.read_bytes() for path in files}


def records_of(folder) -> list[dict]:
    return [record for split in read_manifest(folder).splits for record in open_records(folder, split)]


def test_rows_and_manifest(plain):
    before = records_of(plain)
    encoder = HashEncoder()
    result = embed_set(plain, encoder, CaptionForm(template="a {caption}"), show=False)
    after = records_of(plain)
    assert verify_records(plain) == []
    assert result.manifest == read_manifest(plain)
    assert result.manifest.text_encoder == {
        "name": "hash", "revision": "1", "pooling": "mean", "dim": DIM,
        "normalised": True, "template": "a {caption}", "stored": "float16",
    }  # fmt: skip
    for old, new in zip(before, after, strict=True):
        expected = np.array([vector(f"a {text}") for text in old["captions"]], np.float32).reshape(-1, DIM)
        found = np.zeros((0, DIM)) if not new["captions"] else new["caption_embeddings"]
        np.testing.assert_array_equal(found, expected.astype(np.float16))
        for key in ("id", "image", "label", "captions", "attributes"):
            assert new[key] == old[key]
    assert len(encoder.asked) == len(set(encoder.asked)) == result.distinct
    assert result.captions == sum(len(record["captions"]) for record in before)
    assert result.without == 1
    assert {path.name for path in plain.iterdir()} == {"manifest.json"} | {
        shard["file"] for entry in result.manifest.splits.values() for shard in entry["shards"]
    }


def test_captions_of_another_language_and_long_ones_are_counted(tmp_path, capsys):
    """faults.md C8: captions without a word that the model knows, and captions that it cuts."""
    texts = ["a red dog", "แมวสีแดง", "🐏🐏", "แมวสีแดง", "a cat " * 30]
    records = ({"id": number, "image": b"x", "captions": [text]} for number, text in enumerate(texts))
    write_records(tmp_path / "set", "thai", {"train": records})
    model = write_model(tmp_path / "model", "bert", max_length=20)
    assert main(["--data", str(tmp_path / "set"), "--model", str(model), "--template", "a photo of {caption}"]) == 0
    said = capsys.readouterr().out
    assert "captions 5, of them new and distinct 4" in said
    assert "warning: 2 of the 4 have no word that this model knows" in said
    assert "1 reach the most tokens that this model reads (20)" in said


def test_a_shard_without_a_new_caption(tmp_path):
    records = ({"id": number, "image": b"x", "captions": ["the same"]} for number in range(4))
    write_records(tmp_path, "same", {"train": records}, shard_size=2)
    encoder = HashEncoder()
    assert embed_set(tmp_path, encoder, show=False).distinct == 1
    assert encoder.asked == ["the same"]
    for record in records_of(tmp_path):
        np.testing.assert_array_equal(record["caption_embeddings"][0], vector("the same").astype(np.float16))


def test_second_call_does_nothing(plain):
    embed_set(plain, HashEncoder(), show=False)
    before = contents(plain)
    encoder = HashEncoder()
    for more in ({}, {"max_length": 77}):  # which earlier versions did not record
        encoder.info |= more
        assert embed_set(plain, encoder, show=False).before
    assert encoder.asked == []
    assert contents(plain) == before
    encoder.info["dtype"] = "bfloat16"
    with pytest.raises(DataError, match="--overwrite"):
        embed_set(plain, encoder, show=False)


def test_int8_rows_are_half_as_large_and_nearly_the_same(plain):
    embed_set(plain, HashEncoder(), CaptionForm(stored="int8"), show=False)
    cosines = [
        row.astype(np.float32) @ vector(text)
        for record in records_of(plain)
        for place, text in enumerate(record["captions"])
        for row in [record["caption_embeddings"][place]]
    ]
    assert min(cosines) > 0.9995
    assert verify_records(plain) == []


def test_int8_moves_cosines_as_documented():
    from xsample_jax.data.records import from_stored, to_stored

    rows = np.random.RandomState(0).standard_normal((300, 768)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    stored = from_stored(to_stored(rows, "int8").tobytes(), 300, {"dim": 768, "stored": "int8"}).astype(np.float32)
    error = (stored @ stored.T - rows @ rows.T)[np.triu_indices(300, 1)].std()
    assert 0.0002 < error < 0.0006


@pytest.mark.parametrize("calls", [0, 1, 2, 3])
def test_stopped_between_shards_and_resumed(plain, tmp_path, calls):
    whole = tmp_path / "whole"
    shutil.copytree(plain, whole)
    uninterrupted = HashEncoder()
    embed_set(whole, uninterrupted, show=False)
    with pytest.raises(KeyboardInterrupt):
        embed_set(plain, HashEncoder(calls=calls), show=False)
    assert records_of(plain)[0]["caption_embeddings"] is None  # still the old set
    again = HashEncoder()
    embed_set(plain, again, show=False)
    assert contents(plain) == contents(whole)
    assert again.asked == uninterrupted.asked[-len(again.asked) :]
    assert calls == 0 or len(again.asked) < len(uninterrupted.asked)


def test_killed_at_any_rename_or_removal(plain, tmp_path, monkeypatch):
    whole = tmp_path / "whole"
    shutil.copytree(plain, whole)
    embed_set(whole, HashEncoder(), show=False)

    class Killed(BaseException):
        pass

    for point in range(100):
        folder = tmp_path / f"killed{point}"
        shutil.copytree(plain, folder)
        left = point

        def counted(function):
            def call(*arguments, **keywords):
                nonlocal left
                left -= 1
                if left < 0:
                    raise Killed
                return function(*arguments, **keywords)

            return call

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", counted(os.replace))
            patch.setattr(embed_work.Path, "unlink", counted(embed_work.Path.unlink))
            try:
                embed_set(folder, HashEncoder(), show=False)
                finished = True
            except Killed:
                finished = False
        assert len(records_of(folder)) == 29  # a whole set opens, the old or the new one
        if finished:
            break
        embed_set(folder, HashEncoder(), show=False)
        assert contents(folder) == contents(whole)
    assert point > 10


def test_parts_then_join(plain):
    with_parts = [HashEncoder(), HashEncoder(), HashEncoder()]
    for index in (1, 0):
        assert not embed_set(plain, with_parts[index], part=(index, 2), show=False).finished
    assert with_parts[0].asked
    assert with_parts[1].asked
    assert embed_set(plain, with_parts[2], show=False).finished
    assert with_parts[2].asked == []
    assert verify_records(plain) == []


@pytest.mark.parametrize("part", [(1, 2), (3, 4)])
def test_other_parts_go_on_from_a_shard_that_was_not_finished(plain, tmp_path, monkeypatch, part):
    """A caption of the first shard is in neither of these parts."""
    whole = tmp_path / "whole"
    shutil.copytree(plain, whole)
    embed_set(whole, HashEncoder(), show=False)
    rewrite, left = embed._rewrite, part[0]

    def killed(*arguments):
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        rewrite(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(embed, "_rewrite", killed)
        with pytest.raises(KeyboardInterrupt):
            embed_set(plain, HashEncoder(), show=False)
    embed_set(plain, HashEncoder(), part=part, show=False)
    embed_set(plain, HashEncoder(), show=False)
    assert contents(plain) == contents(whole)


def test_a_call_with_nothing_to_do_leaves_what_is_not_its_own(plain):
    embed_set(plain, HashEncoder("one"), show=False)
    (plain / "mine.arrayrecord").write_bytes(b"mine")
    with pytest.raises(KeyboardInterrupt):
        embed_set(plain, HashEncoder("two", calls=2), overwrite=True, show=False)
    (shard,) = list(plain.glob(".embed-*/train-00000*.arrayrecord"))
    shard.replace(plain / shard.name)  # as when it was killed while shards moved in
    before = contents(plain)
    for part in (None, (0, 2)):
        assert embed_set(plain, HashEncoder("one"), part=part, show=False).before
        assert contents(plain) == before
    stale = plain / shard.name.replace(shard.name.split(".")[1], "0" * 8)
    stale.write_bytes(b"of a call that was killed")
    embed_set(plain, HashEncoder("one"), part=(0, 2), show=False)
    assert stale.exists()
    embed_set(plain, HashEncoder("one"), show=False)
    assert contents(plain) == before


def test_work_on_a_set_that_has_changed_goes(plain):
    with pytest.raises(KeyboardInterrupt):
        embed_set(plain, HashEncoder("one", calls=2), show=False)
    manifest = dataclasses.replace(read_manifest(plain), name="prepared again").with_fingerprint()
    (plain / "manifest.json").write_text(manifest_text(manifest))
    assert embed_set(plain, HashEncoder("two"), show=False).finished
    assert list(plain.glob(".*")) == []


def test_a_damaged_shard_gets_no_new_checksum(plain):
    path = next(plain.glob("train-00001*"))
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"shard = '{path}': expected SHA-256"):
        embed_set(plain, HashEncoder(), show=False)


class Meanwhile(HashEncoder):
    """Calls `what` while it is at work."""

    def __init__(self, what):
        super().__init__()
        self.what = what

    def encode(self, texts, advance=lambda count: None):
        self.what()
        return super().encode(texts, advance)


def test_two_at_the_same_shards_are_refused(plain, tmp_path):
    def refused(part=None):
        holder = rf"--set = '{plain}': expected .*no other process is using \(process {os.getpid()} on .* is\)"
        with pytest.raises(DataError, match=holder):
            embed_set(plain, HashEncoder("third"), part=part, overwrite=True, show=False)

    def during_a_part():
        refused()
        refused((0, 2))
        refused((1, 3))
        assert not embed_set(plain, HashEncoder(), part=(1, 2), show=False).finished

    def during_the_whole():
        refused()
        refused((0, 2))

    first = Meanwhile(during_a_part)
    embed_set(plain, first, part=(0, 2), show=False)
    assert first.asked
    assert embed_set(plain, HashEncoder(), show=False).finished
    again = Meanwhile(during_the_whole)
    again.info["name"] = "another"
    assert embed_set(plain, again, overwrite=True, show=False).finished
    assert again.asked
    assert verify_records(plain) == []
    assert len(list(plain.glob(".*"))) == 0
    with pytest.raises(DataError, match="manifest"):
        embed_set(tmp_path / "typo", HashEncoder(), show=False)
    assert not (tmp_path / "typo").exists()


def test_names_with_dots_stay_apart(plain):
    """Splits of old sets may have them."""
    old = read_manifest(plain)
    for entry in old.splits.values():
        for shard in entry["shards"]:
            (plain / shard["file"]).rename(plain / f"v1.{shard['file']}")
        entry["shards"] = [shard | {"file": f"v1.{shard['file']}"} for shard in entry["shards"]]
    (plain / "manifest.json").write_text(manifest_text(old.with_fingerprint()))
    before = [record["captions"] for record in records_of(plain)]
    for name in ("one", "two"):  # the second time there is a tag in the names
        embed_set(plain, HashEncoder(name), overwrite=True, show=False)
        assert verify_records(plain) == []
        assert [record["captions"] for record in records_of(plain)] == before
        names = [path.name for path in plain.glob("*.arrayrecord")]
        assert len(names) == 4
        assert all(re.fullmatch(r"v1\.\w+-\d{5}-of-\d{5}\.[0-9a-f]{8}\.arrayrecord", name) for name in names)


def test_models_do_not_mix(plain):
    embed_set(plain, HashEncoder("one"), show=False)
    with pytest.raises(DataError, match=r"text_encoder.*'name': 'one'.*--overwrite"):
        embed_set(plain, HashEncoder("two"), show=False)
    with pytest.raises(KeyboardInterrupt):
        embed_set(plain, HashEncoder("two", calls=1), overwrite=True, show=False)
    with pytest.raises(DataError, match=r"under way = .two, template '\{caption\}', float16, in .*/\.embed-"):
        embed_set(plain, HashEncoder("three"), overwrite=True, show=False)
    result = embed_set(plain, HashEncoder("two"), overwrite=True, show=False)
    assert result.manifest.text_encoder["name"] == "two"
    assert all(shard["file"].count(".") == 2 for entry in result.manifest.splits.values() for shard in entry["shards"])
    assert verify_records(plain) == []


class Wrong(HashEncoder):
    def __init__(self, change):
        super().__init__()
        self.change = change

    def encode(self, texts, advance=lambda count: None):
        return self.change(super().encode(texts, advance))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:, :5], "width 6"),
        (lambda rows: rows * 0, "embedding of 'image 0' = 'length 0.0': .*not zero"),
        (lambda rows: rows * np.nan, "finite"),
    ],
)
def test_wrong_vectors(plain, change, message):
    with pytest.raises(DataError, match=message):
        embed_set(plain, Wrong(change), show=False)
    assert records_of(plain)[0]["caption_embeddings"] is None


def test_full_disk_is_found_before_work_starts(plain, monkeypatch):
    shards = sum(path.stat().st_size for path in plain.glob("*.arrayrecord"))
    free = int(1.05 * (shards + 29 * 2 * 2 * DIM)) - 1  # of 29 records, an embedding in a shard and one in the rows
    monkeypatch.setattr(embed_work.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, free))
    encoder = HashEncoder()
    with pytest.raises(DataError, match="free disk"):
        embed_set(plain, encoder, show=False)
    assert encoder.asked == []


def test_disk_that_fills_up_on_the_way(plain, tmp_path):
    whole = tmp_path / "whole"
    shutil.copytree(plain, whole)
    embed_set(whole, HashEncoder(), show=False)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(DataError, match=r"writing .*arrayrecord.*too large.*run the same command again"):
            embed_set(plain, HashEncoder(), show=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert records_of(plain)[0]["caption_embeddings"] is None
    embed_set(plain, HashEncoder(), show=False)
    assert contents(plain) == contents(whole)


@pytest.mark.parametrize("content", [b"", b"abc", None])
def test_damaged_rows_are_named(plain, content):
    with pytest.raises(KeyboardInterrupt):
        embed_set(plain, HashEncoder(calls=2), show=False)
    rows = min(plain.glob(".embed-*/*.rows.npy"))
    rows.write_bytes(rows.read_bytes()[:-1] if content is None else content)
    with pytest.raises(DataError, match=rf"rows in {rows} = .*Remove {rows.parent} and start again"):
        embed_set(plain, HashEncoder(), show=False)


def test_progress_counts_every_record_once(plain, monkeypatch):
    shown = []

    def counted(items, title, total, enabled):
        for item in items:
            shown.append(total)
            yield item

    monkeypatch.setattr(embed, "progress", counted)
    embed_set(plain, HashEncoder())
    assert shown == [29] * 29


def test_nothing_to_embed_and_bad_templates(tmp_path):
    record = {"id": 0, "image": b"x", "captions": []}
    write_records(tmp_path, "none", {"train": [record]})
    with pytest.raises(DataError, match=r"captions.*--what=classes"):
        embed_set(tmp_path, HashEncoder(), show=False)
    assert [path.name for path in tmp_path.glob(".*")] == []  # no second copy of the images stays
    with pytest.raises(DataError, match="class_names"):
        embed_classes(tmp_path, HashEncoder())
    bad = ("no field", "{caption} {style}", "{caption", "{{caption}}", "{caption} {caption.foo}", "{caption[a]}")
    for template in bad:
        with pytest.raises(DataError, match="template"):
            embed_set(tmp_path, HashEncoder(), CaptionForm(template=template), show=False)


def test_class_texts(plain):
    rows = embed_classes(plain, HashEncoder())
    stored = np.load(plain / "class_embeddings.npy")
    np.testing.assert_array_equal(stored, rows)
    assert stored.dtype == np.float16
    np.testing.assert_allclose(stored[1], vector("a photo of a b"), atol=1e-3)
    about = json.loads((plain / "class_embeddings.json").read_text())
    assert about["class_names"] == ["a", "b", "c"]
    assert about["text_encoder"]["template"] == "a photo of a {caption}"


def test_class_texts_of_another_model_are_not_replaced(plain, monkeypatch):
    embed_classes(plain, HashEncoder("one"))
    assert len(embed_classes(plain, HashEncoder("one"))) == 3
    before = contents(plain)
    for encoder, template in ((HashEncoder("two"), "a photo of a {caption}"), (HashEncoder("one"), "a {caption}")):
        with pytest.raises(DataError, match=r"text_encoder of .*class_embeddings\.npy.*--overwrite"):
            embed_classes(plain, encoder, template)
    assert contents(plain) == before

    def killed(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("xsample_jax.captions.embed.atomic_write", killed)
        with pytest.raises(KeyboardInterrupt):
            embed_classes(plain, HashEncoder("two"), overwrite=True)
    assert not (plain / "class_embeddings.json").exists()  # never beside rows that it is not about
    with pytest.raises(DataError, match=r"class embeddings = .*--overwrite"):
        embed_classes(plain, HashEncoder("two"))
    embed_classes(plain, HashEncoder("two"), overwrite=True)
    assert json.loads((plain / "class_embeddings.json").read_text())["text_encoder"]["name"] == "two"


def test_wordnet_ids_are_embedded_as_names(tmp_path):
    record = {"id": 0, "image": b"x", "label": 0}
    write_records(tmp_path, "birds", {"train": [record]}, ["n01530575", "n01440764"])
    encoder = HashEncoder()
    embed_classes(tmp_path, encoder)
    assert encoder.asked == ["a photo of a brambling", "a photo of a tench"]
    assert json.loads((tmp_path / "class_embeddings.json").read_text())["class_names"] == ["n01530575", "n01440764"]


def test_the_tool(plain, tmp_path, capsys):
    model = str(write_model(tmp_path / "model", "mpnet"))
    assert main([f"--data={plain}", f"--model={model}", "--device=cpu"]) == 0
    assert "text encoder model, fingerprint" in capsys.readouterr().out
    record = open_records(plain, "train")[1]
    assert record["caption_embeddings"].shape == (2, 16)
    np.testing.assert_allclose(np.linalg.norm(record["caption_embeddings"].astype(np.float32), axis=1), 1, atol=2e-3)
    assert main([f"--data={plain}", f"--model={model}", "--stored=int8"]) == 2
    assert re.match("error: text_encoder .*--overwrite", capsys.readouterr().err)
    assert main([f"--data={plain}", f"--model={model}", "--what=classes"]) == 0
    assert main([f"--data={plain}", f"--model={model}", "--device=tpu"]) == 2
    assert "error: --device = 'tpu'" in capsys.readouterr().err
    for flags in (["--part=3/3"], ["--what=classes", "--stored=int8"], ["--what=classes", "--part=0/2"]):
        assert main([f"--data={plain}", *flags]) == 2


def test_the_tool_stopped_or_with_nothing_to_do(plain, tmp_path, capsys, monkeypatch):
    flags = [f"--data={plain}", f"--model={write_model(tmp_path / 'model', 'bert')}", "--device=cpu"]
    assert main(flags) == 0
    with monkeypatch.context() as patch:
        patch.setattr(
            "xsample_jax.captions.encoders.open_encoder", lambda *flags, **options: HashEncoder("two", calls=1)
        )
        assert main([*flags, "--overwrite"]) == 130
    assert capsys.readouterr().err.endswith("stopped; the same command continues from here\n")
    with monkeypatch.context() as patch:  # as where the set cannot be written to
        patch.setattr(embed, "alone", None)
        assert main(flags) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"nothing to do: text encoder model, fingerprint {read_manifest(plain).fingerprint}"
    assert second.startswith("embeddings under way: two, template '{caption}', float16, in ")
