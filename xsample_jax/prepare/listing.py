"""What lies below a folder: files by suffix, and the split that the first folder names."""

import os
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from xsample_jax.data.record_writer import check_split
from xsample_jax.errors import DataError

IMAGE_SUFFIXES = {"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"}


def files_below(root: Path, suffixes: Collection[str]) -> list[str]:
    """Paths relative to `root` of the files with these suffixes, in capitals too, at any depth, sorted.

    Hidden files and folders are passed over. Links are followed, but not back to a folder that they lie in.
    """
    found = []
    above = {os.fspath(root): {_identity(root)}}  # folder -> itself and those on the way to it
    for folder, folders, files in os.walk(root, followlinks=True):
        way = above.pop(folder)
        inner = {name: _identity(os.path.join(folder, name)) for name in folders if not name.startswith(".")}
        folders[:] = [name for name in inner if inner[name] not in way]
        above |= {os.path.join(folder, name): way | {inner[name]} for name in folders}
        for file in files:
            if not file.startswith(".") and file.rpartition(".")[2].lower() in suffixes:
                found.append((Path(folder) / file).relative_to(root).as_posix())
    return sorted(found)


def _identity(folder: str | Path) -> tuple[int, int]:
    about = os.stat(folder)
    return about.st_dev, about.st_ino


def first_folder(name: str, path: str) -> str:
    """The split that a relative path names with its first folder; DataError where it names none."""
    parts = PurePosixPath(name).parts
    if len(parts) < 2:
        raise DataError("--split_by_folder", name, f"a file in a folder of {path} that names its split", "")
    check_split(parts[0], "--split_by_folder", f"Rename this folder of {path}, or move it away.")
    return parts[0]
