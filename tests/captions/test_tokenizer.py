"""The byte-level BPE tokenizer."""

import json

import numpy as np
import pytest

from xsample_jax.data.captions import load_tokenizer, tokenize, train_tokenizer
from xsample_jax.data.writer import write_records
from xsample_jax.errors import DataError
from xsample_jax.tools.train_tokenizer import main

CAPTIONS = ["a photo of a ram", "a photo of a goat", "a drawing of a ram with horns", "sheep, animal, horns"] * 5


@pytest.fixture
def folder(tmp_path):
    train_tokenizer(CAPTIONS, 300, tmp_path / "tokenizer.json")
    return tmp_path


def test_rows_are_start_body_end_padding(folder):
    tokenizer = load_tokenizer(folder)
    rows = tokenize(tokenizer, ["a photo of a ram", "", "horns"], 16)
    assert rows.dtype == np.int32
    assert rows.shape == (3, 16)
    for row, text in zip(rows, ("a photo of a ram", "", "horns")):
        end = int(np.argmax(row == 2))
        assert row[0] == 1
        assert (row == 2).sum() == 1
        assert (row[1:end] > 2).all()
        assert (row[end + 1 :] == 0).all()
        assert tokenizer.decode(row[1:end].tolist()).strip() == text


def test_long_captions_are_cut_but_still_end(folder):
    tokenizer = load_tokenizer(folder)
    whole = tokenize(tokenizer, ["a drawing of a goat with horns"], 64)[0]
    cut = tokenize(tokenizer, ["a drawing of a goat with horns"], 5)[0]
    np.testing.assert_array_equal(cut, [*whole[:4], 2])
    np.testing.assert_array_equal(tokenize(tokenizer, ["ram"], 2), [[1, 2]])
    with pytest.raises(DataError, match="length = 1"):
        tokenize(tokenizer, ["ram"], 1)


def test_no_text_is_unknown(folder):
    tokenizer = load_tokenizer(folder)
    text = "Ünïcödé 🐏 \x00 漢字"
    row = tokenize(tokenizer, [text], 128)[0]
    assert tokenizer.decode(row[row > 2].tolist()).strip() == text.lower()


def test_merges_shorten_what_was_seen(folder):
    tokenizer = load_tokenizer(folder)
    seen, unseen = tokenize(tokenizer, ["a photo of a ram", "z qwxqj kd z vgq"], 64)
    assert (seen > 0).sum() < (unseen > 0).sum()


def test_case_does_not_matter_and_special_words_are_only_text(folder):
    tokenizer = load_tokenizer(folder)
    upper, lower = tokenize(tokenizer, ["A RAM", "a ram"], 16)
    np.testing.assert_array_equal(upper, lower)
    row = tokenize(tokenizer, ["a <end> ram <pad>"], 64)[0]
    assert (row == 2).sum() == 1
    assert row[: np.argmax(row == 2)].min() > 0


def test_order_of_captions_does_not_change_the_file(folder, tmp_path):
    train_tokenizer(reversed(CAPTIONS), 300, tmp_path / "other.json")
    assert (tmp_path / "other.json").read_bytes() == (folder / "tokenizer.json").read_bytes()


def test_small_vocabulary_is_refused(tmp_path):
    with pytest.raises(DataError, match="259"):
        train_tokenizer(CAPTIONS, 258, tmp_path / "tokenizer.json")
    assert train_tokenizer(CAPTIONS, 259, tmp_path / "tokenizer.json").get_vocab_size() == 259


def test_missing_broken_and_foreign_files(folder):
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["added_tokens"][2]["content"] = "<eos>"
    content["model"]["vocab"]["<eos>"] = content["model"]["vocab"].pop("<end>")
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="special tokens"):
        load_tokenizer(folder)
    path.write_text("{")
    with pytest.raises(DataError, match="a saved tokenizer"):
        load_tokenizer(folder)
    path.unlink()
    with pytest.raises(DataError, match=r"tokenizer\.json.*train_tokenizer"):
        load_tokenizer(folder)


def test_the_tool_learns_from_a_sample_of_the_records_and_overwrites_nothing(tmp_path, capsys):
    records = [{"id": i, "image": b"x", "captions": [f"{word} of number{i}", word]} for i, word in enumerate(CAPTIONS)]
    write_records(tmp_path, "t", {"train": records, "mute": [{"id": 99, "image": b"x"}]})
    assert main([f"--set={tmp_path}", "--vocab=400", "--captions=5"]) == 0
    read = sorted(record["id"] for record in records if record["id"] in (0, 4, 9, 14, 19))
    expected = tmp_path / "expected.json"
    train_tokenizer([text for i in read for text in records[i]["captions"]], 400, expected)
    assert (tmp_path / "tokenizer.json").read_text() == expected.read_text()
    assert "10 captions" in capsys.readouterr().out
    assert main([f"--set={tmp_path}"]) == 2
    assert "Remove it first" in capsys.readouterr().err
    (tmp_path / "tokenizer.json").unlink()
    assert main([f"--set={tmp_path}", "--split=mute"]) == 2
    assert "captions = 0" in capsys.readouterr().err
    assert not (tmp_path / "tokenizer.json").exists()


@pytest.mark.parametrize("flag", ["--captions=-3", "--captions=0", "--vocab=-1", "--vocab=258", f"--vocab={10**30}"])
def test_numbers_of_the_tool_have_bounds(tmp_path, capsys, flag):
    """faults B11: a ValueError of numpy, or an OverflowError of the library."""
    write_records(tmp_path, "t", {"train": [{"id": 0, "image": b"x", "captions": ["a dog"]}]})
    assert main([f"--data={tmp_path}", flag]) == 2
    name, _, value = flag.partition("=")
    assert f"error: {name} = {value}: expected a number from" in capsys.readouterr().err
    assert not (tmp_path / "tokenizer.json").exists()
