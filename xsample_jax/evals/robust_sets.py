"""The test sets of ImageNet classifiers in their official layouts, and which of the 1,000 classes are right for each.

Every set comes down to one rule: the class that a 1,000-way probe predicts (among `candidates`) is right for an image
or it is not. Tables of classes: `imagenet/` (sources in its SOURCE.md).
"""

import collections
import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from itertools import chain
from pathlib import Path

import numpy as np

from xsample_jax.data.class_texts import imagenet_rows, read_classes
from xsample_jax.data.dataset import Dataset
from xsample_jax.data.decode import open_image, square
from xsample_jax.data.records import MANIFEST, open_records, read_manifest
from xsample_jax.distributed import log_info
from xsample_jax.errors import DataError, did_you_mean
from xsample_jax.prepare.example import IMAGE_SUFFIXES

# Images in files as examples: image, id, label, by index; what data.pipeline reads from records.


@dataclasses.dataclass(frozen=True)
class ImageFiles:
    """Random access to decoded images, uint8 [size, size, 3]: short side resized, center square.

    border: pixels that are cut off all around first, at the size of the file.
    """

    paths: Sequence[Path]
    size: int
    border: int = 0

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (self.size, self.size, 3)

    def drawn_or_next(self, index: int, draw: None, image: np.ndarray) -> tuple[dict[str, np.ndarray], bool]:
        """As that of `data.pipeline.Examples`: the image goes to `image`. None is ever left out."""
        path = self.paths[index]
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DataError("image", str(path), f"a file that can be read ({error.strerror})") from error
        # A border is counted in pixels of the file: no shrinking while it is decoded.
        pixels = open_image(data, self.size if not self.border else 2**16, str(path), reuse=True)
        if self.border:
            if min(pixels.shape[:2]) <= 2 * self.border:
                sides = " x ".join(map(str, pixels.shape[1::-1]))
                raise DataError(f"image {path}", sides, f"more than its border of {self.border} pixels all around")
            pixels = pixels[self.border : -self.border, self.border : -self.border]
        square(pixels, self.size, 3, image)
        return {"id": np.int32(index), "label": np.int32(-1)}, True


def images_in(folders: Iterable[Path]) -> tuple[list[Path], np.ndarray]:
    """The images directly inside each folder, sorted by name, and the number of their folder, int [n].

    What has the name of an image and is none is left out, and said: hidden files, as macOS puts them into archives,
    links to nothing, folders.
    """
    paths, numbers, left_out = [], [], collections.Counter()
    for number, folder in enumerate(folders):
        for path in _inside(folder):
            if path.suffix[1:].lower() not in IMAGE_SUFFIXES:
                continue
            if path.name.startswith(".") or not path.is_file():
                left_out[folder.parent, "hidden files" if path.name.startswith(".") else "names without a file"] += 1
                continue
            paths.append(path)
            numbers.append(number)
    for (parent, kind), count in left_out.items():
        log_info(f"{parent}: {count} {kind} left out")
    return paths, np.array(numbers, int)


def subfolders(folder: Path) -> list[Path]:
    """The folders directly inside a folder, sorted by name, without hidden ones and __MACOSX, which it reports."""
    found = [path for path in _inside(folder) if path.is_dir()]
    shown = [path for path in found if not path.name.startswith(".") and path.name != "__MACOSX"]
    if len(shown) < len(found):
        log_info(f"{folder}: {len(found) - len(shown)} hidden folders left out")
    return shown


def _inside(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"folder {folder}", error.strerror, "a folder that can be listed") from error


def class_in(text: str, count: int) -> int | None:
    """The number below `count` that a text is, in the digits 0 to 9; None for any other text."""
    return int(text) if re.fullmatch("[0-9]+", text) and int(text) < count else None


CLASSES = 1000
TABLES = Path(__file__).parent / "imagenet"
VARIANTS = ("original", "mixed_same", "mixed_rand", "mixed_next", "only_fg", "no_fg", "only_bg_b", "only_bg_t")
REAL = ("real.json", "reassessed-imagenet/real.json")


@dataclasses.dataclass(frozen=True)
class Images:
    """The images of a set.

    Attributes:
      opened: (side in pixels) -> the n examples, by index.
      group: int [n]; right: bool [groups, 1000], the classes that are right for an image of that group. An image for
        which none is does not count.
      candidates: int, the classes among which a probe chooses.
    """

    opened: Callable[[int], Sequence]
    group: np.ndarray
    right: np.ndarray
    candidates: np.ndarray = dataclasses.field(default_factory=lambda: np.arange(CLASSES))


@dataclasses.dataclass(frozen=True)
class RobustSet:
    """Attributes:
    places: folders below that of all sets; the first that exists counts.
    lister: the images of that place; images of one place are the same, in the same order, for all sets.
    page: where to get it; layout: its files once unpacked.
    count: images of the official set.
    whole: the protocol shows the whole image, whatever the view of other sets.
    """

    places: tuple[str, ...]
    lister: Callable[[Path], Images]
    page: str
    layout: str
    count: int
    whole: bool = False

    def find(self, root: Path) -> Path | None:
        """The folder of the set, or None."""
        return next((root / place for place in self.places if (root / place).is_dir()), None)

    def listed(self, folder: Path) -> Images:
        """The images in the folder of the set; DataError for a folder that is not as it should be, or empty."""
        images = self.lister(folder)
        if not len(images.group):
            raise DataError(f"images in {folder}", 0, "at least one", f"Unpack the set as {self.layout}.")
        if not images.right[images.group].any():
            raise DataError(f"images with a label in {folder}", 0, f"at least one, of {len(images.group)} images")
        return images


def files(paths: Sequence[Path], border: int = 0) -> Callable[[int], ImageFiles]:
    """Opens images in files, without a border of that many pixels."""
    return lambda size: ImageFiles(paths, size, border)


@cache
def table(name: str) -> dict:
    """A table of classes that ships with the package."""
    return json.loads((TABLES / f"{name}.json").read_text())


def one_hot(classes: Sequence[Sequence[int]]) -> np.ndarray:
    """bool [groups, 1000] of the classes of each group."""
    right = np.zeros((len(classes), CLASSES), bool)
    for row, of_group in zip(right, classes, strict=True):
        row[list(of_group)] = True
    return right


def by_wordnet_id(folder: Path, subset: str | None = None) -> Images:
    """Folders named by WordNet ids, as ImageNet's, or a dataset; `subset`: the table of the classes there are."""
    if (folder / MANIFEST).exists():
        return by_records(folder, subset)
    number = {wordnet_id: index for index, (wordnet_id, _) in enumerate(read_classes())}
    candidates = np.arange(CLASSES) if subset is None else np.array(table("subsets")[subset])
    folders = subfolders(folder)
    for path in folders:
        if number.get(path.name) not in candidates:
            known = [wordnet_id for wordnet_id, index in number.items() if index in candidates]
            expected = f"WordNet ids of the {len(candidates)} classes as names of the folders"
            raise DataError(f"folder {path}", path.name, expected, did_you_mean(path.name, known)[:200])
    paths, place = images_in(folders)
    return Images(files(paths), place, one_hot([[number[path.name]] for path in folders]), candidates)


def imagenet_numbers(class_names: Sequence[str]) -> np.ndarray | None:
    """ImageNet's number of every class of a dataset, int [classes]; None when one of them is not an ImageNet class.

    Names are WordNet ids, or English names in any case, with spaces or underscores.
    """
    numbers = imagenet_rows(class_names)
    return None if numbers is None else np.array(numbers)


def by_records(folder: Path, subset: str | None = None) -> Images:
    """A dataset whose classes are ImageNet's, as `tools.prepare` makes one of TFDS' imagenet_v2, imagenet_a, ..."""
    manifest = read_manifest(folder)
    numbers = imagenet_numbers(manifest.class_names)
    if numbers is None or len(manifest.splits) != 1:
        raise DataError(f"dataset {folder}", list(manifest.splits), "one split, with the classes of ImageNet")
    source = open_records(folder, next(iter(manifest.splits)))
    candidates = np.arange(CLASSES) if subset is None else np.array(table("subsets")[subset])
    labels = np.array([source[index]["label"] for index in range(len(source))])
    for label in np.unique(labels[labels >= 0]):
        if numbers[label] not in candidates:
            expected = f"labels of the {len(candidates)} classes of {subset} only"
            raise DataError(f"dataset {folder}", manifest.class_names[label], expected)
    right = one_hot([*([number] for number in numbers), []])  # the last row is that of -1, no label: it does not count
    return Images(lambda size: Dataset(source, size, "first"), labels, right, candidates)


def by_number(folder: Path) -> Images:
    """Folders named by the number of the class, 0 to 999 (ImageNet-V2), or a dataset."""
    if (folder / MANIFEST).exists():
        return by_records(folder)
    folders = subfolders(folder)
    for path in folders:
        if class_in(path.name, CLASSES) is None:
            raise DataError(f"folder {path}", path.name, "0 to 999, the number of the class")
    paths, place = images_in(folders)
    return Images(files(paths), place, one_hot([[int(path.name)] for path in folders]))


def reassessed(folder: Path) -> Images:
    """The validation images with the labels of real.json; those without one do not count, as its README says.

    Its list number i belongs to ILSVRC2012_val_0000000<i + 1>: the file names say which.
    """
    if (folder / MANIFEST).exists():
        expected = "files ILSVRC2012_val_*.JPEG in folders, as records do not keep the names by which ReaL goes"
        raise DataError(f"images in {folder}", "a dataset", expected)
    root = folder.parent.parent
    file = next((root / place for place in REAL if (root / place).is_file()), None)
    if file is None:
        fix = "Get it from https://github.com/google-research/reassessed-imagenet."
        raise DataError("ImageNet-ReaL", str(root / REAL[0]), "the list of labels, 50,000 lists in one", fix)
    try:
        labels = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(labels, list) or not all(isinstance(of_image, list) for of_image in labels):
            raise ValueError("it is another value")
        if wrong := [number for number in chain(*labels) if type(number) is not int or not 0 <= number < CLASSES]:
            raise ValueError(f"{wrong[0]!r} is no class")
    except (OSError, ValueError, RecursionError) as error:
        expected = f"a list of lists of classes, 0 to {CLASSES - 1}, as JSON ({error})"
        raise DataError("ImageNet-ReaL", str(file), expected) from error
    paths, _ = images_in(subfolders(folder))
    right = []
    for path in paths:
        match = re.fullmatch(r"ILSVRC2012_val_([0-9]{8})", path.stem)
        if not match or not 1 <= int(match[1]) <= len(labels):
            raise DataError(f"image {path}", path.stem, f"ILSVRC2012_val_ and a number up to {len(labels):08d}")
        right.append(labels[int(match[1]) - 1])
    return Images(files(paths), np.arange(len(paths)), one_hot(right))


def of_imagenet9(folder: Path) -> Images:
    """Folders 00_dog to 08_fish; a prediction counts by its superclass, one of no superclass is wrong."""
    classes = list(table("imagenet9").values())
    folders = subfolders(folder)
    for path in folders:
        if class_in(path.name[:2], len(classes)) is None:
            raise DataError(f"folder {path}", path.name, "00_dog to 08_fish")
    paths, place = images_in(folders)
    return Images(files(paths), place, one_hot([classes[int(path.name[:2])] for path in folders]))


def of_objectnet(folder: Path, among_113: bool = False) -> Images:
    """The 113 of the 313 folders that ImageNet has classes for; the red border of two pixels is cut off.

    Predictions are 1,000-way and mapped, as in the official code; `among_113`: only classes that map to one of the 113.
    """
    classes: Mapping[str, Sequence[int]] = table("objectnet")
    folders = [path for path in subfolders(folder) if path.name in classes]
    paths, place = images_in(folders)
    candidates = np.unique(np.concatenate(list(classes.values()))) if among_113 else np.arange(CLASSES)
    return Images(files(paths, border=2), place, one_hot([classes[path.name] for path in folders]), candidates)


_IMAGENET = ("imagenet/val", "imagenet/validation")
_OBJECTNET = ("objectnet-1.0/images", "objectnet/images")
_VALIDATION = "imagenet/val/<WordNet id>/ILSVRC2012_val_*.JPEG"
_IMAGENET_PAGE = "https://image-net.org/download-images.php"
_V2 = "imagenetv2-matched-frequency-format-val"
_IMAGENET_9_PAGE = "https://github.com/MadryLab/backgrounds_challenge"

SETS: dict[str, RobustSet] = {
    "imagenet": RobustSet(_IMAGENET, by_wordnet_id, _IMAGENET_PAGE, _VALIDATION, 50_000),
    "imagenet-real": RobustSet(
        _IMAGENET,
        reassessed,
        "https://github.com/google-research/reassessed-imagenet",
        f"real.json beside {_VALIDATION}",
        46_837,
    ),
    "imagenet-v2": RobustSet(
        (_V2, "imagenet-v2"),
        by_number,
        "https://github.com/modestyachts/ImageNetV2",
        f"{_V2}/<0 to 999>/*.jpeg",
        10_000,
    ),
    "imagenet-a": RobustSet(
        ("imagenet-a",),
        partial(by_wordnet_id, subset="imagenet-a"),
        "https://github.com/hendrycks/natural-adv-examples",
        "imagenet-a/<WordNet id>/*.jpg",
        7_500,
    ),
    "imagenet-r": RobustSet(
        ("imagenet-r",),
        partial(by_wordnet_id, subset="imagenet-r"),
        "https://github.com/hendrycks/imagenet-r",
        "imagenet-r/<WordNet id>/*.jpg",
        30_000,
    ),
    "imagenet-sketch": RobustSet(
        ("sketch", "imagenet-sketch"),
        by_wordnet_id,
        "https://github.com/HaohanWang/ImageNet-Sketch",
        "sketch/<WordNet id>/*.JPEG",
        50_889,
    ),
    **{
        f"imagenet-9/{variant}": RobustSet(
            (f"bg_challenge/{variant}/val", f"imagenet-9/{variant}/val"),
            of_imagenet9,
            _IMAGENET_9_PAGE,
            f"bg_challenge/{variant}/val/<00_dog to 08_fish>/*",
            4_050,
            whole=True,
        )
        for variant in VARIANTS
    },
    "objectnet": RobustSet(
        _OBJECTNET, of_objectnet, "https://objectnet.dev", "objectnet-1.0/images/<object>/*.png", 18_574, whole=True
    ),
    "objectnet-113": RobustSet(
        _OBJECTNET,
        partial(of_objectnet, among_113=True),
        "https://objectnet.dev",
        "objectnet-1.0/images/<object>/*.png",
        18_574,
        whole=True,
    ),
}
