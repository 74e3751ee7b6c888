"""Frozen embeddings of the class texts of a dataset: its own file, or those of ImageNet in the package."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from xsample_jax.data.records import file_checksum, unit_rows
from xsample_jax.data.sources import readable
from xsample_jax.distributed import log_info
from xsample_jax.errors import DataError
from xsample_jax.io.files import load_arrays
from xsample_jax.metrics.progress_bar import progress

# The class texts of ImageNet-1k and their embeddings, shipped with the package.
#
# With them the class_text graph of the X-CLR paper needs no text model. Sources and licenses: `imagenet/SOURCE.md`.


FOLDER = Path(__file__).parent / "imagenet"
TEMPLATE = "a photo of a {caption}"  # of the paper
FILES = ("classes.tsv", "class_embeddings.npy")


def read_classes(folder: Path = FOLDER) -> list[tuple[str, str]]:
    """(WordNet id, name) of the 1,000 classes, by id: index = the usual label."""
    lines = (folder / "classes.tsv").read_text(encoding="utf-8").splitlines()
    return [tuple(line.split("\t")) for line in lines]


def spelled_out(class_names: Sequence[str]) -> list[str]:
    """Class names as words: underscores, as in folder names, become spaces.

    Where all are WordNet ids of ImageNet, they are the names of these classes.
    """
    names = dict(read_classes())
    found = [names[name] for name in class_names] if names.keys() >= set(class_names) else class_names
    return [" ".join(name.replace("_", " ").split()) or name for name in found]


def read_embeddings(folder: Path = FOLDER) -> np.ndarray:
    """float16 [1000, 768], unit rows in the order of `read_classes`; DataError when a file is not what was shipped."""
    about = json.loads((folder / "about.json").read_text())
    for name in FILES:
        if file_checksum(folder / name) != about["sha256"][name]:
            fix = "Install the package again, or rebuild it with scripts.build_class_texts."
            raise DataError(f"SHA-256 of {folder / name}", file_checksum(folder / name), about["sha256"][name], fix)
    return np.load(folder / "class_embeddings.npy")


def imagenet_text_encoder(folder: Path = FOLDER) -> dict:
    """The sentence encoder of `read_embeddings`, as manifests describe one."""
    return json.loads((folder / "about.json").read_text())["text_encoder"]


def imagenet_class_embeddings(class_names: Sequence[str]) -> np.ndarray | None:
    """Embeddings for the classes of a set [classes, 768], or None when one of them is not an ImageNet class.

    Args:
      class_names: WordNet ids or names (in any case), all 1,000 or some of them, in any order.
    """
    rows = imagenet_rows(class_names)
    return None if rows is None else read_embeddings()[rows]


def imagenet_rows(class_names: Sequence[str]) -> list[int] | None:
    """The place in `read_classes` of every class; names as for `imagenet_class_embeddings`, None as there."""
    row = {}
    for index, (wordnet_id, name) in enumerate(read_classes()):
        row.setdefault(name.lower(), index)
        row[wordnet_id] = index
    rows = [row.get(name.lower(), row.get(name.lower().replace("_", " "))) for name in class_names]
    return None if None in rows or not rows else rows


FILE, ABOUT = "class_embeddings.npy", "class_embeddings.json"
EMBED_AGAIN = "Embed the classes again with `python -m xsample_jax.tools.embed --what=classes`."


def class_text_encoder(folder: pathlib.Path, source) -> Mapping:
    """The `text_encoder` of what `class_name_embeddings` returns; {} where no file says so."""
    if (folder / FILE).exists():
        about = folder / ABOUT
        return _about(about, "text_encoder", dict) if about.exists() else {}
    return imagenet_text_encoder() if imagenet_class_embeddings(source.manifest.class_names) is not None else {}


def class_name_embeddings(folder: pathlib.Path, source) -> np.ndarray | None:
    """Frozen embeddings that were made from the class names alone, float16 [classes, E]; None where there are none.

    They are class_embeddings.npy of the dataset; else, where its classes are ImageNet's, those of the package.
    Raises DataError for a file that is of other classes.
    """
    path = folder / FILE
    if path.exists():
        found, classes = load_arrays(path), len(source.manifest.class_names)
        if not isinstance(found, np.ndarray) or found.ndim != 2 or found.dtype.kind != "f":
            kind = f"{found.dtype} {found.shape}" if isinstance(found, np.ndarray) else "an archive"
            raise DataError(f"array in {path}", kind, "numbers [classes, width]", EMBED_AGAIN)
        if len(found) != classes:
            expected = f"{classes}, one for each class that is trained on"
            raise DataError(
                f"rows of {path}", len(found), expected, "Embed the classes again, or mix sets of the same classes."
            )
        if (folder / ABOUT).exists():
            _check_names(folder / ABOUT, source.manifest.class_names)
        return found
    return imagenet_class_embeddings(source.manifest.class_names)


def load_class_embeddings(folder: pathlib.Path, source) -> np.ndarray:
    """Frozen embeddings of the class texts, float16 [classes, E], for the class_text graph.

    They are those of `class_name_embeddings`; else the mean caption embedding of every class in the split (exact where
    all images of a class share their caption, as in the emoji set), so the split has to be one that is trained on. It
    says which unless the set has its own file.
    """
    path = folder / FILE
    made = class_name_embeddings(folder, source)
    if made is not None:
        if not path.exists():
            log_info(f"class_text graph: {len(made)} ImageNet classes, embeddings of the package")
        return made
    if source.manifest.text_encoder is None:
        raise DataError(
            "class embeddings",
            str(path),
            "that file, or caption embeddings in the records, for the class_text graph",
            "Write it with `python -m xsample_jax.tools.embed --what=classes`, or use --config.objective.graph=label.",
        )
    log_info(f"class_text graph: no {path.name} in the set, taking the mean caption embedding of every class")
    sums = np.zeros((len(source.manifest.class_names), source.manifest.text_encoder["dim"]), np.float32)
    without = set()
    places = progress(range(len(source)), "class embeddings", len(source), enabled=jax.process_index() == 0)
    for record in readable(source, places):  # training meets the others too, and does as data.on_error says
        if record["label"] >= 0 and record["caption_embeddings"] is not None:
            sums[record["label"]] += record["caption_embeddings"][0]
        elif record["label"] >= 0:
            without.add(record["label"])
    lacking = sorted(label for label in without if not sums[label].any())
    if lacking:
        raise DataError(
            f"captions of class {source.manifest.class_names[lacking[0]]!r}",
            f"none ({len(lacking)} such classes)",
            f"an embedding of every class of split {source.split}, for the class_text graph",
            "Embed the class names: `python -m xsample_jax.tools.embed --what=classes`.",
        )
    return unit_rows(sums).astype(np.float16)


def _check_names(about: pathlib.Path, expected: Sequence[str]) -> None:
    named = _about(about, "class_names", list)
    if named != list(expected):
        place = next((i for i, pair in enumerate(zip(named, expected, strict=False)) if pair[0] != pair[1]), 0)
        raise DataError(
            f"class {place} of {about}",
            named[place : place + 1],
            f"{expected[place]!r}, as in the manifest of the set",
            EMBED_AGAIN,
        )


def _about(about: pathlib.Path, key: str, kind: type):
    try:
        found = json.loads(about.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError("about", str(about), f"JSON ({str(error)[:200]})", EMBED_AGAIN) from error
    value = found.get(key) if isinstance(found, dict) else None
    if not isinstance(value, kind):
        raise DataError(f"{key} in {about}", value, f"a {kind.__name__}", EMBED_AGAIN)
    return value
