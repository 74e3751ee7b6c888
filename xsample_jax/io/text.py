"""Text files as people have them: UTF-8 with or without a byte-order mark, UTF-16 with one, any line ends."""

import codecs
import pathlib

from xsample_jax.errors import DataError

UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def encoding_of(start: bytes) -> str:
    """The encoding that the first bytes of a text ask for: "utf-16" after its mark, else "utf-8-sig"."""
    return "utf-16" if start.startswith(UTF16) else "utf-8-sig"


def file_encoding(path: pathlib.Path) -> str:
    """`encoding_of` a file, for `open`."""
    with path.open("rb") as file:
        return encoding_of(file.read(2))


def decode_text(data: bytes, errors: str = "strict") -> str:
    """A text without its byte-order mark."""
    return data.decode(encoding_of(data), errors)


def read_lines(path: pathlib.Path, name: str) -> list[str]:
    """The lines of a text file, without white space around them; `name` is the flag or key that names the file.

    Raises DataError for a file that is not there or not text: no letter is guessed.
    """
    expected = "a text file in UTF-8, or in UTF-16 with a byte-order mark"
    try:
        text = decode_text(path.read_bytes())
    except OSError as error:
        raise DataError(name, str(path), expected, f"{error.strerror}.") from error
    except UnicodeError as error:
        raise DataError(name, str(path), expected, f"Save it as UTF-8 ({error.reason}).") from error
    if "\0" in text:
        raise DataError(name, str(path), expected, "Save it as UTF-8 (it has zero bytes).")
    return [line.strip() for line in text.splitlines()]
