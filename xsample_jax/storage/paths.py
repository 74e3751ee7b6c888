"""Paths here and in buckets: `gs://BUCKET/NAME` becomes an etils path over gcsfs, everything else a pathlib one.

Both have the methods of pathlib. In a bucket there are no folders, only names: a file is replaced as a whole and at
once when its writer closes it, nothing can be appended, and renaming copies and deletes, object by object (in a
bucket with a hierarchical namespace it does rename).
"""

import importlib.util
import os
import pathlib
import shutil
from collections.abc import Mapping

from xsample_jax.errors import ConfigError

SCHEME = "gs://"


def in_bucket(path: str | os.PathLike) -> bool:
    """Whether this names something in a bucket."""
    return os.fspath(path).startswith(SCHEME)


def as_path(path: str | os.PathLike, field: str = "path") -> pathlib.Path:
    """The path as an object.

    Raises ConfigError, about `field`: another kind of URL, no bucket, or gcsfs is not installed.
    """
    text = os.fspath(path)
    if "://" in text and not in_bucket(text):
        raise ConfigError(field, text, "a local path, or gs://BUCKET/NAME", "Mount other stores, and name the mount.")
    if not in_bucket(text):
        return pathlib.Path(text)
    if not text.removeprefix(SCHEME).partition("/")[0]:
        raise ConfigError(field, text, "gs://BUCKET/NAME")
    if importlib.util.find_spec("gcsfs") is None:
        raise ConfigError(field, text, "the package gcsfs for paths in buckets", "pip install 'xsample_jax[gcs]'")
    import fsspec
    from etils import epath

    # Listings are not kept: what another process has written must be seen.
    fsspec.config.conf.setdefault("gs", {}).setdefault("use_listings_cache", False)
    return epath.Path(text.rstrip("/"))


def absolute(path: str | os.PathLike, field: str = "path") -> pathlib.Path:
    """`as_path`, with a local path from the root on."""
    path = as_path(path, field)
    return path if in_bucket(path) else path.absolute()


def file_sizes(folder: pathlib.Path) -> Mapping[str, int]:
    """{name: bytes} of the files in a folder (not below it), by one listing; empty where there is no such folder."""
    try:
        if in_bucket(folder):
            entries = _store().ls(os.fspath(folder), detail=True)
            return {entry["name"].rpartition("/")[2]: entry["size"] for entry in entries if entry["type"] == "file"}
        with os.scandir(folder) as entries:
            return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
    except (FileNotFoundError, NotADirectoryError):
        return {}


def upload(local: pathlib.Path, target: pathlib.Path) -> None:
    """Copies a finished local file to a path in a bucket, where it appears as a whole."""
    _store().put_file(os.fspath(local), os.fspath(target))


def download(source: pathlib.Path, local: pathlib.Path) -> None:
    """Copies an object of a bucket to a local file."""
    _store().get_file(os.fspath(source), os.fspath(local))


def move_in(local: pathlib.Path, target: pathlib.Path) -> None:
    """Gives a finished local file its place, here or in a bucket: a reader sees all of it or nothing."""
    if in_bucket(target):
        upload(local, target)
        local.unlink()
    else:
        os.replace(local, target)


def remove_tree(folder: pathlib.Path) -> None:
    """Removes a folder and what is in it; one that is not there is fine."""
    if not in_bucket(folder):
        shutil.rmtree(folder, ignore_errors=True)
    elif folder.exists():
        folder.rmtree()


def _store():
    import fsspec

    return fsspec.filesystem("gcs", finalize_on_close=True)  # the very instance that etils uses
