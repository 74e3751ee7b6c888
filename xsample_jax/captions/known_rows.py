"""Embeddings that were computed before, by their text: on disk, with only a digest of each text in memory."""

import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from xsample_jax.data.embedding_rows import stored_dtype
from xsample_jax.errors import DataError
from xsample_jax.storage.paths import download, in_bucket


class KnownRows:
    """Digest of a text -> its row in one of several files, which are mapped, not read.

    Attributes:
      dtype: of the files: a digest (16 bytes) and a row [E] each.
    """

    def __init__(self, text_encoder: dict):
        width = text_encoder["dim"]
        self.dtype = np.dtype([("key", "V16"), ("row", stored_dtype(text_encoder), (width,))])
        self._files: list[np.ndarray] = []
        self._copies: tempfile.TemporaryDirectory | None = None
        self._place: dict[bytes, int] = {}  # file * 2**32 + row: one number takes half the memory of two

    def __contains__(self, key: bytes) -> bool:
        return key in self._place

    def __len__(self) -> int:
        return len(self._place)

    def add(self, path: Path) -> None:
        """Takes in a file of rows; DataError when it is damaged, or its rows have another width or type."""
        if in_bucket(path):
            self._copies = self._copies or tempfile.TemporaryDirectory(prefix="xsample_jax-")
            local = Path(self._copies.name) / path.name
            download(path, local)
        try:
            table = np.load(local if in_bucket(path) else path, mmap_mode="r")
            found = str(table.dtype)
        except (ValueError, EOFError) as error:
            table, found = None, str(error)
        if found != str(self.dtype):
            raise DataError(f"rows in {path}", found, str(self.dtype), f"Remove {path.parent} and start anew.")
        self._files.append(table)
        for index, key in enumerate(table["key"].tolist()):
            self._place[key] = (len(self._files) - 1 << 32) + index

    def rows(self, keys: Sequence[bytes]) -> np.ndarray:
        """Rows of known texts, as they are stored [n, E]."""
        found = np.zeros((len(keys), *self.dtype["row"].shape), self.dtype["row"].base)
        for row, key in enumerate(keys):
            place = self._place[key]
            found[row] = self._files[place >> 32][place % 2**32]["row"]
        return found


def text_key(text: str) -> bytes:
    """16 bytes that stand for a text."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
