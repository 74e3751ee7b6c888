"""Text files in the encodings that editors save (faults D9): one reader for prompts, class names, tables, captions."""

import os
import pathlib

import pytest

from xsample_jax.errors import ConfigError, DataError
from xsample_jax.io.files import decode_text, read_lines
from xsample_jax.prepare.folder import read_table
from xsample_jax.tools.evaluate import read_prompts
from xsample_jax.tools.prepare import read_class_names

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16")
ENDS = ("\n", "\r\n")


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_reader_of_text_takes_every_encoding_with_a_mark_and_every_line_end(tmp_path, encoding, end):
    path = tmp_path / "lines"
    path.write_bytes(end.join(["a photo of a {caption}", "ein Käfer: {caption}", ""]).encode(encoding))
    assert read_prompts(path) == ("a photo of a {caption}", "ein Käfer: {caption}")
    assert read_class_names(path) == ("a photo of a {caption}", "ein Käfer: {caption}")
    assert decode_text("Käfer".encode(encoding)) == "Käfer"
    (tmp_path / "t.csv").write_bytes(f"image,caption{end}a.png,Käfer{end}".encode(encoding))
    assert read_table(tmp_path / "t.csv") == [{"image": "a.png", "caption": "Käfer"}]
    (tmp_path / "t.jsonl").write_bytes(f'{{"image": "Käfer"}}{end}'.encode(encoding))
    assert read_table(tmp_path / "t.jsonl") == [{"image": "Käfer"}]


@pytest.mark.parametrize("data", ["Käfer".encode("latin-1"), "Käfer".encode("utf-16-le"), b"\xff\xfea\0b"])
def test_what_is_no_text_is_refused_and_no_letter_is_guessed(tmp_path, data):
    path = tmp_path / "lines"
    path.write_bytes(data)
    for read in (read_prompts, read_class_names, lambda path: read_lines(path, "--x")):
        with pytest.raises(DataError, match=r"UTF-8"):
            read(path)


@pytest.mark.parametrize("kind", [".csv", ".tsv", ".jsonl"])
@pytest.mark.parametrize(
    ("encoding", "cause"),
    [
        ("latin-1", r"byte 0xe4 at \d+, line 3\), from WINDOWS-1252.*iconv -f WINDOWS-1252 -t UTF-8"),
        ("utf-16-le", r"UTF-8 \(it has zero bytes|UTF-16, as its zero bytes say: iconv -f UTF-16 "),
        ("utf-32", "zero bytes"),
    ],
)
def test_a_table_in_another_encoding_is_refused_with_the_place_and_the_way_out(tmp_path, kind, encoding, cause):
    """faults C3: the message was Python's, with a place in some block of the file, and named no fix."""
    path, comma = tmp_path / f"t{kind}", "\t" if kind == ".tsv" else ","
    lines = [f"image{comma}caption", f"a.png{comma}one", f"b.png{comma}Käfer"]
    if kind == ".jsonl":
        lines = [f'{{"image": "{word}"}}' for word in ("a", "b", "Käfer")]
    path.write_bytes("\n".join(lines).encode(encoding))
    with pytest.raises(DataError, match=cause):
        read_table(path)


@pytest.mark.parametrize("what", ["pipe", "device", "folder"])
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path, what):
    """faults C10: --class_names=/dev/zero filled the memory, and a pipe without a writer was waited for."""
    path = tmp_path / "lines"
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    for read in (read_prompts, read_class_names, lambda path: read_lines(path, "--x")):
        with pytest.raises((ConfigError, DataError), match=r"expected a"):
            read(pathlib.Path("/dev/zero") if what == "device" else path)
