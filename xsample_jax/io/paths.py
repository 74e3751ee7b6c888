"""Paths here and in buckets: `gs://BUCKET/NAME` becomes an etils path over gcsfs, everything else a pathlib one.

Both have the methods of pathlib. In a bucket there are no folders, only names: a file is replaced as a whole and at
once when its writer closes it, nothing can be appended, and renaming copies and deletes, object by object (in a
bucket with a hierarchical namespace it does rename).
"""

import contextlib
import importlib.util
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping

from xsample_jax.errors import ConfigError

SCHEME = "gs://"


def in_bucket(path: str | os.PathLike) -> bool:
    """Whether this names something in a bucket."""
    return _text(path).startswith(SCHEME)


def _text(path: str | os.PathLike) -> str:
    """As text, with both slashes of the scheme: pathlib.Path keeps only one."""
    text = os.fspath(path)
    return SCHEME + text.removeprefix("gs:/") if text.startswith("gs:/") and not text.startswith(SCHEME) else text


def as_path(path: str | os.PathLike, field: str = "path") -> pathlib.Path:
    """The path as an object.

    Raises ConfigError, about `field`: another kind of URL, no bucket, or gcsfs is not installed.
    """
    text = _text(path)
    if "://" in text and not in_bucket(text):
        raise ConfigError(field, text, "a local path, or gs://BUCKET/NAME", "Mount other stores, and name the mount.")
    if not in_bucket(text):
        return expanded(text, field)
    if not text.removeprefix(SCHEME).partition("/")[0]:
        raise ConfigError(field, text, "gs://BUCKET/NAME")
    if importlib.util.find_spec("gcsfs") is None:
        raise ConfigError(field, text, "the package gcsfs for paths in buckets", "pip install 'xsample_jax[gcs]'")
    import fsspec
    from etils import epath

    # Listings are not kept: what another process has written must be seen.
    fsspec.config.conf.setdefault("gs", {}).setdefault("use_listings_cache", False)
    return epath.Path(text.rstrip("/"))


def expanded(text: str, field: str) -> pathlib.Path:
    """A local path with `~` and `~user` in its place; ConfigError where there is no such user."""
    try:
        return pathlib.Path(text).expanduser()
    except RuntimeError as error:
        raise ConfigError(field, text, f"a path ({error})", "Write the folder in full.") from None


def absolute(path: str | os.PathLike, field: str = "path") -> pathlib.Path:
    """`as_path`, with a local path from the root on."""
    path = as_path(path, field)
    return path if in_bucket(path) else path.absolute()


def check_run_path(path: str | os.PathLike, field: str = "--workdir") -> None:
    """Raises ConfigError for a folder whose checkpoints could not be read back: orbax takes its name for a pattern."""
    text = os.fspath(path)
    odd = sorted({letter for letter in text if letter in "*?[]\\" or not letter.isprintable()})
    if odd:
        expected = f"a path without {' '.join(map(ascii, odd))}: checkpoints below it could not be read back"
        raise ConfigError(field, text, expected, "Use another folder, or rename this one.")


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


def file_size(path: pathlib.Path) -> int | None:
    """Bytes of a file, here or in a bucket; None where it is not there."""
    try:
        return _store().size(os.fspath(path)) if in_bucket(path) else path.stat().st_size
    except FileNotFoundError:
        return None


def upload(local: pathlib.Path, target: pathlib.Path) -> None:
    """Copies a finished local file to a path in a bucket, where it appears as a whole."""
    with errors_of_the_store(target):
        _store().put_file(os.fspath(local), os.fspath(target))


def download(source: pathlib.Path, local: pathlib.Path) -> None:
    """Copies an object of a bucket to a local file."""
    with errors_of_the_store(source):
        _store().get_file(os.fspath(source), os.fspath(local))


def move_in(local: pathlib.Path, target: pathlib.Path) -> None:
    """Gives a finished local file its place, here or in a bucket: a reader sees all of it or nothing."""
    if in_bucket(target):
        upload(local, target)
        local.unlink()
    else:
        os.replace(local, target)


def move_tree(folder: pathlib.Path, target: pathlib.Path) -> None:
    """Gives a folder another name, which nothing has yet: on another disk by a copy; in a bucket object by object, or
    as the bucket can."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if in_bucket(folder):
        _store().rename(os.fspath(folder), os.fspath(target), recursive=True)  # etils asks for a folder to be there
    else:
        shutil.move(folder, target)


def remove_tree(folder: pathlib.Path) -> None:
    """Removes a folder and what is in it; one that is not there is fine."""
    if not in_bucket(folder):
        shutil.rmtree(folder, ignore_errors=True)
    elif folder.exists():
        folder.rmtree()


def matching(pattern: str) -> dict[pathlib.Path, str]:
    """{path: bytes and generation} of the objects that match gs://BUCKET/PATTERN, in which ** is any number of folders.

    Raises OSError where the store cannot be reached.
    """
    with errors_of_the_store(pattern):
        found = _store().glob(pattern, detail=True)
    return {
        as_path(SCHEME + name): f"{about['size']} {about['generation']}"
        for name, about in found.items()
        if about["type"] == "file"
    }


@contextlib.contextmanager
def fetched(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """A local file with the content of `path`: itself, or a copy for the time of the block."""
    path = as_path(path)
    if not in_bucket(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="xsample_jax-") as folder:
        local = pathlib.Path(folder) / path.name
        download(path, local)
        yield local


@contextlib.contextmanager
def local_copy_of(out: str | os.PathLike) -> Iterator[pathlib.Path]:
    """A local path in place of `out`, a file or folder to be written: in a bucket, it is copied there at the end.

    What is written beside a file goes with it.
    """
    out = as_path(out, "--out")
    if not in_bucket(out):
        yield out
        return
    with tempfile.TemporaryDirectory(prefix="xsample_jax-") as folder:
        yield pathlib.Path(folder) / out.name
        for path in sorted(pathlib.Path(folder).rglob("*")):
            if path.is_file():
                upload(path, out.parent / path.relative_to(folder))


@contextlib.contextmanager
def errors_of_the_store(path: str | pathlib.Path) -> Iterator[None]:
    """gcsfs and what it is made of raise of every family."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        if not in_bucket(path):
            raise
        raise OSError(f"{path}: {type(error).__name__}: {error}") from error


def _store():
    import fsspec

    return fsspec.filesystem("gcs", finalize_on_close=True)  # the very instance that etils uses
