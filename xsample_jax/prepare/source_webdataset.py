"""Tars as img2dataset writes them: members 000000012.jpg, .txt, .json of one name make one example."""

import glob
import json
import re
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath

from xsample_jax.data.record_writer import check_split
from xsample_jax.errors import DataError
from xsample_jax.prepare.example import Example, InputShard, Problem, Source
from xsample_jax.prepare.fields import Fields, read_captions, read_label
from xsample_jax.storage.paths import as_path, fetched, in_bucket, matching

IMAGE_SUFFIXES = {"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"}
TEXT_SUFFIXES = {"txt", "json", "cls"}
BLOCK = 512
OCTAL = re.compile(rb" *[0-7]+[ \0]+")


def webdataset_source(path: str, fields: Fields, split_by_folder: bool = False) -> Source:
    """The tars of a folder (at any depth), of a pattern ("cc3m/*.tar"), or one tar; each is an input shard.

    Args:
      path: folder, pattern or file.
      fields: where captions and labels are; by default the member .txt, else `caption` of .json; and .cls, or `label`.
      split_by_folder: the first folder below `path` names the split.
    """
    root = as_path(path, "--path")
    tars = {tar: size for tar, size in _list(path).items() if not tar.name.startswith(".")}
    if not tars:
        raise DataError("--path", path, "a folder of tars, a pattern in quotes, or a tar", "No *.tar is there.")
    shards = []
    for tar in sorted(tars):
        name = tar.relative_to(root).as_posix() if tar.is_relative_to(root) and tar != root else tar.name
        split = first_folder(name, path) if split_by_folder else None
        shards.append(InputShard(name, partial(read_tar, str(tar), fields), f"{name} {tars[tar]}", split))
    return Source(tuple(shards), class_names=fields.class_names)


def _list(path: str) -> dict[Path, int]:
    """{tar: bytes} of a folder, a pattern or a tar, here or in a bucket."""
    if in_bucket(path):
        plain = not set(path) & set("*?[") and not path.endswith(".tar")
        return matching(f"{path.rstrip('/')}/**/*.tar" if plain else path)
    found = Path(path).rglob("*.tar") if Path(path).is_dir() else map(Path, glob.glob(path, recursive=True))
    return {tar: tar.stat().st_size for tar in found if tar.is_file()}


def first_folder(name: str, path: str) -> str:
    """The split that a relative path names with its first folder; DataError where it names none."""
    parts = PurePosixPath(name).parts
    if len(parts) < 2:
        raise DataError("--split_by_folder", name, f"a file in a folder of {path} that names its split", "")
    check_split(parts[0], "--split_by_folder", f"Rename this folder of {path}, or move it away.")
    return parts[0]


def read_tar(path: str, fields: Fields) -> Iterator[Example | Problem]:
    """Yields the examples of a tar; one that ends too early ends with a problem after all that is whole.

    Only one example is in memory at a time.
    """
    with fetched(path) as local, local.open("rb") as file:
        try:
            with tarfile.open(fileobj=file, mode="r:", tarinfo=_Header) as tar:
                for key, members in _samples(tar, file):
                    yield _example(key, members, fields)
                _check_end(file, tar.offset)
        except tarfile.ReadError as error:
            yield Problem(Path(path).name, "truncated_tar", str(error))


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


def _samples(tar: tarfile.TarFile, file) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yields (key, {suffix: bytes}) of neighbouring members; a suffix that comes again begins another sample."""
    key, members = None, {}
    for member in tar:
        tar.members = []  # tarfile keeps every header otherwise: memory would grow with the tar
        folder, slash, name = member.name.removeprefix("./").rpartition("/")
        if not member.isfile() or name.startswith("."):
            continue
        stem, _, suffix = name.partition(".")
        here, suffix = folder + slash + stem, suffix.lower()
        if suffix not in IMAGE_SUFFIXES | TEXT_SUFFIXES:
            continue
        if here != key or suffix in members:
            if key is not None:
                yield key, members
            key, members = here, {}
        file.seek(member.offset_data)
        members[suffix] = file.read(member.size)
        if len(members[suffix]) < member.size:
            raise tarfile.ReadError(f"member {member.name} ends after {len(members[suffix])} of {member.size} bytes")
    if key is not None:
        yield key, members


def _example(key: str, members: dict[str, bytes], fields: Fields) -> Example | Problem:
    images = [data for suffix, data in members.items() if suffix in IMAGE_SUFFIXES]
    if not images:
        return Problem(key, "no_image", f"only {', '.join(sorted(members))}")
    row = {}
    if "json" in members:
        try:
            row = json.loads(members["json"])
        except ValueError as error:
            return Problem(key, "broken_metadata", str(error))
        if not isinstance(row, dict):
            return Problem(key, "broken_metadata", f"{type(row).__name__}, not a map")
    if "txt" in members and not fields.captions:
        captions = (members["txt"].decode("utf-8", "replace"),)
    else:
        captions = read_captions(row, fields.captions or ("caption",))
    if "cls" in members and not fields.label:
        label = read_label({"label": members["cls"].decode("utf-8", "replace").strip()}, "")
    else:
        try:
            label = read_label(row, fields.label)
        except DataError as error:
            return Problem(key, "broken_metadata", str(error))
    return Example(key, images[0], captions, label)
