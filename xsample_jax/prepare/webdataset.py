"""Tars as img2dataset writes them: members 000000012.jpg, .txt, .json of one name make one example."""

import glob
import json
import os
import re
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from xsample_jax.errors import DataError
from xsample_jax.io.paths import as_path, fetched, in_bucket, matching
from xsample_jax.io.text import decode_text
from xsample_jax.prepare.example import (
    IMAGE_SUFFIXES,
    Example,
    Fields,
    InputShard,
    Problem,
    Source,
    files_below,
    first_folder,
    read_captions,
    read_label,
)

TEXT_SUFFIXES = {"txt", "json", "cls"}
UNREAD_SUFFIXES = {"avif", "heic", "heif", "jp2", "jxl"}
COMPRESSED = ("gz", "bz2", "xz", "zst")
BLOCK = 512
OCTAL = re.compile(rb" *[0-7]+[ \0]+")


def webdataset_source(path: str, fields: Fields, split_by_folder: bool = False) -> Source:
    """The tars of a folder (at any depth), of a pattern ("cc3m/*.tar"), or one tar; each is an input shard.

    Args:
      path: folder, pattern or file.
      fields: where captions and labels are; by default the member .txt, else `caption` of .json; and .cls, or `label`.
      split_by_folder: the first folder below `path`, or below what all tars of a pattern lie in, names the split.
    """
    tars, root = _list(path)
    if not tars:
        raise DataError("--path", path, "a folder of tars, a pattern in quotes, or a tar", "No *.tar is there.")
    shards = []
    for tar in sorted(tars):
        name = tar.relative_to(root).as_posix()
        split = first_folder(name, path) if split_by_folder else None
        identity = f"{name} {tars[tar]} {fields.captions} {fields.label}"
        shards.append(InputShard(name, partial(read_tar, str(tar), fields), identity, split))
    return Source(tuple(shards), class_names=fields.class_names)


def _list(path: str) -> tuple[dict[Path, str], Path]:
    """({tar: its size and when it was written}, the folder that all lie in) of a folder, a pattern or a tar."""
    if in_bucket(path):
        folder = not set(path) & set("*?[") and not path.endswith(".tar")
        try:
            tars = matching(f"{path.rstrip('/')}/**/*.tar" if folder else path)
        except OSError as error:
            raise DataError("--path", path, f"a bucket that can be listed ({error})") from error
    else:
        folder = Path(path).is_dir()
        found = _tars_below(Path(path)) if folder else map(Path, glob.glob(path, recursive=True))
        tars = {tar: f"{tar.stat().st_size} {tar.stat().st_mtime_ns}" for tar in found if tar.is_file()}
    tars = {tar: about for tar, about in tars.items() if not tar.name.startswith(".")}
    root = path if folder or not tars else os.path.commonpath([os.fspath(tar.parent) for tar in tars])
    return tars, as_path(root, "--path")


def _tars_below(folder: Path) -> list[Path]:
    names = files_below(folder, {"tar", "tgz", *COMPRESSED})
    for name in names:
        if name.lower().endswith((".tgz", *(f".tar.{kind}" for kind in COMPRESSED))):
            fix = "Unpack it (gunzip, for one): pictures hardly shrink, and time goes."
            raise DataError("--path", str(folder / name), "tars that are not compressed", fix)
    return [folder / name for name in names if name.lower().endswith(".tar")]


def read_tar(path: str, fields: Fields) -> Iterator[Example | Problem]:
    """Yields the examples of a tar; one that ends too early ends with a problem after all that is whole.

    Only one example is in memory at a time.
    """
    try:
        with fetched(path) as local, local.open("rb") as file:
            try:
                with tarfile.open(fileobj=file, mode="r:", tarinfo=_Header) as tar:
                    for item in _samples(tar, file):
                        yield item if isinstance(item, Problem) else _example(*item, fields)
                    _check_end(file, tar.offset)
            except tarfile.ReadError as error:
                yield Problem(Path(path).name, "truncated_tar", str(error))
    except OSError as error:
        fix = "Give the same command again when it can be read: it goes on from here."
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

    As in WebDataset the key ends at the first dot of the name. A picture that is lost by that, by its format or as a
    link is a problem.
    """
    key, members = None, {}
    for member in tar:
        tar.members = []  # tarfile keeps every header otherwise: memory would grow with the tar
        folder, slash, name = member.name.removeprefix("./").rpartition("/")
        if member.isdir() or name.startswith("."):
            continue
        stem, _, suffix = name.partition(".")
        here, suffix = folder + slash + stem, suffix.lower()
        if not member.isfile() or suffix not in IMAGE_SUFFIXES | TEXT_SUFFIXES:
            if suffix.rpartition(".")[2] in IMAGE_SUFFIXES | UNREAD_SUFFIXES:
                yield Problem(member.name, "unread_picture", "a link" if not member.isfile() else f".{suffix}")
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
        except (ValueError, RecursionError) as error:
            return Problem(key, "broken_metadata", str(error))
        if not isinstance(row, dict):
            return Problem(key, "broken_metadata", f"{type(row).__name__}, not a map")
    try:
        if "txt" in members and not fields.captions:
            captions = (decode_text(members["txt"], "replace"),)
        else:
            captions = read_captions(row, fields.captions, ("caption",))
        if "cls" in members and not fields.label:
            label = read_label({"label": decode_text(members["cls"], "replace")}, "")
        else:
            label = read_label(row, fields.label)
    except DataError as error:
        return Problem(key, "broken_metadata", str(error))
    return Example(key, images[0], captions, label)
