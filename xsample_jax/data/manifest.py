"""The manifest.json of a record set: what the set holds, and whether its files are still that.

A manifest names splits, shards with checksums, classes, attributes and text encoder, and carries a fingerprint over all
of that. It is written last: a folder without one was never finished and does not open.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from xsample_jax.errors import DataError
from xsample_jax.storage.paths import as_path, errors_of_the_store, file_sizes, in_bucket

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a record set holds; the fields are those of manifest.json.

    Attributes:
      name: name of the set.
      splits: split -> {"count": int, "shards": [{"file", "count", "bytes", "sha256"}, ...]}.
      class_names: name of each value of `label`; empty when the set has no classes.
      attributes: attribute name -> name of each of its values.
      text_encoder: {"name", "revision", "pooling", "dim", "normalised", "template"} of the caption embeddings, or None.
      schema: version of the format.
      fingerprint: SHA-256 (hex) over all other fields; equal fingerprints mean equal bytes in every record.
    """

    name: str
    splits: dict
    class_names: tuple[str, ...] = ()
    attributes: dict = dataclasses.field(default_factory=dict)
    text_encoder: dict | None = None
    schema: int = SCHEMA_VERSION
    fingerprint: str = ""

    def with_fingerprint(self) -> "Manifest":
        """Returns the manifest with its fingerprint computed from the other fields."""
        return dataclasses.replace(self, fingerprint=_fingerprint(dataclasses.asdict(self)))


def read_manifest(folder: str | Path) -> Manifest:
    """Reads and checks `folder`/manifest.json.

    Raises:
      DataError: it is missing (the set was never finished), is not a manifest, has another schema version, or does not
        match its own fingerprint (it was edited).
    """
    path = as_path(folder) / MANIFEST
    try:
        with errors_of_the_store(path):
            fields = json.loads(path.read_text())
    except FileNotFoundError:
        fix = "Give the folder of a record set, or prepare the set again: it was not finished."
        raise DataError("manifest", str(path), "an existing file", fix) from None
    except (OSError, ValueError) as error:
        fix = "May this account read the bucket?" if in_bucket(path) else "Prepare the set again."
        raise DataError("manifest", str(path), f"readable JSON ({str(error)[:300]})", fix) from error
    if not isinstance(fields, dict) or "schema" not in fields:
        raise DataError("manifest", str(path), "the manifest of a record set", "This file belongs to something else.")
    if fields["schema"] != SCHEMA_VERSION:
        fix = "Prepare the set again with this version, or read it with the version that wrote it."
        raise DataError(f"schema in {path}", fields["schema"], f"schema {SCHEMA_VERSION}", fix)
    known = {field.name for field in dataclasses.fields(Manifest)}
    if set(fields) != known:
        wrong = sorted(set(fields) ^ known)
        raise DataError(f"fields of {path}", wrong, f"exactly {', '.join(sorted(known))}", "Prepare the set again.")
    if fields["fingerprint"] != _fingerprint(fields):
        fix = "The manifest was changed by hand: restore it, or prepare the set again."
        raise DataError(f"fingerprint in {path}", fields["fingerprint"], f"{_fingerprint(fields)} (its contents)", fix)
    return Manifest(**{**fields, "class_names": tuple(fields["class_names"])})


def verify_records(folder: str | Path) -> list[DataError]:
    """Compares every shard with the manifest: size, then SHA-256 of all bytes. Reads the whole set.

    Returns:
      One DataError per bad file (missing, truncated, changed, or not in the manifest); empty when all is well.

    Raises:
      DataError: the manifest itself is missing or wrong.
    """
    folder = as_path(folder)
    manifest = read_manifest(folder)
    sizes = file_sizes(folder)
    shards = [shard for split in manifest.splits.values() for shard in split["shards"]]
    problems = []
    for shard in shards:
        problem = wrong_size(folder, shard, sizes)
        if problem is None and file_checksum(folder / shard["file"]) != shard["sha256"]:
            fix = "The file is damaged: fetch it or prepare the set again."
            problem = DataError("shard", str(folder / shard["file"]), f"SHA-256 {shard['sha256']}", fix)
        if problem:
            problems.append(problem)
    listed = {shard["file"] for shard in shards}
    for name in sorted(sizes):
        if name.endswith(".arrayrecord") and name not in listed:
            problems.append(DataError("shard", str(folder / name), "only files that the manifest lists", "Remove it."))
    return problems


def wrong_size(folder: Path, shard: dict, sizes: Mapping[str, int]) -> DataError | None:
    """Returns the error for a shard (an entry of the manifest) that is missing or of another size, or None.

    `sizes`: of the files that are there (storage.paths.file_sizes).
    """
    size = sizes.get(shard["file"])
    if size == shard["bytes"]:
        return None
    found = "missing" if size is None else f"{size} bytes"
    fix = "The copy is not complete: fetch it or prepare the set again."
    return DataError(f"shard {folder / shard['file']}", found, f"{shard['bytes']} bytes", fix)


def file_checksum(path: str | Path) -> str:
    """Returns the SHA-256 of a file as hex digits."""
    with as_path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fingerprint(fields: dict) -> str:
    """Hash of the canonical JSON (sorted keys, no spaces) of every manifest field but the fingerprint itself."""
    rest = {key: value for key, value in fields.items() if key != "fingerprint"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
