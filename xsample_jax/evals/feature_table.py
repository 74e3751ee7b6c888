"""Features of a folder of images, or of a split of a dataset, as one table: Parquet, NumPy or TSV.

Rows are computed in parts that are kept beside the table until it is complete, so that a stopped call
continues, and the table is complete or not there.
"""

import dataclasses
import hashlib
import json
import os
import shlex
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from xsample_jax.data.sources import open_source
from xsample_jax.distributed import log_info
from xsample_jax.encoder import Encoder
from xsample_jax.errors import DataError
from xsample_jax.evals.features import check_finite
from xsample_jax.io.files import KEPT, atomic_write, load_arrays, save_array
from xsample_jax.metrics.progress_bar import progress
from xsample_jax.prepare.example import IMAGE_SUFFIXES, files_below

PART = 1024  # images whose features are kept at once
SUFFIXES = (".parquet", ".npy", ".tsv")


@dataclasses.dataclass(frozen=True)
class Images:
    """What is to be encoded.

    Attributes:
      image: number of a row -> what `Encoder.encode` takes.
      columns: name -> a value for every row, beside its features.
      identity: changes where other rows, or the same in another order, are meant.
    """

    image: Callable[[int], object]
    columns: dict[str, Sequence]
    identity: str

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))


def images_in(path: Path) -> Images:
    """All images below a folder, by name, or one file. Raises DataError where there is none."""
    if path.is_dir():
        names, skipped = files_below(path, IMAGE_SUFFIXES)
        for kind, count in skipped.items():
            log_info(f"{path}: {count} {kind} left out")
    else:
        path, names = path.parent, [path.name] if path.exists() else []
    if not names:
        expected = f"a file, or a folder with images ({', '.join(sorted(IMAGE_SUFFIXES))})"
        raise DataError("--path", str(path), expected)
    about = [(name, *_size_and_time(path / name)) for name in names]
    shown = [
        os.fsencode(name).decode("utf-8", "backslashreplace") for name in names
    ]  # a column is text, names are bytes
    return Images(lambda row: path / names[row], {"name": shown}, json.dumps([str(path), about]))


def _size_and_time(file: Path) -> tuple[int, int] | tuple[()]:
    try:
        about = file.stat()
    except OSError:  # a link to nothing is a broken image, as one that does not decode
        return ()
    return about.st_size, about.st_mtime_ns


def of_other_data(data, folder: Path):
    """The section `data` of a config with the dataset in `folder` in place of its own."""
    data = data.copy_and_resolve_references().unlock()
    data.source = "vectors" if data.source == "vectors" else "records"
    data.path, data.fingerprint, data.label = str(folder), None, None  # the label is of the run's dataset
    return data


def images_of(data, split: str) -> Images:
    """The images of a split of a dataset, with id, label and first caption. Raises DataError as `open_source`."""
    source = open_source(data, split)
    columns = {"id": [], "label": [], "caption": []}
    for row in range(len(source)):
        record = source[row]
        columns["id"].append(record["id"])
        columns["label"].append(record.get("label", -1))
        columns["caption"].append((record.get("captions") or [""])[0])
    return Images(lambda row: source[row]["image"], columns, f"{source.manifest.fingerprint} {split}")


def chosen_images(data, path: Path | None, folder: Path | None, split: str) -> Images:
    """What a command was given: the images in `path`, or else a split of the dataset in `folder`, by default the one
    that the section `data` of a config names."""
    if path:
        return images_in(path)
    return images_of(of_other_data(data, folder) if folder else data, split)


def file_beside(out: Path) -> Path | None:
    """The file that a table has beside it; None for one that holds all."""
    beside = {".npy": out.with_suffix(".json"), ".tsv": out.with_name(f"{out.stem}_metadata.tsv")}
    return beside.get(out.suffix)


def check_out(out: Path) -> None:
    """Raises DataError for a file that `write_features` cannot write, or only by replacing one that is there."""
    stopped = _parts_of(out).exists()  # as it wrote its files: they are of the call with these parts
    beside = file_beside(out)
    check_table(out, SUFFIXES, beside, stopped)
    if beside and os.path.lexists(beside) and (beside.name in KEPT or not stopped):
        expected = f"another name: {beside.name} would be written too, and there is one already"
        raise DataError("--out", str(out), expected)


def check_table(out: Path, suffixes: Sequence[str], beside: Path | None = None, stopped: bool = False) -> None:
    """Raises DataError for a name without one of these suffixes, a folder that is not there, or, unless a call was
    `stopped` as it wrote it, a table that is there: it may be of another run or of other images, hours of work."""
    if out.suffix not in suffixes:
        raise DataError("--out", str(out), f"a name that ends with {' or '.join(suffixes)}")
    if not out.parent.is_dir():
        raise DataError("--out", str(out), "a file in a folder that exists", f"Make it: mkdir -p {out.parent}")
    if os.path.lexists(out) and not stopped:
        there = [str(file) for file in (out, beside) if file and os.path.lexists(file)]
        fix = f"Choose another name, or remove it: rm {shlex.join(there)}"
        raise DataError("--out", str(out), "a file that is not there yet: no table is replaced", fix)


def _parts_of(out: Path) -> Path:
    return out.with_name(f".{out.name}.parts")


def write_features(
    encoder: Encoder, images: Images, out: Path, batch_size: int = 64, skip: bool = False
) -> tuple[int, int]:
    """Writes the table; returns (rows, images that were left out).

    Parquet: the columns of `images` and `features`, a fixed-size list of float32; its metadata names the run, the step
    and the encoder.
    NumPy: float32 [rows, width], and NAME.json beside it with the other columns.
    TSV: numbers without a header, and NAME_metadata.tsv with the other columns, as TensorBoard's projector loads them.

    Args:
      out: file with one of SUFFIXES.
      skip: leave out images that cannot be read or decoded, or whose features are not finite; otherwise the first one
        ends the call.

    Raises:
      DataError: as `check_out`, an image that cannot be decoded, features that are not finite, or parts of another call
        in the way.
    """
    check_out(out)
    parts = _parts_of(out)
    _open_parts(parts, {"encoder": _digest_of(encoder), "images": _digest_of(images), "part": PART})
    starts = range(0, len(images), PART)
    for start in progress(starts, f"features for {out.name}", len(starts)):
        part = parts / f"{start}.npy"
        if not part.exists() or (not skip and load_arrays(part)[:, 0].any()):  # of a call that left images out
            rows = range(start, min(start + PART, len(images)))
            found = _encoded(encoder, images, rows, batch_size, skip)
            atomic_write(part, lambda partial, found=found: save_array(partial, found))
    features = np.concatenate([load_arrays(parts / f"{start}.npy") for start in starts])
    kept = np.flatnonzero(features[:, 0] == 0)  # 1: left out
    columns = {name: [values[row] for row in kept] for name, values in images.columns.items()}
    about = {"run": encoder.config.name, "step": encoder.step, "encoder": encoder.config.model.encoder}
    write = {".parquet": _write_parquet, ".npy": _write_numpy, ".tsv": _write_tsv}[out.suffix]
    write(out, features[kept, 1:], columns, about)
    shutil.rmtree(parts)
    return len(kept), len(features) - len(kept)


def _digest_of(what: Encoder | Images) -> str:
    if isinstance(what, Images):
        return hashlib.sha256(what.identity.encode("utf-8", "surrogateescape")).hexdigest()
    digest = hashlib.sha256(json.dumps(what.config.to_dict(), sort_keys=True, default=str).encode())
    for name, array in sorted(what.arrays.items()):
        digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _open_parts(parts: Path, what: dict) -> None:
    """The folder of parts, new or of an earlier call for the same table; DataError where it is another's."""
    about = parts / "about.json"
    if about.exists():
        try:
            found = json.loads(about.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):  # damaged: whose parts they are is not known
            found = None
        if found != what:
            expected = "parts of the same encoder and images"
            raise DataError(
                "--out", str(parts), expected, f"Remove this folder, or choose another --out: rm -r {parts}"
            )
        log_info(f"continuing: {len(list(parts.glob('*.npy')))} parts of {PART} images are there")
        return
    parts.mkdir(exist_ok=True)
    atomic_write(about, lambda partial: partial.write_text(json.dumps(what), encoding="utf-8"))


def _encoded(encoder: Encoder, images: Images, rows: Sequence[int], batch_size: int, skip: bool) -> np.ndarray:
    """float32 [rows, 1 + features], the first column 0, or 1 for an image that was left out."""
    batch = [images.image(row) for row in rows]
    names = [next(iter(images.columns.values()))[row] for row in rows]

    def encode(start: int, end: int) -> np.ndarray:
        found = encoder.encode(batch[start:end], min(batch_size, end - start))
        check_finite(found, "the images", names[start:end])
        return found

    try:
        return np.pad(encode(0, len(batch)), ((0, 0), (1, 0)))
    except DataError:
        if not skip:
            raise
    found = np.zeros((len(batch), 1 + encoder.features), np.float32)
    for place in range(len(batch)):  # one of them is broken: which?
        try:
            found[place, 1:] = encode(place, place + 1)[0]
        except DataError as error:
            log_info(f"left out: {error}")
            found[place, 0] = 1
    return found


def _write_parquet(out: Path, features: np.ndarray, columns: dict[str, list], about: dict) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(features.reshape(-1)), features.shape[1])
    table = pyarrow.table(columns | {"features": rows})
    table = table.replace_schema_metadata({"xsample_jax": json.dumps(about)})
    atomic_write(out, lambda partial: pyarrow.parquet.write_table(table, partial))


def _write_numpy(out: Path, features: np.ndarray, columns: dict[str, list], about: dict) -> None:
    text = json.dumps(about | columns, ensure_ascii=False)
    atomic_write(file_beside(out), lambda partial: partial.write_text(text, encoding="utf-8"))
    atomic_write(out, lambda partial: save_array(partial, features))


def _write_tsv(out: Path, features: np.ndarray, columns: dict[str, list], about: dict) -> None:
    names = list(columns)
    lines = ["\t".join(names)] if len(names) > 1 else []  # the projector's rule for a header
    lines += ["\t".join(" ".join(str(value).split()) or "-" for value in row) for row in zip(*columns.values())]
    text = "".join(f"{line}\n" for line in lines)
    atomic_write(file_beside(out), lambda partial: partial.write_text(text, encoding="utf-8"))
    atomic_write(out, lambda partial: np.savetxt(partial, features, "%.6g", "\t"))
