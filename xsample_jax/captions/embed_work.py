"""The work folder of a set that is being embedded: what is finished waits there until all of it moves in at once.

It is SET/.embed-TAG, where TAG stands for the set as it is and for the text encoder. It holds about.json, which says
that in words, and for each shard SHARD.rows.npy (embeddings of the captions that no earlier shard had) and the new
shard. Both are written under a temporary name and renamed, so what has its name is whole. At the end the new shards
move in under new names, the manifest is replaced in one step, the old shards go, and the folder goes last: at every
moment the set opens, first as the old one and then as the new one.
"""

import dataclasses
import hashlib
import json
import re
import shutil
import tempfile
from pathlib import Path

from xsample_jax.data.embedding_rows import stored_dtype
from xsample_jax.data.manifest import MANIFEST, Manifest, file_checksum
from xsample_jax.data.record_writer import manifest_text
from xsample_jax.data.whole_file import write_whole
from xsample_jax.errors import DataError
from xsample_jax.storage.paths import file_sizes, in_bucket, remove_tree

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
        write_whole(self.folder / MANIFEST, lambda path: path.write_text(text, encoding="utf-8"))
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
