"""One input shard to finished record files: the function that every runner runs, here or on a cluster.

It may be killed at any point and called again: files are written under temporary names and moved when complete, and the
line about them (.prepare/00012.json) comes last. A shard with that line is done.
"""

import collections
import contextlib
import hashlib
import io
import json
import math
import secrets
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from xsample_jax.data.records import READER_OPTIONS
from xsample_jax.data.writer import check_split, large_id, pack_record, shard_entry
from xsample_jax.errors import DataError
from xsample_jax.io.files import settle
from xsample_jax.io.paths import as_path, in_bucket
from xsample_jax.prepare.example import MISSING, NO_TEXT, PASSED, REMARKS, Example, Problem, number_in
from xsample_jax.prepare.job import Job, prepare_image

# Captions as records hold them: one line of valid Unicode, of bounded length.


# Text encoders read at most 512 tokens, about 2,500 characters.
MAX_LENGTH = 4_000
NEAR_EMPTY = 3
CONTROLS = {code: " " for code in (*range(0x20), *range(0x7F, 0xA0))}


def clean_captions(captions: Iterable[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Returns the captions worth keeping and (kind, detail) of each oddity.

    White space (also line breaks and control characters) becomes single spaces, what UTF-8 cannot hold becomes U+FFFD,
    empty captions go, and so do words for a missing value. A caption of more than MAX_LENGTH characters is cut at the
    last space before that. Letters of any script, emoji and right-to-left marks stay as they are.
    """
    kept, notes = [], []
    for caption in captions:
        # Through UTF-16, which surrogates are halves of: a pair of them is a letter, one alone is nothing.
        text = caption.removeprefix("\ufeff").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        if "\N{REPLACEMENT CHARACTER}" in text:
            notes.append(("not_unicode", text[:80]))
        text = " ".join(text.translate(CONTROLS).split())
        if len(text) > MAX_LENGTH:
            notes.append(("cut_caption", f"{len(text)} characters"))
            text = text[: MAX_LENGTH + 1].rpartition(" ")[0] or text[:MAX_LENGTH]
        if text in NO_TEXT:
            notes.append(("missing_caption", text))
            continue
        if not text:
            continue
        if not _says_something(text):
            notes.append(("near_empty_caption", text))
        kept.append(text)
    if not kept:
        notes.append(("no_caption", ""))
    return kept, notes


def _says_something(text: str) -> bool:
    """Letters and digits count one; an emoji or a sign of a script without an alphabet says as much as a word."""
    meaning = 0
    for letter in text:
        meaning += NEAR_EMPTY if letter >= "\u2e80" and letter != "\N{REPLACEMENT CHARACTER}" else letter.isalnum()
        if meaning >= NEAR_EMPTY:
            return True
    return False


# Which split an image belongs to: a hash of its key, so that order, machine and number of images do not matter.


def parse_splits(text: str) -> dict[str, float]:
    """Reads "train=0.98,val=0.02": split -> share; the shares sum to 1."""
    shares = {}
    for part in text.split(","):
        name, _, share = part.partition("=")
        try:
            shares[name.strip()] = float(share or 1)
        except ValueError:
            raise DataError("--splits", text, "NAME=SHARE,NAME=SHARE", "As in train=0.98,val=0.02.") from None
    for name in shares:
        check_split(name, "--splits", "As in train=0.98,val=0.02.")
    if min(shares.values()) < 0 or not math.isclose(sum(shares.values()), 1, abs_tol=1e-6):
        raise DataError("--splits", text, "shares that sum to 1", "As in train=0.98,val=0.02.")
    return shares


def split_of(hashed: int, shares: dict[str, float]) -> str:
    """Returns the split of a 64-bit hash: as a number in [0, 1), looked up in the running sum of the shares."""
    place = hashed / 2**64
    for name, share in shares.items():
        place -= share
        if place < 0:
            return name
    return name  # the shares sum to 1 up to rounding


def key_hash(key: str) -> int:
    """64-bit hash of a text, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def bytes_hash(data: bytes) -> int:
    """64-bit hash of the bytes of an image file: equal files have equal hashes."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


STATE, HASHES = ".prepare", "hashes.npz"  # hashes of keys, captions and images, for the report


def prepare_shard(job: Job, number: int, out: str) -> int:
    """Reads input shard `number` of the job, writes its records (one file per split) and its part; returns their count.

    The same job and number give the same bytes, on any machine with the same library versions.
    """
    folder, state = as_path(out), as_path(out) / STATE
    shard = job.source.shards[number]
    with _Files(job, number, folder, state) as files, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # on odd headers; what matters is whether the image decodes
        report = collections.Counter()
        problems: list[Problem] = []
        keys: set[int] = set()
        captions: list[int] = []
        images: dict[str, list[int]] = {}
        place = -1  # of an example among all, those that are dropped too; what is remarked of one has no place
        for item in shard.read():
            place += not (isinstance(item, Problem) and item.kind in REMARKS)
            record, found = _record(job, item, job.first_id(number) + place, keys)
            if found:
                problems += found
                report.update(problem.kind for problem in found)
            if record is None:
                continue
            if place >= job.ids_per_shard:
                expected = f"at most {job.ids_per_shard} examples in one of {len(job.source.shards)} input shards"
                raise DataError(f"input shard {shard.name}", place + 1, expected, "Split its files.")
            report["kept"] += 1
            report["labeled"] += record["label"] >= 0
            for change in record.pop("changes"):
                report[f"image_{change}"] += 1
            captions += map(key_hash, record["captions"])
            image_hash = bytes_hash(item.image)
            place_of = image_hash if job.split_by_image else key_hash(item.group or item.key)
            split = shard.split or split_of(place_of, job.splits)
            images.setdefault(split, []).append(image_hash)
            files.write(split, record, item.key)
        part = {"splits": files.close(), "report": dict(sorted(report.items()))}
        if not captions and not job.require_caption:  # a set of classes: one line an image would say nothing
            problems = [problem for problem in problems if problem.kind != "no_caption"]
        lines = [json.dumps([shard.name, problem.key, problem.kind, problem.detail[:200]]) for problem in problems]
        files.publish(f"{number:05d}.problems.jsonl", "".join(line + "\n" for line in lines).encode())
        hashes = {"keys": keys, "captions": captions} | {f"images-{split}": found for split, found in images.items()}
        files.publish(f"{number:05d}.{HASHES}", _npz(hashes))
        files.publish(f"{number:05d}.json", json.dumps(part).encode())
    return report["kept"]


def read_part(out: Path, number: int, sizes: Mapping[str, int]) -> dict | None:
    """Returns the part of an input shard that is done, or None: no line yet, or a file of it is gone or cut.

    `sizes`: of the files in `out` (storage.paths.file_sizes).
    """
    try:
        part = json.loads((out / STATE / f"{number:05d}.json").read_text())
        whole = all(sizes.get(entry["file"]) == entry["bytes"] for entry in part["splits"].values())
        whole &= (out / STATE / f"{number:05d}.{HASHES}").exists()
        return part if whole else None
    except (FileNotFoundError, ValueError, TypeError, LookupError, AttributeError):  # or JSON that is no part
        return None


def _record(job: Job, item: Example | Problem, id: int, keys: set[int]) -> tuple[dict | None, list[Problem]]:
    """Returns the record of an example (with its `changes` still in it), or None, and what is to be said of it."""
    if isinstance(item, Problem):
        return None, [item]
    key = key_hash(item.key)
    if key in keys:
        return None, [Problem(item.key, "duplicate_key")]
    try:
        image, changes = prepare_image(item.image, job.image)
    except DataError as error:
        return None, [Problem(item.key, "broken_image", str(error.value))]
    captions, embeddings = list(item.captions), item.caption_embeddings
    notes: list[tuple[str, str]] = []
    if embeddings is None:  # embedded captions are what was embedded, to the letter
        captions, notes = clean_captions(captions)
    if "dark_16_bit" in changes:
        changes.remove("dark_16_bit")
        notes = [("dark_16_bit", "all values below an eighth of 65535"), *notes]
    problems = [Problem(item.key, kind, detail) for kind, detail in notes]
    if not captions and job.require_caption:
        return None, problems
    keys.add(key)
    label, unknown = _label(job, item)
    problems += unknown
    record = {
        "id": id if item.id is None else item.id,
        "image": image,
        "label": label,
        "captions": captions,
        "changes": changes,
        **{name: getattr(item, name) for name in PASSED},
    }
    if embeddings is not None:
        record["caption_embeddings"] = embeddings
    return record, problems


def _label(job: Job, item: Example) -> tuple[int, list[Problem]]:
    """(number of the class, problems): a label that is not a class is left out, with -1 in its place.

    Where labels were asked for, or are names and no name of a class is known, it is an error of the command: raises
    DataError. A text like nan is then no label, unless a class has that name.
    """
    try:
        return job.label_index(item.label, item.key), []
    except DataError:
        if isinstance(item.label, str) and item.label.lower() in MISSING and "--label_field" in job.asked:
            return -1, [Problem(item.key, "missing_field", item.label)]
        word = isinstance(item.label, str) and number_in(item.label) is None
        if "--label_field" in job.asked or (word and not job.source.class_names):
            raise
        return -1, [Problem(item.key, "unknown_label", str(item.label)[:80])]


class _Files:
    """The output files of one input shard: temporary until they are whole, removed when anything goes wrong."""

    def __init__(self, job: Job, number: int, folder: Path, state: Path):
        self._job, self._number, self._folder, self._state = job, number, folder, state
        self._manifest = job.empty_manifest()
        self._writers: dict[str, ArrayRecordWriter] = {}
        self._counts: collections.Counter = collections.Counter()
        self._largest: collections.Counter = collections.Counter()
        # Runners of clusters may try a shard twice at once: each try has names of its own.
        name = f"{number:05d}-{secrets.token_hex(4)}.tmp"
        self._temporary = Path(tempfile.gettempdir()) / f"xsample_jax-{name}" if in_bucket(state) else state / name

    def __enter__(self):
        self._temporary.mkdir(parents=True)
        return self

    def __exit__(self, *error):
        for writer in self._writers.values():
            with contextlib.suppress(Exception):  # what ended the work is on its way up already
                writer.close()
        for path in self._temporary.iterdir():
            path.unlink()
        self._temporary.rmdir()

    def write(self, split: str, record: dict, key: str) -> None:
        if split not in self._writers:
            self._writers[split] = ArrayRecordWriter(str(self._temporary / split), self._job.writer_options)
        where = f"{self._job.source.shards[self._number].name}, {key}:"
        self._writers[split].write(pack_record(record, self._manifest, where))
        self._counts[split] += 1
        self._largest[split] = max(self._largest[split], record["id"])

    def close(self) -> dict:
        """Moves the finished files to their places; returns split -> entry of the manifest."""
        total = len(self._job.source.shards)
        entries = {}
        for split in sorted(self._writers):
            path, name = self._temporary / split, f"{split}-{self._number:05d}-of-{total:05d}.arrayrecord"
            try:
                self._writers[split].close()  # errors of writing show here, not earlier
                reader = ArrayRecordReader(str(path), READER_OPTIONS)
                count = reader.num_records()
                reader.close()
            except Exception as error:  # the C++ library raises bare RuntimeError
                raise _disk_error(self._folder / name, error) from error
            if count != self._counts[split]:
                raise DataError(f"records in {name}", count, f"{self._counts[split]}, as written", "Is the disk full?")
            entries[split] = shard_entry(path, count, file=name) | large_id(self._largest[split])
            try:
                settle(path, self._folder / name)
            except OSError as error:
                raise _disk_error(self._folder / name, error) from error
        self._writers.clear()
        return entries

    def publish(self, name: str, data: bytes) -> None:
        """Writes a small file of the state."""
        path = self._temporary / "part"
        try:
            path.write_bytes(data)
            settle(path, self._state / name)
        except OSError as error:
            raise _disk_error(self._state / name, error) from error


def _disk_error(path: Path, error: Exception) -> DataError:
    fix = "Make room and give the same command again: it continues with the input shards that are not done."
    return DataError(f"writing {path}", str(error)[:200], "room on the disk and the right to write", fix)


def _npz(arrays: Mapping[str, Iterable[int]]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **{name: np.fromiter(values, np.uint64) for name, values in arrays.items()})
    return buffer.getvalue()
