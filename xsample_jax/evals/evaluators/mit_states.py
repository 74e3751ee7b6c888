"""MIT-States: a linear layer for objects and one for attributes, trained on a random half of the pictures.

The X-CLR paper splits the set in two equal halves at random and does not publish the seed; here it is SEED. The folders
of the official archive are named "<attribute> <object>"; those called "adj <object>" hold pictures without an attribute
and are left out, which leaves 245 objects and 115 attributes.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from xsample_jax.errors import DataError, UserError
from xsample_jax.evals.bench import Bench
from xsample_jax.evals.evaluator import Evaluator
from xsample_jax.evals.image_files import ImageFiles, pictures_in, subfolders
from xsample_jax.evals.logistic import fit_logistic
from xsample_jax.evals.result import Collector

SEED = 0
PLACES = ("release_dataset/images", "mit-states/images")
PAGE = "http://web.mit.edu/phillipi/Public/states_and_transformations/index.html"
OBJECTS, ATTRIBUTES = 245, 115


def find(root: Path | None) -> Path | None:
    """The folder of the pictures below the folder of all sets, or None."""
    return next((root / place for place in PLACES if (root / place).is_dir()), None) if root else None


def check(bench: Bench) -> Iterator[UserError]:
    root = bench.options.sets
    if find(root) is None:
        expected = f"the folder with the test sets, and {PLACES[0]}/<attribute object>/*.jpg below it"
        yield DataError("--sets", root and str(root), expected, f"Get MIT-States from {PAGE}.")


def listed(folder: Path) -> tuple[list[Path], dict[str, np.ndarray], dict[str, list[str]]]:
    """(pictures, {"objects", "attributes": labels int [n]}, names of the labels)."""
    pairs = []
    for path in subfolders(folder):
        attribute, _, thing = path.name.replace("_", " ").partition(" ")
        if not thing:
            raise DataError(f"folder {path}", path.name, "an attribute, a space and an object, as 'ancient building'")
        if attribute != "adj":
            pairs.append((path, attribute, thing))
    paths, place = pictures_in(path for path, _, _ in pairs)
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


def mit_states(bench: Bench, out: Collector) -> None:
    folder = find(bench.options.sets)
    paths, labels, names = listed(folder)
    features = bench.features_of.encoded(ImageFiles(paths, bench.features_of.side()), "MIT-States").features
    train, test = halves(len(paths))
    for kind, expected in (("objects", OBJECTS), ("attributes", ATTRIBUTES)):
        if len(names[kind]) != expected:
            out.note(f"mit_states: {len(names[kind])} {kind} are here, the official set has {expected} ({PAGE})")
        probe = fit_logistic(features[train], labels[kind][train])
        correct = (probe.predict(features[test]) == labels[kind][test]).astype(np.float32)
        out.examples_of(f"mit_states/{kind}", correct, np.arange(len(test)))


MIT_STATES = Evaluator(mit_states, "objects and attributes of MIT-States, fixed halves (--sets)", check)
