"""Numpy's .npy and .npz files from anywhere: what their headers declare is checked before anything is allocated."""

import io
import math
import zipfile
from typing import BinaryIO

import numpy as np

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
