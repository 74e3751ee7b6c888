"""Captions as they come from the web."""

import msgpack
import pytest

from xsample_jax.prepare.shards import MAX_LENGTH, clean_captions


@pytest.mark.parametrize(
    "text", ["a cat", "🐏🐑", "خروف في الحقل", "\u202bכבש\u202c בשדה", "羊", "naïve café", "x2 y", "👩‍👩‍👧"]
)
def test_text_of_any_script_stays(text):
    assert clean_captions([text]) == ([text], [])


@pytest.mark.parametrize(("text", "expected"), [(" a\n\tcat \r\n", "a cat"), ("a\0cat\x1b", "a cat")])
def test_white_space_and_control_characters_become_single_spaces(text, expected):
    assert clean_captions([text]) == ([expected], [])


@pytest.mark.parametrize("captions", [[], [""], [" \n", "\0"]])
def test_no_caption(captions):
    assert clean_captions(captions) == ([], [("no_caption", "")])


@pytest.mark.parametrize("text", [".", "a", "-- !", "ab"])
def test_near_empty_is_kept_and_said(text):
    assert clean_captions([text, "a cat"]) == ([text, "a cat"], [("near_empty_caption", text)])


def test_ten_thousand_characters_are_cut_at_a_space():
    text = "word " * 2000
    (kept,), notes = clean_captions([text])
    assert notes == [("cut_caption", "9999 characters")]
    assert len(kept) <= MAX_LENGTH
    assert text.startswith(kept + " ")
    assert len(kept) > MAX_LENGTH - 6
    (kept,), _ = clean_captions(["x" * 10_000])
    assert kept == "x" * MAX_LENGTH


def test_half_a_surrogate_pair_can_be_stored():
    (kept,), notes = clean_captions(["a cat \ud83d runs"])
    assert [kind for kind, _ in notes] == ["not_unicode"]
    assert msgpack.unpackb(msgpack.packb(kept)) == kept == "a cat \ufffd runs"
    assert clean_captions(["a \ud83d\udc15"]) == (["a 🐕"], [])  # both halves, as JSON of old has them


def test_the_mark_at_the_beginning_of_a_file_is_no_letter():
    assert clean_captions(["\ufeffa good dog"]) == (["a good dog"], [])


@pytest.mark.parametrize("word", ["nan", "NaN", "None", "null", "<NA>", " N/A\n"])
def test_words_for_a_missing_value_are_no_captions(word):
    """faults C3: all images with such a text were positives of each other."""
    assert clean_captions([word]) == ([], [("missing_caption", word.strip()), ("no_caption", "")])
    assert clean_captions([word, "none of them"]) == (["none of them"], [("missing_caption", word.strip())])
