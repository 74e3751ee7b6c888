"""Captions as records hold them: one line of valid Unicode, of bounded length."""

from collections.abc import Iterable

# Text encoders read at most 512 tokens, about 2,500 characters.
MAX_LENGTH = 4_000
NEAR_EMPTY = 3
CONTROLS = {code: " " for code in (*range(0x20), *range(0x7F, 0xA0))}


def clean_captions(captions: Iterable[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Returns the captions worth keeping and (kind, detail) of what is odd about them.

    White space (also line breaks and control characters) becomes single spaces, what UTF-8 cannot hold becomes U+FFFD,
    empty captions go. A caption of more than MAX_LENGTH characters is cut at the last space before that. Letters of any
    script, emoji and right-to-left marks stay as they are.
    """
    kept, notes = [], []
    for caption in captions:
        # Through UTF-16, which surrogates are halves of: a pair of them is a letter, one alone is nothing.
        text = caption.removeprefix("\ufeff").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        if "\N{REPLACEMENT CHARACTER}" in text:
            notes.append(("not_unicode", text[:80]))
        text = " ".join(text.translate(CONTROLS).split())
        if len(text) > MAX_LENGTH:
            notes.append(("cut_caption", f"{len(text)} characters"))
            text = text[: MAX_LENGTH + 1].rpartition(" ")[0] or text[:MAX_LENGTH]
        if not text:
            continue
        if not _says_something(text):
            notes.append(("near_empty_caption", text))
        kept.append(text)
    if not kept:
        notes.append(("no_caption", ""))
    return kept, notes


def _says_something(text: str) -> bool:
    """Letters and digits count one; an emoji or a sign of a script without an alphabet says as much as a word."""
    meaning = 0
    for letter in text:
        meaning += NEAR_EMPTY if letter >= "\u2e80" and letter != "\N{REPLACEMENT CHARACTER}" else letter.isalnum()
        if meaning >= NEAR_EMPTY:
            return True
    return False
