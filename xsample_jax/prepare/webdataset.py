"""Tars as img2dataset writes them: members 000000012.jpg, .txt, .json of one name make one example."""

import array
import contextlib
import glob
import os
import re
import tarfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from xsample_jax.errors import DataError
from xsample_jax.io.files import LARGEST_FILE, parse_json
from xsample_jax.io.paths import as_path, fetched, in_bucket, matching
from xsample_jax.prepare.example import (
    IMAGE_SUFFIXES,
    SAMPLE,
    TEXT_SUFFIXES,
    UNREAD_SUFFIXES,
    Example,
    Fields,
    InputShard,
    Problem,
    Source,
    example_of_members,
    files_below,
    first_folder,
    number_values,
    texts_are_names,
    unread_entries,
)

COMPRESSED = ("gz", "bz2", "xz", "zst")
BLOCK = 512
BRACES = re.compile(r"\{(?:(?P<first>\d+)\.\.(?P<last>\d+)|(?P<names>[^{}]*,[^{}]*))\}")
OCTAL = re.compile(rb" *[0-7]+[ \0]+")


def webdataset_source(path: str, fields: Fields, split_by_folder: bool = False) -> Source:
    """The tars of a folder (at any depth), of a pattern ("cc3m/*.tar", "cc3m/{00000..00331}.tar"), or one tar.

    Each is an input shard. Several of these are joined by "::", as open_clip has it.

    Args:
      path: folder, pattern or file.
      fields: where captions and labels are; by default the member .txt, else `caption` of .json; and .cls, or `label`.
        Attributes are entries of .json; their values are read from all tars first.
      split_by_folder: the first folder below `path`, or below what all tars of a pattern are in, names the split.
    """
    tars, root, skipped = _list(path)
    if not tars:
        raise DataError("--path", path, "a folder of tars, a pattern in quotes, or a tar", "No *.tar is there.")
    rows = (row for tar in sorted(tars) for row in _json_rows(str(tar), fields))
    attributes = number_values(rows, fields.attributes) if fields.attributes else {}
    shards = []
    for tar in sorted(tars):
        name = tar.relative_to(root).as_posix()
        split = first_folder(name, path) if split_by_folder else None
        identity = f"{name} {tars[tar]} {fields.captions} {fields.label}"
        shards.append(InputShard(name, partial(read_tar, str(tar), fields, attributes), identity, split))
    values = {name: tuple(found) for name, found in attributes.items()}
    are_names = texts_are_names(fields.class_names)
    notes = tuple(unread_entries(_first_rows(min(tars)), fields))
    return Source(tuple(shards), fields.class_names, values, None, skipped, notes, are_names)


def expand_braces(pattern: str) -> list[str]:
    """["00.tar", "01.tar"] of "{00..01}.tar", and "a.tar" and "b.tar" of "{a,b}.tar", as a shell does."""
    found = BRACES.search(pattern)
    if not found:
        return [pattern]
    first, last = found["first"], found["last"]
    if first is not None:
        width = len(first) if first.startswith("0") or last.startswith("0") else 0
        choices = [f"{number:0{width}d}" for number in range(int(first), int(last) + 1)]
    else:
        choices = found["names"].split(",")
    rest = expand_braces(pattern[found.end() :])
    return [f"{pattern[: found.start()]}{choice}{end}" for choice in choices for end in rest]


def _list(path: str) -> tuple[dict[Path, str], Path, Mapping[str, int]]:
    """({tar: its size and when it was written}, the folder that all are in, what was skipped)."""
    if in_bucket(path):
        folder = not set(path) & set("*?[{") and not path.endswith(".tar") and "::" not in path
        try:
            patterns = [f"{path.rstrip('/')}/**/*.tar"] if folder else _patterns(path)
            tars = {tar: about for pattern in patterns for tar, about in matching(pattern).items()}
        except OSError as error:
            raise DataError("--path", path, f"a bucket that can be listed ({error})") from error
        tars, skipped = {tar: about for tar, about in tars.items() if not tar.name.startswith(".")}, {}
    else:
        folder = Path(path).is_dir()
        found, skipped = _tars_below(Path(path)) if folder else (_tars_of_patterns(path), {})
        try:
            tars = {tar: f"{tar.stat().st_size} {tar.stat().st_mtime_ns}" for tar in found}
        except OSError as error:
            fix = "Remove it, or mend the link: its images would be missing."
            raise DataError("--path", str(error.filename), f"a tar that can be read ({error.strerror})", fix) from error
        for tar in tars:
            if not tar.is_file():
                raise DataError("--path", str(tar), "a regular file", "Remove it, or choose other tars.")
    root = path if folder or not tars else os.path.commonpath([os.fspath(tar.parent) for tar in tars])
    return tars, as_path(root, "--path"), skipped


def _patterns(path: str) -> list[str]:
    return [pattern for part in path.split("::") for pattern in expand_braces(part)]


def _tars_of_patterns(path: str) -> list[Path]:
    """The tars of local patterns; a name without a wildcard must be there."""
    found = []
    for pattern in _patterns(path):
        if glob.has_magic(pattern) and not os.path.lexists(pattern):
            found += [Path(name) for name in glob.glob(pattern, recursive=True) if not Path(name).name.startswith(".")]
        elif Path(pattern).is_dir():
            found += _tars_below(Path(pattern))[0]
        elif os.path.lexists(pattern) or "::" in path or "{" in path:
            found.append(Path(pattern))
    return found


def _tars_below(folder: Path) -> tuple[list[Path], Mapping[str, int]]:
    names, skipped = files_below(folder, {"tar", "tgz", *COMPRESSED})
    for name in names:
        if name.lower().endswith((".tgz", *(f".tar.{kind}" for kind in COMPRESSED))):
            fix = "Unpack it (gunzip, for one): images hardly shrink, and time goes."
            raise DataError("--path", str(folder / name), "tars that are not compressed", fix)
    return [folder / name for name in names if name.lower().endswith(".tar")], skipped


def read_tar(
    path: str, fields: Fields, attributes: Mapping[str, Mapping[str, int]] = {}
) -> Iterator[Example | Problem]:
    """Yields the examples of a tar; one that ends too early ends with a problem after all that is whole.

    Only one example is in memory at a time.
    """
    try:
        with fetched(path) as local, local.open("rb") as file:
            try:
                with tarfile.open(fileobj=file, mode="r:", tarinfo=_Header) as tar:
                    for item in _samples(tar, file):
                        if isinstance(item, Problem):
                            yield item
                        else:
                            yield from example_of_members(*item, fields, attributes)
                    _check_end(file, tar.offset)
            except tarfile.ReadError as error:
                yield Problem(Path(path).name, "truncated_tar", str(error))
    except OSError as error:
        fix = "Give the same command again when it can be read: it continues from here."
        raise DataError(f"tar {path}", error.strerror or str(error), "a file that can be read", fix) from error


class _Header(tarfile.TarInfo):
    """Reads of the header of a plain file what is needed here: checksum, name and size, in half the time."""

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        plain = len(buf) == BLOCK and buf[156:157] == tarfile.REGTYPE and not buf[345]  # not the end of a long name
        if not plain or not OCTAL.fullmatch(buf[124:136]) or not OCTAL.fullmatch(buf[148:156]):
            return super().frombuf(buf, encoding, errors)
        if int(buf[148:156].strip(b" \0"), 8) != sum(buf[:148]) + 8 * ord(" ") + sum(buf[156:]):
            raise tarfile.InvalidHeaderError("bad checksum")
        header = cls(buf[:100].partition(b"\0")[0].decode(encoding, errors))
        header.size = int(buf[124:136].strip(b" \0"), 8)
        return header


def _check_end(file, offset: int) -> None:
    """tarfile stops in silence at a damaged header, or where the file ends at one: only a block of zeros is the end."""
    file.seek(offset)
    block = file.read(BLOCK)
    if block != bytes(BLOCK):
        raise tarfile.ReadError(f"no end of archive at byte {offset}, where {len(block)} bytes are left in the block")


def _samples(tar: tarfile.TarFile, file) -> Iterator[tuple[str, dict[str, bytes]] | Problem]:
    """Yields (key, {suffix: bytes}) of neighboring members; a suffix that comes again begins another sample.

    As in WebDataset the key ends at the first dot of the name. An image that is lost by that, by its format or as a
    link is a problem, and so is one that comes again before any text: what follows belongs to the first.
    """
    key, members = None, {}
    seen = array.array("q")  # 8 bytes a key
    size = os.fstat(file.fileno()).st_size
    for member in tar:
        tar.members = []  # tarfile keeps every header otherwise: memory would grow with the tar
        folder, slash, name = member.name.removeprefix("./").rpartition("/")
        if member.isdir() or name.startswith("."):
            continue
        stem, _, suffix = name.partition(".")
        here, suffix = folder + slash + stem, suffix.lower()
        plain = member.isfile() and not member.issparse()
        if not plain or suffix not in IMAGE_SUFFIXES | TEXT_SUFFIXES:
            if suffix.rpartition(".")[2] in IMAGE_SUFFIXES | UNREAD_SUFFIXES:
                detail = f".{suffix}" if plain else "a sparse file" if member.issparse() else "a link"
                yield Problem(member.name, "unread_image", detail)
            continue
        if here == key and suffix in members and not TEXT_SUFFIXES & members.keys():
            yield Problem(member.name, "second_image", "a name that comes twice")
            continue
        if here != key or suffix in members:
            if key is not None:
                yield _sample(key, members, seen)
            key, members = here, {}
        if not 0 <= member.size <= size - member.offset_data:
            raise tarfile.ReadError(f"member {member.name} has {member.size} bytes by its header, beyond the file")
        if member.size > LARGEST_FILE:
            yield Problem(member.name, "unread_image", f"{member.size} bytes")
            continue
        file.seek(member.offset_data)
        members[suffix] = file.read(member.size)
        if len(members[suffix]) < member.size:
            raise tarfile.ReadError(f"member {member.name} ends after {len(members[suffix])} of {member.size} bytes")
    if key is not None:
        yield _sample(key, members, seen)


def _sample(key: str, members: dict[str, bytes], seen: array.array) -> tuple[str, dict[str, bytes]] | Problem:
    """The members of a key, or why there is no example: `seen` has the hashes of the keys that came before."""
    if not any(suffix in IMAGE_SUFFIXES for suffix in members):
        kind = "scattered_members" if hash(key) in seen else "no_image"
        return Problem(key, kind, f"only {', '.join(sorted(members))}")
    seen.append(hash(key))
    return key, members


def _first_rows(tar: Path) -> Iterator[dict]:
    """Yields the first JSON members of a tar, of images without a .txt: what is before them is all that is fetched."""
    rows, with_txt = {}, set()
    with contextlib.suppress(tarfile.TarError, OSError), tar.open("rb") as file:
        found = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115 (closed with the file)
        for member, _ in zip(found, range(4 * SAMPLE)):
            stem, _, suffix = member.name.rpartition(".")
            if member.isfile() and suffix.lower() == "json" and 0 <= member.size <= LARGEST_FILE:
                with contextlib.suppress(ValueError, RecursionError):
                    rows[stem] = parse_json(found.extractfile(member).read())
            elif suffix.lower() == "txt":
                with_txt.add(stem)
    yield from (row for stem, row in rows.items() if stem not in with_txt)


def _json_rows(path: str, fields: Fields) -> Iterator[dict]:
    """The JSON members of a tar that can be read; what cannot be is a problem of read_tar."""
    with contextlib.suppress(tarfile.ReadError, OSError), fetched(path) as local, tarfile.open(local, "r:") as tar:
        for member in tar:
            tar.members = []
            if member.isfile() and member.name.lower().endswith(".json"):
                with contextlib.suppress(ValueError, RecursionError):
                    row = parse_json(tar.extractfile(member).read())
                    if isinstance(row, dict):
                        yield row
