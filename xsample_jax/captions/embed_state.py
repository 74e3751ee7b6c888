"""The work folder of a set that is being embedded: what is finished waits there until all of it moves in at once.

It is SET/.embed-TAG, where TAG identifies the dataset as it is and the text encoder. It holds about.json, which says
that in words, and for each shard SHARD.rows.npy (embeddings of the captions that no earlier shard had) and the new
shard. Both are written under a temporary name and renamed, so a file with its final name is complete. At the end the
new shards move in under new names, the manifest is replaced in one step, the old shards are deleted, and the folder
last: at every moment the dataset opens, first as the old one and then as the new one.
"""

import contextlib
import dataclasses
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from xsample_jax.data.records import MANIFEST, Manifest, file_checksum, stored_dtype
from xsample_jax.data.writer import manifest_text
from xsample_jax.errors import CheckpointError, DataError
from xsample_jax.io.files import atomic_write
from xsample_jax.io.locks import leased, locked
from xsample_jax.io.paths import download, file_sizes, in_bucket, remove_tree

ABOUT = "about.json"
PREFIX = ".embed-"
TAGGED = re.compile(r"(?:\.([0-9a-f]{8}))?\.arrayrecord$")


@dataclasses.dataclass(frozen=True)
class Piece:
    """One shard of the set. entry: what its manifest says about it; file: name of the new shard."""

    split: str
    number: int
    entry: dict
    file: str


class WorkFolder:
    """The new shards of a set with the embeddings of one text encoder, as far as they are there.

    Attributes:
      pieces: all shards of the set, in order.
      draft: the manifest with the new `text_encoder`, by which records are packed.

    Work on a set that has changed since is removed. Raises DataError: embeddings of another encoder are under way.
    """

    def __init__(self, folder: Path, manifest: Manifest, text_encoder: dict):
        self.folder, self.draft = folder, dataclasses.replace(manifest, text_encoder=text_encoder)
        identity = f"{manifest.fingerprint}{json.dumps(text_encoder, sort_keys=True)}"
        tag = hashlib.sha256(identity.encode()).hexdigest()[:8]
        self.pieces = [
            Piece(split, number, shard, TAGGED.sub(f".{tag}.arrayrecord", shard["file"]))
            for split, entry in manifest.splits.items()
            for number, shard in enumerate(entry["shards"])
        ]
        self._path = folder / f"{PREFIX}{tag}"
        for path in stale_work(folder, manifest):
            if path != self._path:  # another part may be about to say what it is
                remove_tree(path)
        others = [words for path, words in under_way(folder, manifest).items() if path != self._path]
        if others:
            fix = "Finish it with the same model and flags, or remove that folder."
            raise DataError("embeddings under way", others[0], "no unfinished work of another model in this set", fix)
        self._path.mkdir(exist_ok=True)
        about = {"fingerprint": manifest.fingerprint, "text_encoder": text_encoder}
        # Not by a temporary name, which parts that start at once would take from each other.
        (self._path / ABOUT).write_text(json.dumps(about, ensure_ascii=False), encoding="utf-8")

    def rows(self, piece: Piece) -> Path:
        return self._path / f"{piece.file}.rows.npy"

    def shard(self, piece: Piece) -> Path:
        return self._path / piece.file

    def finished(self, piece: Piece) -> bool:
        return self.rows(piece).exists() and (self.shard(piece).exists() or (self.folder / piece.file).exists())

    def check_room(self, todo: list[Piece]) -> None:
        """Raises DataError where the disk has no room for these shards and an embedding of each record, twice."""
        width = self.draft.text_encoder["dim"] * stored_dtype(self.draft.text_encoder).itemsize
        sizes = [piece.entry["bytes"] + 2 * width * piece.entry["count"] for piece in todo]
        # In a bucket there is room; here one shard is made at a time.
        need = 1.05 * (max(sizes, default=0) if in_bucket(self.folder) else sum(sizes))
        free = shutil.disk_usage(tempfile.gettempdir() if in_bucket(self.folder) else self.folder).free
        if free < need:
            expected = f"{need / 2**30:.1f} GiB, for a copy of the shards and, twice, one embedding for each record"
            raise DataError("free disk", f"{free / 2**30:.1f} GiB", expected, "Make room, or use a larger disk.")

    def swap_in(self) -> Manifest:
        """Moves the new shards in, replaces the manifest, removes the old shards and this folder."""
        for piece in self.pieces:
            if not (self.folder / piece.file).exists():
                self.shard(piece).replace(self.folder / piece.file)
        sizes = file_sizes(self.folder)
        splits = {split: {**entry, "shards": []} for split, entry in self.draft.splits.items()}
        for piece in self.pieces:
            about = {"bytes": sizes[piece.file], "sha256": file_checksum(self.folder / piece.file)}
            splits[piece.split]["shards"].append(piece.entry | {"file": piece.file} | about)
        manifest = dataclasses.replace(self.draft, splits=splits).with_fingerprint()
        text = manifest_text(manifest)
        atomic_write(self.folder / MANIFEST, lambda path: path.write_text(text, encoding="utf-8"))
        remove(leftovers(self.folder, manifest))
        return manifest

    def remove(self) -> None:
        remove_tree(self._path)


def under_way(folder: Path, manifest: Manifest) -> dict[Path, str]:
    """Work folder -> whose embeddings it is for, of all unfinished work on this set."""
    return {
        path: "{name}, template {template!r}, {stored}, in ".format(**about["text_encoder"]) + str(path)
        for path, about in _work(folder).items()
        if about.get("fingerprint") == manifest.fingerprint
    }


def stale_work(folder: Path, manifest: Manifest) -> list[Path]:
    """Work folders that are of no use: for a set that has changed since, or half removed."""
    return [path for path, about in _work(folder).items() if about.get("fingerprint") != manifest.fingerprint]


def leftovers(folder: Path, manifest: Manifest) -> list[Path]:
    """What a call that was killed after all was done left to remove: earlier shards, then its work folder."""
    listed = {shard["file"] for entry in manifest.splits.values() for shard in entry["shards"]}
    places = {TAGGED.sub("", name) for name in listed}
    busy = {path.name.removeprefix(PREFIX) for path in under_way(folder, manifest)}  # it may have begun to move in
    shards = [
        path
        for path in folder.glob("*.arrayrecord")
        if path.name not in listed and TAGGED.sub("", path.name) in places and TAGGED.search(path.name)[1] not in busy
    ]
    return shards + stale_work(folder, manifest)


def remove(paths: list[Path]) -> None:
    for path in paths:
        remove_tree(path) if path.name.startswith(PREFIX) else path.unlink()


def _work(folder: Path) -> dict[Path, dict]:
    """Work folder -> its about.json, {} where there is none."""
    found = {}
    for path in folder.glob(f"{PREFIX}*"):
        try:
            found[path] = json.loads((path / ABOUT).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            found[path] = {}
    return found


# One process at a time embeds the captions of a set, or each of its parts.


LOCKS = ".embedding"  # in the set; work has other names, .embed-TAG


@contextlib.contextmanager
def alone(folder: Path, part: tuple[int, int] | None) -> Iterator[None]:
    """Holds the set, or one part of it, for the time of the block.

    Each process takes its own lock and then checks the others: of two at once, one sees the other.

    Raises DataError, which says who is at work on the same shards.
    """
    locks = folder / LOCKS
    mine = "whole" if part is None else f"{part[0]}-of-{part[1]}"
    welcome = "whole" if part is None else f"-of-{part[1]}"  # parts of one n have no shard in common
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(_hold(locks / mine))
            for other in locks.glob("*"):
                if not other.name.endswith(welcome):
                    with _hold(other):
                        pass
        except CheckpointError as error:
            raise DataError("--set", str(folder), error.expected, error.fix) from None
        try:
            yield
        finally:
            if part is None and not in_bucket(folder):  # in a bucket they are gone with their holders
                remove_tree(locks)


def _hold(place: Path):
    return leased(place, "--set") if in_bucket(place) else locked(place, "--set")


# Embeddings that were computed before, by their text: on disk, with only a digest of each text in memory.


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
        except (ValueError, EOFError, SyntaxError, OverflowError, RecursionError, MemoryError) as error:
            table, found = None, str(error)
        if found != str(self.dtype):
            raise DataError(f"rows in {path}", found, str(self.dtype), f"Remove {path.parent} and start again.")
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
