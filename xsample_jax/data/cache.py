"""Copies of shards on the disk of this host, for records that are in a bucket (data.cache=disk).

A shard is copied when it is first read. The name of a copy is the checksum of its content, so a set that was changed
has other copies, and two sets that share a shard share the copy. All processes of a host use one folder: one of them
copies, the others wait for it. What was not used for the longest time goes when the limit is reached, but never a
shard that some process has open.

    XSAMPLE_CACHE      the folder (~/.cache/xsample_jax/shards)
    XSAMPLE_CACHE_GB   how many GB (10^9 bytes) all copies may take (100)
"""

import contextlib
import fcntl
import hashlib
import os
import pathlib
from collections.abc import Iterator

from xsample_jax.errors import ConfigError, DataError, RunError
from xsample_jax.io.files import create_new, open_lock
from xsample_jax.io.paths import download

FOLDER, LIMIT = "XSAMPLE_CACHE", "XSAMPLE_CACHE_GB"
COPY = ".arrayrecord"


class ShardCache:
    """A folder of copies.

    Args:
      folder: made if missing.
      limit: bytes.
    """

    def __init__(self, folder: pathlib.Path, limit: int):
        self._folder, self.limit = folder, limit

    def open(self, shard: dict, source: pathlib.Path) -> "Copy":
        """The local copy of a shard (an entry of the manifest) that is at `source`, copied if it is not there yet.

        Raises DataError: what was read is not what the manifest says. RunError: it cannot be read, or there is no room
        for it, which says nothing against the records.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{shard['sha256']}{COPY}"
        while True:
            with _locked(self._folder / f"{shard['sha256']}.lock"):
                if not path.exists():
                    self._copy(shard, source, path)
                with contextlib.suppress(FileNotFoundError):  # it went between the two lines
                    return Copy(path)

    def _copy(self, shard: dict, source: pathlib.Path, path: pathlib.Path) -> None:
        partial = self._folder / f"{shard['sha256']}.{shard['bytes']}.partial"  # the name says what room it will take
        partial.unlink(missing_ok=True)
        try:
            with _locked(self._folder / ".room"):
                self._make_room(shard["bytes"])
                create_new(partial)
            download(source, partial)
            with partial.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != shard["sha256"]:
                fix = "It is damaged: prepare the set again, or copy it again."
                raise DataError(f"shard {source}", found, f"SHA-256 {shard['sha256']}", fix)
            os.replace(partial, path)
        except OSError as error:
            fix = f"Is the bucket reachable, and is there room? {FOLDER} names the folder, {LIMIT} its limit."
            raise RunError(f"copying {source}", str(error)[:300], f"a copy in {self._folder}", fix) from error
        finally:
            partial.unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        about = sorted(self._copies())
        taken = sum(bytes_ for _, bytes_, _ in about)
        for _, bytes_, path in about:
            if taken + size <= self.limit:
                return
            # A copy is in use while it is open; one in the making, while its maker has the lock.
            held = path if path.suffix == COPY else self._folder / f"{path.name.split('.')[0]}.lock"
            if _removed(path, held):
                taken -= bytes_
        if taken + size > self.limit:
            found = f"{self.limit / 1e9:g} GB, of which {taken / 1e9:.3g} GB are in use"
            fix = f"Raise {LIMIT}, or read without copies: --config.data.cache=none."
            raise RunError(f"cache {self._folder}", found, f"room for {size / 1e9:.3g} GB more", fix)

    def _copies(self) -> Iterator[tuple[float, int, pathlib.Path]]:
        """(time of last use, bytes, path) of every copy, also of those in the making."""
        for path in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if path.suffix in (COPY, ".partial"):
                    about = path.stat()
                    yield about.st_mtime, int(path.suffixes[0][1:]) if path.suffix != COPY else about.st_size, path


class Copy:
    """A copy that stays for as long as this object does. `path`: where it is."""

    def __init__(self, path: pathlib.Path):
        self.path = path
        self._file = path.open("rb")
        fcntl.flock(self._file, fcntl.LOCK_SH)
        os.utime(path)  # FileNotFoundError where it was removed before the lock

    def __del__(self):
        with contextlib.suppress(AttributeError):
            self._file.close()


def shard_cache(needed: int) -> ShardCache:
    """The cache of this host; ConfigError when it is smaller than the `needed` bytes of a split, read in any order."""
    text = os.environ.get(LIMIT, "100")
    try:
        limit = int(float(text) * 1e9)
    except ValueError:
        raise ConfigError(LIMIT, text, "a number of GB") from None
    if needed > limit:
        fix = f"Set {LIMIT} higher, or read without copies (--config.data.cache=none), or mount the bucket."
        expected = f"at least the {needed / 1e9:.3g} GB of the split: its records are read in random order"
        raise ConfigError(LIMIT, text, expected, fix)
    default = pathlib.Path("~/.cache/xsample_jax/shards").expanduser()
    return ShardCache(pathlib.Path(os.environ.get(FOLDER) or default), limit)


def _removed(path: pathlib.Path, held: pathlib.Path) -> bool:
    """Removes a file unless somebody holds a lock on `held`; whether it did."""
    with contextlib.suppress(OSError), held.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
        return True
    return False


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[None]:
    with open_lock(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
