"""Files that are complete or not there, here and in buckets; and text files in the usual encodings."""

import codecs
import collections
import contextlib
import errno
import functools
import io
import itertools
import json
import math
import os
import pathlib
import re
import secrets
import stat
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import BinaryIO, TextIO

import numpy as np

from xsample_jax.errors import DataError, RunError
from xsample_jax.io.console import say
from xsample_jax.io.paths import in_bucket, move_in

PARTIAL = re.compile(r"\..+\.[0-9a-f]{8}\.partial", re.DOTALL)  # names of files that are being written
LEFT_BEHIND = 86_400  # seconds after which nobody writes them any more
LARGEST_FILE = 2**28  # bytes; no image of the sizes that are read is larger


def atomic_write(path: pathlib.Path, write: Callable[[pathlib.Path], object]) -> None:
    """Writes under a temporary name, then renames: a file with its own name is complete. DataError for a full disk."""
    with _temporary(path) as partial:
        try:
            write(partial)
            settle(partial, path)
        except (OSError, RuntimeError) as error:  # the writer of ArrayRecord has no type of its own
            full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
            fix = "Make room" if full else "Remove what is in its way, or grant the right to write"
            fix += ", then run the same command again: it continues from there."
            raise DataError(f"writing {path}", str(error)[:200], "a file that can be written", fix) from error


def create_new(path: pathlib.Path) -> None:
    """Makes an empty file where there is nothing; a link in its place is never followed. Raises FileExistsError."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666))


def open_lock(path: pathlib.Path) -> TextIO:
    """A lock file, made if missing, for reading and writing; OSError for a link in its place: its target stays."""
    return open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+", encoding="utf-8")


def set_aside(path: pathlib.Path) -> pathlib.Path:
    """Renames a damaged file (or whatever is in its place) to NAME.damaged, NAME.damaged-2, ...; returns the name."""
    names = (path.with_name(f"{path.name}.damaged" + (f"-{n}" if n > 1 else "")) for n in itertools.count(1))
    aside = next(name for name in names if not os.path.lexists(name))
    path.rename(aside)
    return aside


LASTING = (FileNotFoundError, IsADirectoryError, NotADirectoryError)  # another try finds the same


def stop_if_out_of_reach(path: pathlib.Path, error: Exception) -> None:
    """Raises RunError where a file cannot be read for now: no access, a disk or a mount that fails. It may be whole, so
    nothing may replace it or move it away."""
    if isinstance(error, OSError) and not isinstance(error, LASTING) and error.errno != errno.ELOOP:
        fix = "Mend the access to it, and give the same command again."
        raise RunError(str(path), error.strerror or str(error), "a file that can be read", fix) from error


def make_folder(path: pathlib.Path) -> None:
    """Makes a folder with those above it; a file in its place is set aside, and said: it must not end a run."""
    if os.path.lexists(path) and not path.is_dir():
        say(f"warning: {path} is no folder; it is {set_aside(path).name} now", error=True)
    path.mkdir(parents=True, exist_ok=True)


def read_regular(path: pathlib.Path) -> bytes:
    """The bytes of a regular file; raises OSError for a device or a pipe, ValueError above LARGEST_FILE."""
    size = size_of_regular(path)
    if size > LARGEST_FILE:
        raise ValueError(f"{size} bytes, more than {LARGEST_FILE}")
    return path.read_bytes()


def size_of_regular(path: pathlib.Path) -> int:
    """Bytes of a regular file; OSError for a device or a pipe, before it is opened: a pipe waits for a writer."""
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise IsADirectoryError(errno.EISDIR, "not a regular file", str(path))
    return about.st_size


def require_regular(path: pathlib.Path) -> None:
    """Raises OSError for a device or a pipe; a bucket has none."""
    if not in_bucket(path):
        size_of_regular(path)


def settle(local: pathlib.Path, path: pathlib.Path) -> None:
    """Gives a finished file its name, here or in a bucket. It is on the disk before: a power cut leaves none half."""
    with open(local, "rb") as file:
        os.fsync(file.fileno())
    move_in(local, path)


def append_whole(file: io.FileIO, data: bytes) -> None:
    """Appends `data` to an unbuffered file or, when the disk is full, nothing: half a record hides all later ones.

    Raises OSError.
    """
    end = file.seek(0, os.SEEK_END)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[file.write(rest) :]
    except OSError:
        file.truncate(end)
        raise


def write_arrays(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a compressed .npz file, all of it or nothing."""

    def write(partial: pathlib.Path) -> None:
        with open(partial, "wb") as file:  # np.savez would add a suffix to the temporary name
            np.savez_compressed(file, **arrays)

    atomic_write(path, write)


def save_array(path: pathlib.Path, array: np.ndarray) -> None:
    """Writes a .npy file under exactly this name."""
    with open(path, "wb") as file:  # np.save would add a suffix to the temporary name
        np.save(file, array)


def load_arrays(path: pathlib.Path) -> np.ndarray | dict[str, np.ndarray]:
    """The read-only array of a .npy file, or {name: array} of a .npz file, here or in a bucket.

    Raises OSError where the file cannot be opened, DataError where it is damaged.
    """
    require_regular(path)
    with io.BytesIO(path.read_bytes()) if in_bucket(path) else open(path, "rb") as file:
        try:
            zipped = file.read(2) == b"PK"
            file.seek(0)
            return parse_npz(file) if zipped else parse_npy(file.read())
        except Exception as error:  # zipfile, zlib and ast have each their own for damage
            found = f"{type(error).__name__}: {error}"[:200]
            raise DataError("arrays", str(path), f"a file that numpy wrote ({found})", "Make it again.") from error


@contextlib.contextmanager
def _temporary(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A local name to write to: beside the file, so that it can be renamed, or on this machine."""
    if in_bucket(path):
        with tempfile.TemporaryDirectory(prefix="xsample_jax-") as folder:
            yield pathlib.Path(folder) / path.name
        return
    _remove_old(path.parent)
    # A name of its own: two processes that write one file take turns with whole files, and never share a half one.
    partial = path.with_name(f".{path.name[:40]}.{secrets.token_hex(4)}.partial")
    create_new(partial)
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)


@functools.lru_cache(maxsize=4096)  # once for a process: a folder may have a million files
def _remove_old(folder: pathlib.Path) -> None:
    """Removes what killed processes have left half written; another process may still write what is young."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            if PARTIAL.fullmatch(entry.name):
                with contextlib.suppress(OSError):  # another process was faster
                    if time.time() - entry.stat(follow_symlinks=False).st_mtime > LEFT_BEHIND:
                        os.unlink(entry.path)


# The files of a run folder by name; its checkpoints: io/checkpoint_files.py.


CONFIG = "config.json"  # the resolved config
CHECKPOINTS = "checkpoints"  # a folder; what has one is a run
JSONL = "metrics.jsonl"  # one line of metrics at a time
EVALUATION = "evaluation.json"  # metrics of the final evaluation: the run is finished
EXAMPLES = "evaluation.npz"  # what those metrics are means of
SNAPSHOT = "report_data.npz"  # what the report shows beside numbers
REPORT = "report.html"
FACTS = "evaluation_facts.json"  # counts, chance and baselines of those metrics, and notes
BASELINES = "baselines.json"  # metrics of an untrained encoder and of pixels, by what was evaluated
PROFILE = "profile"
FIGURES = "_figures"  # a page NAME.html has its figures in the folder NAME_figures
GENERATED = "generated"  # contact sheets of generated images
# What no page or table of a command may replace; the last two: io/run_dir.py, data/records.py.
KEPT = (CONFIG, JSONL, EVALUATION, EXAMPLES, SNAPSHOT, FACTS, BASELINES, "history.jsonl", "manifest.json")


# Numpy's .npy and .npz files from anywhere: what their headers declare is checked before anything is allocated.


HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
DEFLATED = 1032  # bytes that one byte of deflate can become
ROOM = 1 << 30  # bytes that any archive may unpack to ...
RATIO = 64  # ... and a larger one, in sizes of its file


def parse_npy(content: bytes) -> np.ndarray:
    """The read-only array of a whole .npy file; ValueError, or what its parser raises, for any other content."""
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    if version not in HEADERS:
        raise ValueError(f"version {version} of the .npy format")
    shape, transposed, dtype = HEADERS[version](stream)
    data = memoryview(content)[stream.tell() :]
    if dtype.hasobject or not dtype.itemsize:
        raise ValueError(f"values of type {dtype}")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"{len(data)} bytes for a shape of {shape}, {dtype}")
    flat = np.frombuffer(data, dtype)
    return flat.reshape(shape[::-1]).T if transposed else flat.reshape(shape)


def open_zip(file: BinaryIO) -> zipfile.ZipFile:
    """An archive whose members lie apart in the file and can be read whole; BadZipFile or ValueError otherwise."""
    archive, length = zipfile.ZipFile(file), file.seek(0, io.SEEK_END)
    members, free = sorted(archive.infolist(), key=lambda member: member.header_offset), 0
    for member in members:
        if member.compress_type not in METHODS or member.flag_bits & 1:
            raise ValueError(f"{member.filename[:80]} is compressed by method {member.compress_type} or encrypted")
        if member.header_offset < free:
            raise ValueError(f"{member.filename[:80]} overlaps another member")
        free = member.header_offset + member.compress_size
        most = member.compress_size * (DEFLATED if member.compress_type == zipfile.ZIP_DEFLATED else 1)
        if free > length or member.file_size > most:
            raise ValueError(f"{member.filename[:80]} declares {member.file_size} bytes, more than it can hold")
    total = sum(member.file_size for member in members)
    if total > max(ROOM, RATIO * length):
        raise ValueError(f"{length} bytes that unpack to {total}")
    return archive


def parse_npz(file: BinaryIO) -> dict[str, np.ndarray]:
    """{name: read-only array} of a .npz file; many kinds of exceptions for any other content."""
    with open_zip(file) as archive:
        return {name.removesuffix(".npy"): parse_npy(archive.read(name)) for name in archive.namelist()}


# Text files: UTF-8 with or without a byte-order mark, UTF-16 with one, any line ends.


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


def parse_json(text: str | bytes):
    """What JSON says; ValueError where a name in a map has two values, of which the parser would keep the last."""

    def once(pairs: list) -> dict:
        found: dict = {}
        for name, value in pairs:
            if found.setdefault(name, value) != value:
                raise ValueError(f"the entry {name!r} occurs twice")
        return found

    return json.loads(text, object_pairs_hook=once)


def check_once(columns: Iterable[str], path: pathlib.Path) -> None:
    """Raises DataError for a name that two columns of a table have: only one of them would be read."""
    twice = [name for name, count in collections.Counter(columns).items() if count > 1]
    if twice:
        fix = "Rename one of them; --caption_fields takes several columns."
        raise DataError(f"columns of {path}", twice if twice[1:] else twice[0], "names that occur once", fix)


def read_lines(path: pathlib.Path, name: str) -> list[str]:
    """The lines of a text file, without white space around them. Raises as `read_text`."""
    return [line.strip() for line in read_text(path, name).splitlines()]


def read_text(path: pathlib.Path, name: str) -> str:
    """A text file, with plain line ends; `name` is the flag or key that names the file.

    Raises DataError for a file that is not there or not text: no letter is guessed.
    """
    expected = "a text file in UTF-8, or in UTF-16 with a byte-order mark"
    try:
        require_regular(path)
        text = decode_text(path.read_bytes())
    except OSError as error:
        raise DataError(name, str(path), expected, f"{error.strerror}.") from error
    except UnicodeError as error:
        raise DataError(name, str(path), expected, why_not_text(error)) from error
    if "\0" in text:
        raise DataError(name, str(path), expected, "Save it as UTF-8 (it has zero bytes).")
    return text.replace("\r\n", "\n")


def why_not_text(error: UnicodeError) -> str:
    """What a file that is no UTF-8 has instead, and how to mend that: for the end of a message."""
    if not isinstance(error, UnicodeDecodeError):
        return "Save it as UTF-8."
    before = error.object[: error.start]
    found = f"byte 0x{error.object[error.start]:02x} at {error.start:,}, line {before.count(10) + 1}"
    names = "UTF-16, as its zero bytes say" if 0 in error.object[:4096] else "WINDOWS-1252 (Latin-1), for one"
    return f"Save it as UTF-8 ({found}), from {names}: iconv -f {names.split(maxsplit=1)[0].strip(',')} -t UTF-8."
