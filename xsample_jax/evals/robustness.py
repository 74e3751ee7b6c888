"""The robustness table: one probe of ImageNet classes, fitted to clean training images, on every test set unchanged."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from xsample_jax.errors import DataError, UserError, lookup
from xsample_jax.evals.context import PROBES, EvalContext, Evaluator
from xsample_jax.evals.labels import check_target
from xsample_jax.evals.linear_probes import LinearProbe, fit_logistic
from xsample_jax.evals.metrics import Collector, difference_of_means, majority
from xsample_jax.evals.robust_sets import (
    SETS,
    ImageFiles,
    Images,
    RobustSet,
    imagenet_numbers,
    images_in,
    subfolders,
)

GAP = ("imagenet-9/mixed_same", "imagenet-9/mixed_rand")


def check_robustness(bench: EvalContext) -> Iterator[UserError]:
    lookup(PROBES, bench.options.probe, "--probe")
    yield from check_target(bench)
    names = bench.source(bench.config.eval.train_split).manifest.class_names
    if bench.target != "label" or imagenet_numbers(names) is None:
        found = f"{len(names)} classes, as {', '.join(names[:3]) or 'none'}"
        fix = "Give a dataset of ImageNet: --config.data.source=records --config.data.path=FOLDER --target=label."
        yield DataError("classes of the probe", found, "ImageNet classes, by WordNet id or name", fix)
    root = bench.options.sets
    if root is None or not root.is_dir():
        yield DataError("--sets", root and str(root), "the folder with the test sets", "docs/evaluation.md says which.")
    elif not any(robust.find(root) for robust in SETS.values()):
        layouts = "; ".join(sorted({robust.layout for robust in SETS.values()}))
        yield DataError("--sets", str(root), f"at least one test set below it: {layouts}")


def robustness(bench: EvalContext, out: Collector) -> None:
    """Adds robustness/<set> for every set that is there, a note for every other, and ImageNet-9's background gap."""
    probe = bench.probe(bench.options.probe)
    numbers = imagenet_numbers(bench.source(bench.config.eval.train_split).manifest.class_names)
    columns = numbers[probe.classes]
    scores: dict[Path, np.ndarray | DataError] = {}
    hits: dict[str, np.ndarray] = {}
    missing: dict[str, list[str]] = {}
    for name, robust in SETS.items():
        folder = robust.find(bench.options.sets)
        if folder is None:
            missing.setdefault(robust.page, []).append(name)
            continue
        try:
            images = robust.listed(folder)
            if folder not in scores:
                scores[folder] = _scores(bench, probe, robust, folder, images)
            if isinstance(scores[folder], DataError):
                raise scores[folder]
            hits[name] = correct(scores[folder], columns, images)
        except DataError as error:  # one broken set does not stop the others
            out.note(f"{name}: {error}")
            continue
        _count(out, name, robust, len(hits[name]))
        unit, chance = np.arange(len(hits[name])), constant_guess(columns, images)
        allowed = int(np.isin(columns, images.candidates).sum())
        out.add_per_example(f"robustness/{name}", hits[name], unit, classes=allowed, chance=chance)
        if name == GAP[1] and GAP[0] in hits:
            gap = difference_of_means(hits[GAP[0]], hits[name])
            out.add_per_example("robustness/imagenet-9/gap", gap, np.arange(len(gap)), chance=0.0)
    for page, names in missing.items():
        layout = SETS[names[0]].layout
        out.note(f"{', '.join(names)}: not in {bench.options.sets}; get it from {page} and unpack it as {layout}")


def _scores(
    bench: EvalContext, probe: LinearProbe, robust: RobustSet, folder: Path, images: Images
) -> np.ndarray | DataError:
    """Scores of the n images of a folder, [n, K].

    The DataError of images that cannot be read is returned: the next set of the same folder does not try again.
    """
    try:
        examples = images.opened(bench.features_of.side(whole=robust.whole))
        features = bench.features_of.encoded(examples, str(folder.relative_to(bench.options.sets)), robust.whole)
    except DataError as error:
        return error
    return probe.scores(features.features)


def correct(scores: np.ndarray, columns: np.ndarray, images) -> np.ndarray:
    """Whether the best candidate is right, float32 [m], for the m images that have a right class.

    scores: [n, K], column j for the ImageNet class columns[j].
    """
    allowed = np.isin(columns, images.candidates)
    if not allowed.any():
        raise DataError("classes of the probe", len(columns), "some of the classes that this set is about")
    predicted = columns[allowed][scores[:, allowed].argmax(axis=1)]
    counted = images.right.any(axis=1)[images.group]
    return images.right[images.group, predicted][counted].astype(np.float32)


def constant_guess(columns: np.ndarray, images: Images) -> float:
    """Accuracy of the best single class for all images: the majority class, for several right ones an image too."""
    allowed = columns[np.isin(columns, images.candidates)]
    counted = images.right.any(axis=1)[images.group]
    count = np.bincount(images.group[counted], minlength=len(images.right)).astype(np.float32)
    return float((count @ images.right[:, allowed]).max() / max(count.sum(), 1))


def _count(out: Collector, name: str, robust: RobustSet, found: int) -> None:
    if found != robust.count:
        out.note(f"{name}: {found:,} images are here, the official set has {robust.count:,}")


ROBUSTNESS = Evaluator(
    robustness,
    "ImageNet, ReaL, V2, A, R, Sketch, ImageNet-9 and its gap, ObjectNet, by one probe (--sets)",
    check_robustness,
    ("robustness/<set>",),
)


# MIT-States: a linear layer for objects and one for attributes, trained on a random half of the images.
#
# The X-CLR paper splits the set in two equal halves at random and does not publish the seed; here it is SEED. The
# folders of the official archive are named "<attribute> <object>"; those called "adj <object>" hold images without
# an attribute and are left out, which leaves 245 objects and 115 attributes.


SEED = 0
PLACES = ("release_dataset/images", "mit-states/images")
PAGE = "http://web.mit.edu/phillipi/Public/states_and_transformations/index.html"
OBJECTS, ATTRIBUTES = 245, 115


def find(root: Path | None) -> Path | None:
    """The folder of the images below the folder of all sets, or None."""
    return next((root / place for place in PLACES if (root / place).is_dir()), None) if root else None


def check_mit_states(bench: EvalContext) -> Iterator[UserError]:
    root = bench.options.sets
    if find(root) is None:
        expected = f"the folder with the test sets, and {PLACES[0]}/<attribute object>/*.jpg below it"
        yield DataError("--sets", root and str(root), expected, f"Get MIT-States from {PAGE}.")


def listed(folder: Path) -> tuple[list[Path], dict[str, np.ndarray], dict[str, list[str]]]:
    """(images, {"objects", "attributes": labels int [n]}, names of the labels)."""
    pairs = []
    for path in subfolders(folder):
        attribute, _, thing = " ".join(path.name.replace("_", " ").split()).partition(" ")
        if not thing:
            raise DataError(f"folder {path}", path.name, "an attribute, a space and an object, as 'ancient building'")
        if attribute != "adj":
            pairs.append((path, attribute, thing))
    paths, place = images_in(path for path, _, _ in pairs)
    labels, names = {}, {}
    for column, kind in ((1, "attributes"), (2, "objects")):
        words, number = np.unique([pair[column] for pair in pairs], return_inverse=True)
        labels[kind], names[kind] = number[place], words.tolist()
    return paths, labels, names


def halves(count: int, seed: int = SEED) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of the two halves, of which the first has the odd one."""
    order = np.random.default_rng(seed).permutation(count)
    middle = (count + 1) // 2
    return np.sort(order[:middle]), np.sort(order[middle:])


def mit_states(bench: EvalContext, out: Collector) -> None:
    folder = find(bench.options.sets)
    paths, labels, names = listed(folder)
    if len(paths) < 2:
        expected = "at least two, one to learn from and one to test on"
        raise DataError(f"images with an attribute below {folder}", len(paths), expected)
    features = bench.features_of.encoded(ImageFiles(paths, bench.features_of.side()), "MIT-States").features
    train, test = halves(len(paths))
    for kind, expected in (("objects", OBJECTS), ("attributes", ATTRIBUTES)):
        if len(names[kind]) != expected:
            out.note(f"mit_states: {len(names[kind])} {kind} are here, the official set has {expected} ({PAGE})")
        probe = fit_logistic(features[train], labels[kind][train])
        correct = (probe.predict(features[test]) == labels[kind][test]).astype(np.float32)
        chance = majority(labels[kind][test], among=probe.classes)
        out.add_per_example(
            f"mit_states/{kind}", correct, np.arange(len(test)), classes=len(probe.classes), chance=chance
        )


MIT_STATES = Evaluator(
    mit_states,
    "objects and attributes of MIT-States: a linear layer each, fixed halves (--sets)",
    check_mit_states,
    ("mit_states/objects", "mit_states/attributes"),
)
